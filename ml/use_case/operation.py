"""What a use case says about how its nights are run. None of it decides a result."""

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from cronsim import CronSim, CronSimError
from pydantic import PositiveInt

from ml.declarations import Demands


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What `retrain gc` leaves: the newest `versions` beside all that ever served; resumable stages and partition
    states for `state_days` after they were written; quarantined rows for `quarantine_days`."""

    versions: PositiveInt = 10
    state_days: PositiveInt = 30
    quarantine_days: PositiveInt = 90


KEEP_THE_USUAL = Retention()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """`replay_from` makes scheduled nights walk through old data, from that date on. `missed_nights` says which of the
    nights are made up for that came while the machine was down, `missed_within_days` how old they may be.
    `on_inconclusive` says whether the champion just stays where gates cannot tell, or an operator is asked."""

    schedule: str | None = None
    replay_from: date | None = None
    missed_nights: Literal["latest", "skip", "all"] = "latest"
    missed_within_days: PositiveInt = 7
    on_inconclusive: Literal["keep", "ask"] = "keep"
    retention: Retention = KEEP_THE_USUAL


def _is_cron(line: str) -> bool:
    """What both cronsim and Prefect's croniter read: neither seconds nor the last weekday of a month."""
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
