"""The example use cases, one in each file. Each file defines USE_CASE and imports only from `ml` itself."""
