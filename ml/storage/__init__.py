"""Everything that outlives a process: the store, the results kept in it, the ledger, MLflow's registry, and locks.

The front doors are `store.open_store`, `ledger.Ledger` and `registry.Registry`. Every key of the store is spelled in
`paths`. The dataclasses that are stored as they are stand in `records`.
"""
