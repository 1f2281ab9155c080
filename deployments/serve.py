"""The one table of deployments and schedules, and the process that serves them, a child of `retrain up`."""

import logging
from copy import deepcopy

from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron

from flows.retrain import retrain
from ml.config import load_use_case, use_case_files
from ml.errors import ConfigError
from ml.settings import Settings

log = logging.getLogger("retrain.serve")
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
        description=use_case.question,
        parameters={"request": {"use_case": name}},
        schedule=schedule,
        tags=["nightly" if schedule else "on request"],
    )
    assert isinstance(deployment, RunnerDeployment)  # it is a coroutine only where a loop runs
    _offer_only(deployment, name)
    return deployment


def _offer_only(deployment: RunnerDeployment, name: str) -> None:
    """The form of a use case's deployment offers no other name."""
    schema = deepcopy(deployment._parameter_openapi_schema)
    schema.definitions["RetrainRequest"]["properties"]["use_case"]["enum"] = [name]
    deployment._parameter_openapi_schema = schema


def main() -> None:
    """Serves until the process is stopped."""
    settings = Settings.from_environment()
    serve(*deployments(settings), pause_on_shutdown=False, print_starting_message=False, limit=ACTIVE_RUNS)


if __name__ == "__main__":
    main()
