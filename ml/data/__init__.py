"""From a source's bytes to rows that are ready for training.

In the order of a night: `sources` lists partitions and brings those that lie elsewhere; `snapshots` says which are used
on a date; `reading` makes rows of bytes, `joins` and `derived` complete them; `validation` judges a partition and
`meaning` compares it with the days before; `cleaning` leaves what is learnt from; `split` parts it; `statistics` fits
the encoder. What a use case says about its data is `dataset.Dataset`; what stages hand on stands in `handles`.
"""
