"""Runs a flow for a command.

If the ledger has the answer, no flow runs. While `retrain up` runs, its deployment runs the flow and the command
follows the log. Otherwise the flow runs in this process.
"""

import importlib
import json
import logging
import os
import time
from contextlib import AbstractContextManager
from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import UUID

from deployments.prefect.announcement import Servers, is_alive, running_servers
from deployments.prefect.client import answers, ask
from deployments.prefect.crashed import next_attempt
from deployments.prefect.held import drop_what_is_held
from deployments.prefect.servers import prefect_server
from ml.errors import Busy, ConfigError, DataRejected, PrefectUnavailable, RetrainError, Unavailable, UsageError
from ml.operations.dead_runs import Signs, is_dead
from ml.pipeline.opening import Opening, find_what_became
from ml.reporting.document import work_rows
from ml.reporting.endings import ending, shown_name
from ml.reporting.page import stages_artifact
from ml.settings import Settings
from ml.storage.ledger import NightEntry
from ml.storage.locks import held_lock, run_lock
from ml.storage.nights import settle
from tasks.lost import ANSWERS, LOCK
from tasks.site import open_site

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger("retrain.night")
POLL_SECONDS = 0.5
LATE_LOG_SECONDS = 0.5  # the last lines of a run's log come after its final state
WAITS = {
    "PAUSED": "The run waits for an operator's answer: press Resume at {page}, or answer in another terminal. "
    "{answers}. Ctrl-C ends only the following.",
    "CRASHED": "The run crashed, and `retrain up` runs it again: {page}",
}


class RunFailed(RetrainError):
    """A night or a backfill ended red, and not by an error of ours."""


FLOWS = {
    "retrain": ("flows.retrain", "retrain", "RetrainRequest"),
    "backfill": ("flows.backfill", "backfill", "BackfillRequest"),
}


def run_flow_here_or_there(settings: Settings, name: str, request: dict[str, Any]) -> dict[str, Any]:
    """The result of the flow of this name ("retrain" or "backfill"), which runs here or under `retrain up`.

    Raises what the flow raised. Raises ConfigError if `retrain up` uses another store or another MLflow.
    """
    servers = running_servers(settings)
    if servers is not None:
        _require_same_place(settings, servers)
    if name == "retrain" and not request["dry_run"] and (servers is not None or not os.environ.get("PREFECT_API_URL")):
        answer = _kept_answer(settings, servers, request)
        if answer is not None:
            return answer
    if servers is not None:
        with _api(servers.prefect_api):
            deployment = request["use_case"] if name == "retrain" else name
            return follow(settings, f"{name}/{deployment}", request, servers)
    elsewhere = os.environ.get("PREFECT_API_URL")
    if elsewhere:
        _require_prefect(elsewhere)
        try:
            return run_here(request, name)
        except PrefectUnavailable:
            drop_what_is_held()
            raise
    log.info("Starting Prefect for this run.")
    with prefect_server(settings, meanwhile=lambda: importlib.import_module(FLOWS[name][0])) as api, _api(api):
        return run_here(request, name)


def _kept_answer(settings: Settings, servers: Servers | None, request: dict[str, Any]) -> dict[str, Any] | None:
    """What the flow would answer, if the night is in the ledger or nothing is new. It does not need Prefect.

    None if there is more to do, or if the flow must wait, try again, or reject the data on its page.
    """
    name = request["use_case"]
    as_of = date.fromisoformat(request["as_of"]) if request["as_of"] else None
    try:
        with held_lock(run_lock(settings.home, name), 0, Busy(f"{name} runs once at a time", "another is", "wait")):
            opening = Opening(open_site(name))
            answer = opening.answer(as_of, request["seed"], request["again"])
    except (Busy, DataRejected, Unavailable):
        return None
    if answer is None:
        return None
    (entry, replayed), stages = answer, work_rows(opening.work)
    settle(settings, entry)
    log.info("Entry %d of the ledger has the answer; nothing else was run.", entry.seq)
    if servers is not None:
        _show_on_page(servers, request, entry, stages, replayed=replayed)
    return {"use_case": name, "entry": entry.seq, "replayed": replayed, "answer": None, "stages": stages}


def _show_on_page(
    servers: Servers, request: dict[str, Any], entry: NightEntry, stages: list[dict[str, Any]], *, replayed: bool
) -> None:
    """Makes a run in Prefect that has already ended, with its table of stages, if the use case is served."""
    api, name = servers.prefect_api, entry.use_case
    deployment = ask(f"{api}/deployments/name/retrain/{name}")
    if deployment is None:
        return
    end = find_what_became(open_site(name), entry) if replayed else ending(entry)
    run = {
        "name": shown_name(f"{name} {entry.as_of}", end.score, end.mark),
        "tags": [*deployment["tags"], *end.tags],
        "flow_id": deployment["flow_id"],
        "deployment_id": deployment["id"],
        "parameters": {"request": request},
        "state": {"type": "COMPLETED", "name": "Completed", "message": end.message},
    }
    shown = ask(f"{api}/flow_runs/", run)
    if shown is not None:
        table = {**stages_artifact(name, entry.as_of), "type": "table", "data": json.dumps(stages)}
        ask(f"{api}/artifacts/", {**table, "flow_run_id": shown["id"]})
        log.info("Shown as %s/runs/flow-run/%s", servers.prefect_ui, shown["id"])


def _require_same_place(settings: Settings, servers: Servers) -> None:
    """Raises ConfigError if `retrain up` uses another store or another MLflow than this command."""
    if (servers.store, servers.tracking_uri) != (settings.store, settings.tracking_uri):
        raise ConfigError(
            "a command has the RETRAIN_STORE and MLFLOW_TRACKING_URI of the `retrain up` that runs",
            f"that serves {servers.store}",
            "set the same, or stop it",
        )


def _require_prefect(api: str) -> None:
    if not answers(f"{api}/health"):
        raise PrefectUnavailable(
            "the server at PREFECT_API_URL must answer", f"{api} does not", "start it, or unset PREFECT_API_URL"
        )


def _api(url: str) -> AbstractContextManager[object]:
    """A context in which Prefect's client talks to this server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    return temporary_settings({PREFECT_API_URL: url})


def run_here(request: dict[str, Any], name: str = "retrain") -> dict[str, Any]:
    """Runs the whole flow in this process."""
    from tasks.flow_run import prefect_errors

    module, flow, form = FLOWS[name]
    flows = importlib.import_module(module)
    with prefect_errors(), _without_heartbeat():
        state = getattr(flows, flow)(getattr(flows, form).model_validate(request), return_state=True)
        return _result(state, request.get("plan"))


def _without_heartbeat() -> AbstractContextManager[object]:
    """A context in which flows send no heartbeats, which would make every flow a second longer.

    `temporary_settings` would do too, but takes 0.07 s because it reads all settings again.
    """
    from prefect.context import SettingsContext, get_settings_context

    now = get_settings_context()
    flows = now.settings.flows.model_copy(update={"heartbeat_frequency": None})
    return SettingsContext(profile=now.profile, settings=now.settings.model_copy(update={"flows": flows}))


def follow(settings: Settings, name: str, request: dict[str, Any], servers: Servers) -> dict[str, Any]:
    """Submits the flow to its deployment and shows the run's log until it ends.

    If a run with the same request is active, that one is followed instead. It may be a night whose process is gone,
    because that is run again; a backfill is not. Raises Busy if another run is active and the request does not wait.
    """
    from prefect.client.orchestration import get_client

    from tasks.flow_run import prefect_errors

    with prefect_errors(), get_client(sync_client=True) as client:
        is_night = name.startswith("retrain/")
        runs = _active_runs(client, name)
        active = [run for run in runs if is_night or not _is_dead(settings, run)]
        same = [run.id for run in active if run.parameters == {"request": request}]
        if active and not same and not request.get("wait", True):
            raise Busy(f"{name} runs once at a time", "another run is active", "wait for it to end")
        run_id = same[0] if same else _submit(name, request)
        page = f"{servers.prefect_ui}/runs/flow-run/{run_id}"
        log.info("%s run %s", "Following the active" if same else "Submitted as", page)
        try:
            return _result(_ended(client, run_id, page, servers.pid, nightly=is_night), request.get("plan"))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"The run goes on; the same command follows it again. To end it, cancel it on its page: {page}"
            ) from None


def _submit(name: str, request: dict[str, Any]) -> UUID:
    """Submits the flow under the name that it gives itself when it starts; until then Prefect shows a made-up name."""
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments import run_deployment

    module, _, form = FLOWS[name.split("/")[0]]
    title = getattr(importlib.import_module(module), form).model_validate(request).title
    run = run_deployment(
        name, parameters={"request": request}, timeout=0, as_subflow=False, flow_run_name=title
    )  # fmt: skip
    assert isinstance(run, FlowRun)
    return run.id


def _active_runs(client: "SyncPrefectClient", name: str) -> "list[FlowRun]":
    """The deployment's runs that have begun or that somebody submitted, and that have not ended.

    Raises UsageError if the deployment is not served.
    """
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter
    from prefect.exceptions import ObjectNotFound

    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise UsageError(
            "`retrain up` serves what there was when it started", f"{name} was not", "start it again"
        ) from None
    active = {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}}
    chosen = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(active), deployment_filter=chosen)
    return [run for run in runs if not (run.auto_scheduled and run.state is not None and run.state.is_scheduled())]


def _is_dead(settings: Settings, run: "FlowRun") -> bool:
    """Whether a running run's process is gone. A run that waits may still have the label of its last lock."""
    signs = Signs(lock=str(run.labels.get(LOCK)))
    return run.state is not None and run.state.is_running() and is_dead(settings.home, signs)


def _ended(client: "SyncPrefectClient", run_id: UUID, page: str, up: int, *, nightly: bool = True) -> "State[Any]":
    """Waits for the run's final state and shows each new line of its log once. A crashed night may run again first.

    Raises PrefectUnavailable if the process `up` is gone: a Prefect server elsewhere would say "running" for ever.
    """
    shown: set[UUID] = set()
    explained_states: set[str] = set()
    while True:
        run = client.read_flow_run(run_id)
        state = run.state
        _show_new_lines(client, run_id, shown)
        if state is not None and state.is_final() and not (nightly and _is_run_again(client, run_id, state)):
            time.sleep(LATE_LOG_SECONDS)
            _show_new_lines(client, run_id, shown)
            return state
        if state is not None and state.type.value in WAITS and state.type.value not in explained_states:
            log.warning(
                "%s",
                WAITS[state.type.value].format(page=page, answers=run.labels.get(ANSWERS, "`retrain status` says how")),
            )
            explained_states.add(state.type.value)
        if not is_alive(up):
            raise PrefectUnavailable(
                "a run is followed while `retrain up` runs", "that has ended", "start it and this command again"
            )
        time.sleep(POLL_SECONDS)


def _is_run_again(client: "SyncPrefectClient", run_id: UUID, state: "State[Any]") -> bool:
    """Whether `retrain up` is about to run a crashed night again."""
    if not state.is_crashed():
        return False
    states = client.read_flow_run_states(run_id)
    return next_attempt([past.type.value for past in states]) is not None


def _show_new_lines(client: "SyncPrefectClient", run_id: UUID, shown: set[UUID]) -> None:
    """Shows lines that are not in `shown` yet. It looks back a few lines, because lines may arrive out of order."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    for line in client.read_logs(wanted, offset=max(0, len(shown) - 50), sort=LogSort.TIMESTAMP_ASC):
        if line.id not in shown and line.name.startswith("retrain."):
            log.info("%s", line.message)
        shown.add(line.id)


def _result(state: "State[Any]", plan: str | None) -> dict[str, Any]:
    """The flow's answer. Raises the flow's own error if it is one of ours, otherwise RunFailed.

    `plan` is the digest of the plan that a backfill runs.
    """
    if state.is_completed():
        return state.result()
    error = state.result(raise_on_failure=False)
    if isinstance(error, dict):  # a backfill with failed dates ends red, but has an answer
        return error
    if isinstance(error, RetrainError):
        raise error
    kind = type(error).__name__ if isinstance(error, BaseException) else "no exception"
    raise RunFailed(
        "a backfill runs to its end" if plan else "a night ends without an error",
        f"it is {state.name} with {kind}",
        f"read its log, then retrain backfill resume {plan[:12]}" if plan else "see the log of its run",
    ) from (error if isinstance(error, BaseException) else None)
