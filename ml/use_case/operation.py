"""What a use case says about when and how its nights are run. None of these fields can change a result."""

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from cronsim import CronSim, CronSimError
from pydantic import PositiveInt

from ml.declarations import Demands


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What `retrain gc` keeps.

    It keeps all versions that ever were champion and the newest `versions` of the others. Stages to resume from and
    states of partitions are kept for `state_days` days after they were written, quarantined rows for `quarantine_days`.
    """

    versions: PositiveInt = 10
    state_days: PositiveInt = 30
    quarantine_days: PositiveInt = 90


KEEP_THE_USUAL = Retention()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """When nights start, and what happens if one was missed or its gates cannot tell.

    `schedule` is a cron line in the use case's time zone. `replay_from` makes scheduled nights walk through old data,
    one date after the other from this one on. `missed_nights` says which of the nights that were missed while the
    machine was down run later; only those of the last `missed_within_days` days can. `on_inconclusive` says what
    happens if the gates cannot tell: the champion stays, or an operator is asked.
    """

    schedule: str | None = None
    replay_from: date | None = None
    missed_nights: Literal["latest", "skip", "all"] = "latest"
    missed_within_days: PositiveInt = 7
    on_inconclusive: Literal["keep", "ask"] = "keep"
    retention: Retention = KEEP_THE_USUAL


def _is_cron(line: str) -> bool:
    """Whether cronsim and Prefect's croniter both understand the line.

    Seconds, and the last or nearest weekday of a month, are refused because only one of the two knows them.
    """
    try:
        CronSim(line, datetime(2024, 1, 1))
    except CronSimError:
        return False
    return len(line.split()) == 5 and re.search(r"[0-9L][LW]", line.upper()) is None


OPERATION: Demands[Operation, Operation] = (
    (
        "schedule",
        "be a cron line of five fields that comes due",
        lambda o, _: o.schedule is not None and not _is_cron(o.schedule),
        "write one like '30 3 * * *', every night at 03:30",
    ),
)
