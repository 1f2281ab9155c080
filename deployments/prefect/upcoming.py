"""Gives the runs that Prefect makes ahead of time names that say whose night they are. Its own names say nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any

from deployments.prefect.client import ask, ask_all
from ml.days import local_date
from ml.errors import ConfigError
from ml.reporting.endings import run_title
from ml.settings import Settings
from ml.use_case.definition import UseCase
from ml.use_case.loading import load_use_case, use_case_files

SOON = timedelta(minutes=1)  # a run that starts sooner is left alone, for it names itself


def name_upcoming(settings: Settings, api: str) -> None:
    """Names the scheduled runs of this installation's use cases."""
    chosen = {
        "state": {"name": {"any_": ["Scheduled"]}},
        "expected_start_time": {"after_": (datetime.now(UTC) + SOON).isoformat()},
    }
    query = {"flows": {"name": {"any_": ["retrain"]}}, "flow_runs": chosen}
    for run in ask_all(f"{api}/flow_runs/filter", query) or []:
        name = (run["parameters"].get("request") or {}).get("use_case", "")
        if run["auto_scheduled"] and name in use_case_files(settings.project) and not run["name"].startswith(name):
            _rename(settings, api, run, name)


def _rename(settings: Settings, api: str, run: dict[str, Any], name: str) -> None:
    try:
        title = _title(load_use_case(name, settings.project), datetime.fromisoformat(run["expected_start_time"]))
    except ConfigError:  # the process that serves the schedules reports it
        return
    ask(f"{api}/flow_runs/{run['id']}", {"name": title}, method="PATCH")


def _title(use_case: UseCase, start: datetime) -> str:
    """The name of a night that is due at `start`; without a date if old data are replayed, which is not known yet."""
    return run_title(use_case.name, None if use_case.replay_from else local_date(start, use_case.time_zone))
