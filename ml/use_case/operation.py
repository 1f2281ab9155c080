"""How a use case is run: when, what is made up for, what is kept."""

from dataclasses import dataclass

from pydantic import PositiveInt


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What `retrain gc` leaves: the newest `versions` beside all that ever served; resumable stages and partition
    states for `state_days` after they were written; quarantined rows for `quarantine_days`."""

    versions: PositiveInt = 10
    state_days: PositiveInt = 30
    quarantine_days: PositiveInt = 90
