"""The stages of a night as plain functions, and the keys under which their results are kept.

The front door is `site.open_site`: every stage takes the `Site` that it returns. Each module has one stage or what
several stages share. Nothing here imports Prefect; the tasks that call these functions do.
"""
