"""From a source's bytes to rows that are ready for training.

In the order of a night: `sources` lists partitions and copies those that lie elsewhere. `snapshots` says which of them
are used on a date. `reading` makes rows of bytes; `derived` and `joins` complete them. `validation` judges a partition,
and `meaning` compares it with the days before. `cleaning` leaves the rows that are learnt from, `split` divides them
into train, validation and test, and `statistics` sums up each part.

What a use case says about its data is a `dataset.Dataset`. What the stages hand on to each other stands in `handles`.
"""
