"""`retrain up`: the options of the command; what it does is in deployments/prefect/up.py."""

import argparse

from deployments.terminal import home_settings


def up(options: argparse.Namespace) -> int:
    """Runs the servers with their pages, and the schedules, until Ctrl-C."""
    settings = home_settings()
    from deployments.prefect.up import run_up, serving_of

    serving = serving_of(options.work_pool)
    return run_up(settings, options.prefect_port, options.mlflow_port, serving=serving)
