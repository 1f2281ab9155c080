"""How each kind of model answers: one module a kind, which travels inside its versions."""
