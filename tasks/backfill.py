"""The steps of a backfill that are not a night's: its plan, the turn of each date, and the table that operators see."""

import json
import logging
from collections.abc import Mapping
from datetime import date
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName
from prefect.client.schemas.sorting import TaskRunSort

from ml.operations.backfill import (
    Plan,
    Progress,
    Promote,
    Reprocess,
    read_plan,
)
from ml.operations.board import board_rows
from ml.pipeline import planning
from ml.pipeline.site import Site
from ml.reporting.endings import SCORE
from ml.reporting.escaping import on_a_page
from ml.reporting.page import artifact_key
from ml.storage.ledger import Ledger, NightEntry
from ml.storage.records import Night
from ml.storage.store import Store
from tasks.site import open_site, site_of
from tasks.stage import stage

log = logging.getLogger("retrain.backfill")


def plan_backfill(
    use_case: str, first: date, last: date, every: str, reprocess: Reprocess, promote: Promote,
    *, newest_first: bool, driving: bool = False,
) -> Plan:  # fmt: skip
    """Makes a plan and stores it under its digest."""
    return planning.plan_backfill(
        open_site(use_case), first, last, every, reprocess, promote, newest_first=newest_first, driving=driving
    )


def open_plan(store: Store, digest: str, *, driving: bool = False) -> tuple[Site, Plan]:
    """A stored plan and its site. Raises UsageError if the data or the code have changed since it was made."""
    plan = read_plan(store, digest)
    site = open_site(plan.use_case)
    planning.refuse_stale_plan(site, plan, driving=driving)
    return site, plan


@stage("await turn", timeout_seconds=24 * 3600)
def await_turn(night: Night, plan: Plan) -> None:
    """Waits until every earlier date of the plan has ended, so that promotions come in the order of the dates."""
    planning.await_turn(site_of(night), night, plan)


class Board:
    """The table and the progress bar that an operator watches. They are made once and then updated in place."""

    def __init__(self, site: Site, plan: Plan) -> None:
        self.plan = plan
        key = f"backfill-{artifact_key(plan.use_case, plan.digest[:12])}"
        self.ledger, self.nights = Ledger(site.store, plan.use_case), dict[int, NightEntry]()
        self.shown = board_rows(self.ledger, Progress.of(site.store, plan), {}, self.nights)
        table = create_table_artifact(on_a_page(self.shown), key=key, description=f"Plan {plan.digest[:12]}")
        bar = create_progress_artifact(0.0, key=f"{key}-progress", description="Dates that have ended")
        assert isinstance(table, UUID)  # these calls return coroutines only if an event loop runs
        assert isinstance(bar, UUID)
        self.table, self.bar = table, bar

    def show(self, progress: Progress, running: Mapping[date, str]) -> None:
        """Updates table and bar if anything has changed. `running` has the name of each active date's flow run."""
        stages = {as_of: _stage_of(name) for as_of, name in running.items()}
        rows = board_rows(self.ledger, progress, stages, self.nights)
        if rows == self.shown:
            return
        self.shown = rows
        with get_client(sync_client=True) as client:
            client.update_artifact(self.table, ArtifactUpdate(data=json.dumps(on_a_page(rows))))
        ended = len(self.plan.dates) - len(progress.open_dates)
        update_progress_artifact(self.bar, 100.0 * ended / len(self.plan.dates))


def _stage_of(name: str) -> str:
    """The task that the flow run of this name is in. A run that has ended has a score behind its name."""
    named = FlowRunFilter(name=FlowRunFilterName(like_=name))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=named)
        same = [run.id for run in runs if run.name.split(SCORE)[0] == name]  # #1 is also like #10
        if not same:
            return "starts"
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=same))
        newest = client.read_task_runs(flow_run_filter=chosen, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return newest[0].name if newest else "starts"
