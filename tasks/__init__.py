"""Stages of a night as Prefect tasks: each retries only what is transient, and resumes from its kept handle."""
