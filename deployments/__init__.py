"""How nights are started: the command line (`cli`, `commands`), and what Prefect serves (`prefect`).

Nothing here decides what a night does.
"""
