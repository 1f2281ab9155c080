"""A flow is one page: the order of the stages."""
