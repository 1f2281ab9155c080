"""Where rows come from, one module a kind of source; `declared` has what a use case writes.

The front door is `bringing.listing`: every source as days of files on this disk.
"""
