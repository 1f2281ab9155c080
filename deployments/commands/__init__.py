"""One module a command: what it is given on the command line becomes a call, and what came of it becomes lines."""
