"""What a use case says about how its nights are run. None of it decides a result."""

from dataclasses import dataclass
from datetime import date
from typing import Literal

from pydantic import PositiveInt


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
