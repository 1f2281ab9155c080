"""One file a use case; each defines USE_CASE."""
