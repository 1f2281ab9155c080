"""`retrain alerts`: makes a webhook and automations in Prefect, which call an address when something goes wrong.

There are alerts only for runs of a deployment, because whoever runs a command sees how it ends. Prefect's server itself
calls the webhook, so that a killed night raises an alert too.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from pydantic import SecretStr

from deployments.prefect.client import ask
from deployments.prefect.crashed import ATTEMPT, ATTEMPTS
from deployments.prefect.up import STOPPED
from ml.errors import ConfigError, PrefectUnavailable, UsageError
from ml.evaluation.decision import DATA_REJECTED, KEPT_EVENT, KEPT_NIGHTS, SOURCE_EVENT, TAKEN_OVER_EVENT
from tasks.lost import ANSWERS, QUESTION

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore


BLOCK = "retrain-alerts"
MADE_BY = "Made by `retrain alerts`, which also removes it."  # automations of others may have the same names
FAILED, CRASHED, REJECTED, ASKED, CHANGED, KEPT, TAKEN_OVER, SILENT, RECOVERED, RECOVERED_BACKFILL, TEST = NAMES = (
    "retrain: a run failed",
    "retrain: a run crashed",
    "retrain: data were rejected",
    "retrain: an operator is asked",
    "retrain: the source has changed",
    "retrain: the champion is kept",
    "retrain: the twin of a refit takes over",
    "retrain: no night succeeds",
    "retrain: a night recovered",
    "retrain: a backfill recovered",
    "retrain: a test",
)
TEST_EVENT = "retrain.alert-test"
FAILURES, CRASHES, SUCCESSES, WAITS = {"Failed", "TimedOut"}, {"Crashed"}, {"Completed"}, {"Suspended"}
REMINDERS = 20  # alerts about a kept champion, which come after N nights, after 2 N, ...
RECOVERS_WITHIN = timedelta(days=30)
TEST_SECONDS, POLL_SECONDS = 30.0, 0.5

# The body of an alert, a Jinja template of Prefect's server. Chat services read `text`, programs read the rest.
BODY = """\
{% set asked = flow_run.parameters.request %}
{% set as_of = asked.as_of or flow_run.labels['retrain.as_of'] %}
{% set again = 'retrain run ' ~ asked.use_case ~ (' --as-of ' ~ as_of if as_of else '') %}
{% set next_night = flow_run.labels['retrain.next_night'] or 'The next night comes by its schedule.' %}
{% set resume = 'retrain backfill resume ' ~ (asked.plan or 'PLAN')[:12] if asked.first else none %}
{% set attempt = flow_run.labels['ATTEMPT'] or 1 %}
{% set night = flow_run.name.split(', ')[0] %}
{% set reason = REASON or 'It says nothing.' %}
{% set next = NEXT %}
{% set link = flow_run|ui_url %}
{
  "text": {{ ('NAME: ' ~ night ~ '. ' ~ reason ~ ' ' ~ next ~ (' ' ~ link if link else '')) | tojson }},
  "alert": "NAME",
  "use_case": {{ asked.use_case | tojson }},
  "night": {{ night | tojson }},
  "reason": {{ reason | tojson }},
  "next": {{ next | tojson }},
  "link": {{ (link or none) | tojson }}
}
"""
TEST_BODY = """\
{"text": "NAME: nothing is wrong, and this is where alerts go.", "alert": "NAME"}
"""
MESSAGE = "flow_run.state.message"
NEXT = {
    FAILED: "'It is not tried again by itself: ' ~ (resume ~ ' tries what is left.' if resume else "
    "'mend what it names, then ' ~ again ~ '. ' ~ next_night)",
    CRASHED: "'A backfill waits for an operator: ' ~ resume ~ '.' if resume else "
    f"'`retrain up` runs it again by itself: attempt ' ~ (attempt + 1) ~ ' of {ATTEMPTS}. ' ~ next_night "
    f"if attempt < {ATTEMPTS} else "
    f"'This was attempt {ATTEMPTS} of {ATTEMPTS}: read its log, then ' ~ again ~ '. ' ~ next_night",
    REJECTED: "'It is not tried again by itself' ~ "
    "(': do what it names, then ' ~ again if again not in reason else '') ~ '. ' ~ next_night",
    ASKED: f"'Press Resume on its page, or answer in a terminal. ' ~ (flow_run.labels['{ANSWERS}'] or "
    "'`retrain status ' ~ asked.use_case ~ '` says how') ~ '. Later nights go on meanwhile.'",
    CHANGED: "(event.payload.next or '`retrain ledger ' ~ asked.use_case ~ '` shows what changed.') ~ ' ' ~ next_night",
    KEPT: "'Every night goes on judging a new candidate; `retrain ledger ' ~ asked.use_case ~ '` shows the verdicts. ' "
    "~ next_night",
    TAKEN_OVER: "'Nothing is to be done. `retrain status ' ~ asked.use_case ~ '` shows what serves and how it does.'",
    SILENT: "'Nights start only while `retrain up`, or what serves them in its place, runs. "
    "`retrain doctor` says what is wrong.'",
    RECOVERED: "'Nights of ' ~ asked.use_case ~ ' succeed again: earlier alerts about them are settled. ' ~ next_night",
    RECOVERED_BACKFILL: "'The backfill has succeeded: earlier alerts about it are settled.'",
}


def set_up(client: "SyncPrefectClient", url: str, kept_nights: int, silent: timedelta) -> None:
    """Makes the webhook and the automations. Those that were made before are replaced."""
    from prefect.blocks.webhook import Webhook
    from prefect.types import SecretDict

    webhook = Webhook(url=SecretStr(url), headers=SecretDict({"Content-Type": "application/json"}))
    block = webhook.save(BLOCK, overwrite=True)
    assert isinstance(block, UUID)  # `save` returns a coroutine only if an event loop runs
    _remove_automations(client)
    for automation in automations(block, kept_nights, silent):
        client.create_automation(automation)


def remove(client: "SyncPrefectClient") -> None:
    """Deletes what `set_up` made. It is no error if there is nothing."""
    from prefect.blocks.webhook import Webhook

    _remove_automations(client)
    if _is_set_up(client):
        Webhook.delete(BLOCK)


def _is_set_up(client: "SyncPrefectClient") -> bool:
    return any(document.name == BLOCK for document in client.read_block_documents_by_type("webhook"))


def _remove_automations(client: "SyncPrefectClient") -> None:
    for name in (*NAMES, "retrain: a night failed"):  # the last is an older name of the first
        for automation in client.read_automations_by_name(name):
            if automation.description == MADE_BY:
                client.delete_automation(automation.id)


def send_test(client: "SyncPrefectClient", api: str) -> dict[str, Any]:
    """Lets Prefect send one alert as it sends all others. Returns the host that it went to and the HTTP status.

    Raises UsageError if no alerts are set up, ConfigError if the address does not accept the alert, and
    PrefectUnavailable if Prefect does not call it in time.
    """
    automations = client.read_automations_by_name(TEST)
    if not automations or not _is_set_up(client):
        raise UsageError("a test goes to the address of the alerts", "none is set up", "retrain alerts URL --test")
    host, since = _host(), datetime.now(UTC)
    event = {"event": TEST_EVENT, "id": str(uuid4()), "occurred": since.isoformat(), "payload": {}}
    post: Any = client.request
    post("POST", "/events", json=[{**event, "resource": {"prefect.resource.id": TEST_EVENT}}]).raise_for_status()
    action = _ended_action(api, f"prefect.automation.{automations[0].id}", since)
    status = action["payload"].get("status_code")
    if status is None or not 200 <= status < 300:
        answer = f"{host} answered {status}" if status else f"Prefect could not call {host}"
        raise ConfigError(
            "the address of the alerts takes what is sent", answer, "retrain alerts URL, with one that does"
        )
    return {"host": host, "status": status}


def _host() -> str:
    """The host of the address that is set up. The rest of the address may be a secret."""
    from prefect.blocks.webhook import Webhook

    block: Any = Webhook.load(BLOCK)
    return urlsplit(block.url.get_secret_value()).netloc.rpartition("@")[2]


def _ended_action(api: str, automation: str, since: datetime) -> dict[str, Any]:
    """Prefect's event about its call of the webhook. Raises PrefectUnavailable if none comes within TEST_SECONDS."""
    names = ["prefect.automation.action.executed", "prefect.automation.action.failed"]
    chosen = {
        "event": {"name": names},
        "any_resource": {"id": [automation]},
        "occurred": {"since": (since - timedelta(seconds=1)).isoformat()},
    }
    deadline = time.monotonic() + TEST_SECONDS
    while time.monotonic() < deadline:
        answer = ask(f"{api}/events/filter", {"filter": chosen, "limit": 1})
        if answer and answer["events"]:
            return dict(answer["events"][0])
        time.sleep(POLL_SECONDS)
    raise PrefectUnavailable(
        "Prefect calls the address of an alert at once",
        f"it did not within {TEST_SECONDS:.0f} s",
        "read the server's log",
    )


def automations(block: UUID, kept_nights: int, silent: timedelta) -> "list[AutomationCore]":
    """The automations of all alerts, one each."""
    from prefect.events.schemas.automations import EventTrigger, Posture

    a_deployment: Any = {"prefect.resource.role": "deployment"}
    all_runs, nights, backfills = _runs_of("retrain", "backfill"), _runs_of("retrain"), _runs_of("backfill")
    new_nights = _runs_of("retrain", name="!*(*")  # neither dry runs nor replays, whose names say so in brackets
    stopped = f"!{STOPPED}*"  # no alert: an operator stopped `retrain up`, and these runs go on when it starts again
    per_deployment = {"related:deployment:prefect.resource.id"}
    counts = [str(kept_nights * number) for number in range(1, REMINDERS + 1)]
    failures, successes = _events(FAILURES | CRASHES), _events(SUCCESSES)
    hours = f"{silent.total_seconds() / 3600:g}"
    kept = EventTrigger(
        expect={KEPT_EVENT},
        match={"prefect.resource.id": "retrain.use-case.*", KEPT_NIGHTS: counts},
        match_related=a_deployment,
    )
    taken_over, changed = (
        EventTrigger(expect={event}, match={"prefect.resource.id": "retrain.use-case.*"}, match_related=a_deployment)
        for event in (TAKEN_OVER_EVENT, SOURCE_EVENT)
    )
    silence = EventTrigger(  # the clock starts at the end of any night, and starts again at each success
        after=failures | successes,
        expect=successes,
        for_each=per_deployment,
        posture=Posture.Proactive,
        within=silent,
        **new_nights(),
    )
    recovered = EventTrigger(
        after=failures, expect=successes, for_each=per_deployment, within=RECOVERS_WITHIN, **new_nights(stopped)
    )
    recovered_backfill = EventTrigger(  # by name: a backfill of the same dates has the same name when it runs again
        after=failures,
        expect=successes,
        for_each={*per_deployment, "prefect.resource.name"},
        within=RECOVERS_WITHIN,
        **backfills(stopped),
    )
    triggers = {
        FAILED: EventTrigger(expect=_events(FAILURES), **all_runs(f"!{DATA_REJECTED}:*")),
        CRASHED: EventTrigger(expect=_events(CRASHES), **all_runs(stopped)),
        REJECTED: EventTrigger(expect=_events(FAILURES), **nights(f"{DATA_REJECTED}:*")),
        ASKED: EventTrigger(expect=_events(WAITS), **nights()),
        CHANGED: changed,
        KEPT: kept,
        TAKEN_OVER: taken_over,
        SILENT: silence,
        RECOVERED: recovered,
        RECOVERED_BACKFILL: recovered_backfill,
    }
    reasons = {
        ASKED: f"flow_run.labels['{QUESTION}']",
        CHANGED: "event.payload.reason",
        KEPT: "event.payload.reason",
        TAKEN_OVER: "event.payload.reason",
        SILENT: f"'No night has succeeded within {hours} hours of this run.'",
    }
    test = EventTrigger(expect={TEST_EVENT}, match={"prefect.resource.id": TEST_EVENT})
    return [
        *(
            _automation(block, name, trigger, _body(name, reasons.get(name, MESSAGE)))
            for name, trigger in triggers.items()
        ),
        _automation(block, TEST, test, TEST_BODY.replace("NAME", TEST)),
    ]


def _runs_of(*flows: str, name: str = "!*(dry run)") -> Any:
    """A function that gives what a trigger matches: runs of these flows that a deployment started, except dry runs.

    `name` is a pattern that the run's name must match. The function's argument is one for the message of its state. A
    pattern that begins with `!` must not match.
    """

    def matching(message: str | None = None) -> dict[str, Any]:
        run = {"prefect.resource.id": "prefect.flow-run.*", "prefect.resource.name": name}
        return {
            "match": run | ({"prefect.state-message": message} if message else {}),
            "match_related": [
                {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)},
                {"prefect.resource.role": "deployment"},
            ],
        }

    return matching


def _events(states: Iterable[str]) -> set[str]:
    """The names of Prefect's events for states of these names (the state's name counts, not its type)."""
    return {f"prefect.flow-run.{state}" for state in states}


def _body(name: str, reason: str) -> str:
    """The template of an alert's body. `reason` is an expression in Prefect's template language."""
    return BODY.replace("REASON", reason).replace("NEXT", NEXT[name]).replace("NAME", name).replace("ATTEMPT", ATTEMPT)


def _automation(block: UUID, name: str, trigger: Any, payload: str) -> "AutomationCore":
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import AutomationCore

    return AutomationCore(
        name=name,
        description=MADE_BY,
        trigger=trigger,
        actions=[CallWebhook(block_document_id=block, payload=payload)],
    )
