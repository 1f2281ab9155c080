"""Where rows come from: one module per kind of source.

The front door is `bringing.listing`. It shows every source, whatever its kind, as days with files on this disk.
"""
