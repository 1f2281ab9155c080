"""The stages of a night as Prefect tasks. Each makes one call into ml/pipeline and logs the result in a line.

A task is retried only if the store, the registry or a server was unavailable. It resumes from what it had kept.
"""
