"""The commands, one module each: it turns options into calls of the packages below, and results into printed lines."""
