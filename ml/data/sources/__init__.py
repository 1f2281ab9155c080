"""Where rows come from, one module a kind of source.

The front door is `bringing.listing`: every source as days of files on this disk.
"""
