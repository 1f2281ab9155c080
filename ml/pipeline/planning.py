"""A backfill's plan for a site: make it, refuse it if the world has changed since, and let its dates take turns.

What a plan is, and what it depends on, stands in `ml.operations.backfill`.
"""

import time
from datetime import date

from ml.digests import digest_value
from ml.errors import PrefectUnavailable, UsageError
from ml.operations.backfill import (
    Known,
    Plan,
    Progress,
    Promote,
    Reprocess,
    World,
    dates_between,
    keep_plan,
    make_plan,
    refuse_changed_world,
)
from ml.pipeline.site import Site
from ml.storage.records import Night

TURN_SECONDS = 5.0  # how often a date that waits for its turn looks


def plan_backfill(
    site: Site, first: date, last: date, every: str, reprocess: Reprocess, promote: Promote,
    *, newest_first: bool, driving: bool = False,
) -> Plan:  # fmt: skip
    """Makes a plan and keeps it under its digest. Raises UsageError for dates or options that make no plan.

    `driving` says that the caller itself drives the use case's backfill, so that no other one runs.
    """
    plan = make_plan(
        _world(site, driving=driving), dates_between(first, last, every), every, _code(site),
        reprocess=reprocess, promote=promote, newest_first=newest_first,
    )  # fmt: skip
    keep_plan(site.store, plan)
    return plan


def refuse_stale_plan(site: Site, plan: Plan, *, driving: bool = False) -> None:
    """Raises UsageError if the plan would be made otherwise now, or if it has no dates to run."""
    refuse_changed_world(plan, _world(site, driving=driving), _code(site))
    if not plan.dates:
        raise UsageError("a backfill has dates to run", f"plan {plan.digest[:12]} has none", "read its reasons")


def await_turn(site: Site, night: Night, plan: Plan) -> None:
    """Returns when every earlier date of the plan has ended, because promotions go in the order of dates.

    Raises UsageError if the backfill is cancelled meanwhile, PrefectUnavailable if an earlier date was interrupted.
    """
    known = Known()
    while not (progress := Progress.of(site.store, plan, known)).is_turn_of(night.as_of):
        if progress.state == "cancelled":
            raise UsageError("a date waits for its turn", "the backfill was cancelled", "make a new plan")
        if earlier := sorted(as_of for as_of in progress.interrupted if as_of < night.as_of):
            raise PrefectUnavailable(
                "a date waits for its turn", f"{earlier[0]} was interrupted", "resume the backfill"
            )
        time.sleep(TURN_SECONDS)


def _world(site: Site, *, driving: bool) -> World:
    return World.now(site.settings, site.use_case, site.store, driving=driving)


def _code(site: Site) -> str:
    """A digest of what its nights would learn and judge by: the same that the keys of their runs hold."""
    return digest_value([site.training, site.code, site.judging])
