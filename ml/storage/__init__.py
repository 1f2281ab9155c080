"""Bytes and truth: the store, what is kept in it, the ledger, the registry, and this machine's locks.

The front doors are `store.open_store`, `ledger.Ledger` and `registry.Registry`; every key of the store is spelt in
`paths`. Records that storage keeps (`records`) are types of this package.
"""
