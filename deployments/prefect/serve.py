"""The one table of deployments and schedules, and the process that serves them, a child of `retrain up`."""

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
ACTIVE_RUNS = 1  # one night at a time on one machine: two would share its cores, or its GPU


def deployments(settings: Settings) -> list[RunnerDeployment]:
    """One deployment a use case, scheduled if it has a schedule. A broken file is named and left out."""
    found = []
    for name in sorted(use_case_files(settings.project)):
        try:
            found.append(_deployment(settings, name))
        except ConfigError as error:
            log.error("%s is not served. %s", name, error)
    return found


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
    assert isinstance(deployment, RunnerDeployment)  # it is a coroutine only where a loop runs
    _offer_only(deployment, "RetrainRequest", [name])
    return deployment


def _offer_only(deployment: RunnerDeployment, form: str, names: list[str]) -> None:
    """The form offers these use cases only."""
    schema = deepcopy(deployment._parameter_openapi_schema)
    schema.definitions[form]["properties"]["use_case"]["enum"] = names
    deployment._parameter_openapi_schema = schema


def backfills(settings: Settings) -> list[RunnerDeployment]:
    """The deployment whose form starts a backfill. Its runs have a limit of their own: they run their dates inside."""
    deployment = backfill.to_deployment(name="backfill", description=BACKFILL, tags=["on request"])
    assert isinstance(deployment, RunnerDeployment)
    _offer_only(deployment, "BackfillRequest", sorted(use_case_files(settings.project)))
    return [deployment]


def main() -> None:
    """Serves until the process is stopped: the nights, or with `backfills` the backfills."""
    settings = Settings.from_environment()
    served = backfills(settings) if sys.argv[1:] == ["backfills"] else deployments(settings)
    serve(*served, pause_on_shutdown=False, print_starting_message=False, limit=ACTIVE_RUNS)


if __name__ == "__main__":
    main()
