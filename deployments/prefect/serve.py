"""All deployments with their schedules, and the process that serves them, which is a child of `retrain up`."""

import logging
import sys
from copy import deepcopy

from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron

from flows.backfill import backfill
from flows.retrain import retrain
from ml.errors import ConfigError
from ml.reporting.escaping import literal
from ml.settings import Settings
from ml.use_case.loading import load_use_case, use_case_files

log = logging.getLogger("retrain.serve")
BACKFILL = "Runs many dates of a use case, each with only what was known then. The champion stays, unless asked."
ACTIVE_RUNS = 1  # nights at a time: two would share the machine's cores, or its GPU


def deployments(settings: Settings) -> list[RunnerDeployment]:
    """One deployment for each use case, with its schedule if it has one. A broken file is logged and left out."""
    usable = []
    for name in sorted(use_case_files(settings.project)):
        try:
            usable.append(_deployment(settings, name))
        except ConfigError as error:
            log.error("%s is not served. %s", name, error)
    return usable


def _deployment(settings: Settings, name: str) -> RunnerDeployment:
    use_case = load_use_case(name, settings.project)
    schedule = Cron(use_case.schedule, timezone=use_case.time_zone) if use_case.schedule else None
    deployment = retrain.to_deployment(
        name=name,
        description=literal(use_case.question),
        parameters={"request": {"use_case": name}},
        schedule=schedule,
        tags=[name, "nightly" if schedule else "on request"],
    )
    assert isinstance(deployment, RunnerDeployment)  # the call returns a coroutine only if an event loop runs
    _offer_only(deployment, "RetrainRequest", [name])
    return deployment


def _offer_only(deployment: RunnerDeployment, form: str, names: list[str]) -> None:
    """Makes the form on the deployment's page offer only these use cases."""
    schema = deepcopy(deployment._parameter_openapi_schema)
    schema.definitions[form]["properties"]["use_case"]["enum"] = names
    deployment._parameter_openapi_schema = schema


def backfills(settings: Settings) -> list[RunnerDeployment]:
    """The deployment whose form starts a backfill.

    It is served by a process of its own, so that its runs do not count towards the limit of active nights.
    """
    deployment = backfill.to_deployment(name="backfill", description=BACKFILL, tags=["on request"])
    assert isinstance(deployment, RunnerDeployment)
    _offer_only(deployment, "BackfillRequest", sorted(use_case_files(settings.project)))
    return [deployment]


def main() -> None:
    """Serves until the process is stopped: the nights, or backfills if the argument is `backfills`."""
    settings = Settings.from_environment()
    served = backfills(settings) if sys.argv[1:] == ["backfills"] else deployments(settings)
    serve(*served, pause_on_shutdown=False, print_starting_message=False, limit=ACTIVE_RUNS)


if __name__ == "__main__":
    main()
