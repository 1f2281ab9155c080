"""Networks over embedded columns, several trained at once: what they learn from, their layers, and the loop."""
