"""The stages of a night as plain functions, and the keys under which their results are kept. It knows no Prefect."""
