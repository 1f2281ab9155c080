"""A backfill's own steps: its plan, the start and end of each date, and what operators see of it."""

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from datetime import date
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName
from prefect.client.schemas.sorting import TaskRunSort

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
    read_plan,
    refuse_changed_world,
)
from ml.reporting.endings import SCORE
from ml.reporting.escaping import on_a_page
from ml.reporting.page import artifact_key
from ml.reporting.score_section import cell
from ml.storage.ledger import Ledger, NightEntry
from ml.storage.records import Night
from ml.storage.store import Store
from tasks.site import Site, open_site, site_of
from tasks.stage import stage

log = logging.getLogger("retrain.backfill")
TURN_SECONDS = 5.0


def plan_backfill(
    use_case: str, first: date, last: date, every: str, reprocess: Reprocess, promote: Promote,
    *, newest_first: bool, driving: bool = False,
) -> Plan:  # fmt: skip
    """Makes a plan and keeps it under its digest."""
    site = open_site(use_case)
    plan = make_plan(
        _world(site, driving=driving), dates_between(first, last, every), every, _code(site),
        reprocess=reprocess, promote=promote, newest_first=newest_first,
    )  # fmt: skip
    keep_plan(site.store, plan)
    return plan


def open_plan(store: Store, digest: str, *, driving: bool = False) -> tuple[Site, Plan]:
    """A kept plan and its site. Raises UsageError if the world is no longer the one it was made for."""
    plan = read_plan(store, digest)
    site = open_site(plan.use_case)
    refuse_changed_world(plan, _world(site, driving=driving), _code(site))
    if not plan.dates:
        raise UsageError("a backfill has dates to run", f"plan {plan.digest[:12]} has none", "read its reasons")
    return site, plan


def _world(site: Site, *, driving: bool) -> World:
    return World.now(site.settings, site.use_case, site.store, driving=driving)


def _code(site: Site) -> str:
    return digest_value([site.digest, site.code])


@stage("await turn", timeout_seconds=24 * 3600)
def await_turn(night: Night, plan: Plan) -> None:
    """Returns when every earlier date of the plan has ended: promotions go in their order."""
    site, known = site_of(night), Known()
    while not (progress := Progress.of(site.store, plan, known)).is_turn_of(night.as_of):
        if progress.state == "cancelled":
            raise UsageError("a date waits for its turn", "the backfill was cancelled", "make a new plan")
        if before := sorted(each for each in progress.interrupted if each < night.as_of):
            raise PrefectUnavailable("a date waits for its turn", f"{before[0]} was interrupted", "resume the backfill")
        time.sleep(TURN_SECONDS)


class Board:
    """The table and the bar that an operator watches: made once, and updated in place."""

    def __init__(self, site: Site, plan: Plan) -> None:
        self.plan = plan
        key = f"backfill-{artifact_key(plan.use_case, plan.digest[:12])}"
        self.ledger, self.nights = Ledger(site.store, plan.use_case), dict[int, NightEntry]()
        self.seen = board_rows(self.ledger, Progress.of(site.store, plan), {}, self.nights)
        table = create_table_artifact(on_a_page(self.seen), key=key, description=f"Plan {plan.digest[:12]}")
        bar = create_progress_artifact(0.0, key=f"{key}-progress", description="Dates that have ended")
        assert isinstance(table, UUID)  # they are coroutines only where a loop runs
        assert isinstance(bar, UUID)
        self.table, self.bar = table, bar

    def show(self, progress: Progress, running: Mapping[date, str]) -> None:
        """Writes what changed since the last time. `running` names the flow run of each active date."""
        stages = {as_of: _stage_of(name) for as_of, name in running.items()}
        rows = board_rows(self.ledger, progress, stages, self.nights)
        if rows == self.seen:
            return
        self.seen = rows
        with get_client(sync_client=True) as client:
            client.update_artifact(self.table, ArtifactUpdate(data=json.dumps(on_a_page(rows))))
        ended = len(self.plan.dates) - len(progress.open_dates)
        update_progress_artifact(self.bar, 100.0 * ended / len(self.plan.dates))


def board_rows(
    ledger: Ledger, progress: Progress, running: Mapping[date, str], known: dict[int, NightEntry]
) -> list[dict[str, str]]:
    """Date, state or stage, decision, version, what the use case's metric says of candidate and champion, and verdicts
    counted: a page is narrow. What is `known` is not read."""
    return [_board_row(ledger, progress, row.as_of, row.reason, running, known) for row in progress.plan.rows]


def _night(ledger: Ledger, seq: int, known: dict[int, NightEntry]) -> NightEntry:
    if seq not in known:
        entry = ledger.entry(seq)
        assert isinstance(entry, NightEntry), seq
        known[seq] = entry
    return known[seq]


def _board_row(
    ledger: Ledger, progress: Progress, as_of: date, reason: str, running: Mapping[date, str],
    known: dict[int, NightEntry],
) -> dict[str, str]:  # fmt: skip
    attempt = progress.attempts.get(as_of)
    planned = as_of in progress.plan.dates
    waits = progress.state if progress.state in {"paused", "cancelled"} else "waits"
    stands = attempt.outcome if attempt else running.get(as_of, waits if planned else "not run")
    night = _night(ledger, attempt.entry, known) if attempt and attempt.entry else None
    verdicts = Counter(v["verdict"] for v in night.result["verdicts"]) if night else Counter[str]()
    return {
        "as_of": str(as_of),
        "stage": str(stands),
        "decision": night.decision if night else "",
        "version": str(night.candidate.version) if night and night.candidate else "",
        **_scores(night),
        "verdicts": ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()),
        "reason": attempt.reason if attempt else "" if planned else reason,
    }


def _scores(night: NightEntry | None) -> dict[str, str]:
    """The scores by the use case's metric on the date's test rows, each with its interval."""
    if night is None:
        return {"metric": "", "candidate": "", "champion": ""}
    metric, scores = night.result["metric"], night.result["scores"]
    return {"metric": metric} | {who: cell((scores[who] or {}).get(metric)) for who in ("candidate", "champion")}


def _stage_of(name: str) -> str:
    """The task that a flow run of this name is in; at its end it gets a score behind the name."""
    named = FlowRunFilter(name=FlowRunFilterName(like_=name))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=named)
        same = [run.id for run in runs if run.name.split(SCORE)[0] == name]  # #1 is also like #10
        if not same:
            return "starts"
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=same))
        found = client.read_task_runs(flow_run_filter=chosen, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return found[0].name if found else "starts"
