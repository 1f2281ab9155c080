"""`retrain alerts`: a webhook and automations in Prefect, so that what goes wrong at night is told without asking."""

import argparse
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import SecretStr

from deployments.servers import answers, running_servers
from deployments.terminal import home_settings, say, show
from ml.decision import DATA_REJECTED, KEPT_EVENT, KEPT_NIGHTS, STATE_NAMES
from ml.errors import PrefectUnavailable, UsageError
from ml.report import counted
from ml.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

BLOCK = "retrain-alerts"
MADE_BY = "Made by `retrain alerts`, which also removes it."  # others' automations may have the same names
FAILED, REJECTED, ASKED, KEPT, SILENT = NAMES = (
    "retrain: a night failed",
    "retrain: data were rejected",
    "retrain: an operator is asked",
    "retrain: the champion is kept",
    "retrain: no night succeeds",
)
FAILURES = {"Failed", "Crashed", "TimedOut"}
SUCCESSES = set(STATE_NAMES.values())
WAITS = {"Suspended"}
BODY = """\
{% set reason = REASON or 'It says nothing.' %}
{% set link = 'PAGE/runs/flow-run/' ~ flow_run.id %}
{
  "text": {{ ('NAME: ' ~ flow_run.name ~ '. ' ~ reason ~ ' ' ~ link) | tojson }},
  "alert": "NAME",
  "use_case": {{ flow_run.parameters.request.use_case | tojson }},
  "night": {{ flow_run.name | tojson }},
  "reason": {{ reason | tojson }},
  "link": {{ link | tojson }}
}
"""  # chat services read `text`, machines the rest
REMINDERS = 20  # a kept champion is told of after N nights, 2 N, ...


def alerts(options: argparse.Namespace) -> int:
    """Sets the alerts up, or anew, or removes them."""
    api = _api(home_settings())
    if not options.remove:
        _require_address(options.url)
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        if options.remove:
            remove(client)
        else:
            page = api.removesuffix("/api")
            set_up(client, options.url, page, options.kept_nights, timedelta(hours=options.silent_hours))
    show(options, {"alerts": [] if options.remove else list(NAMES), "prefect": api}, "")
    if not options.json:
        say("The alerts are removed." if options.remove else "Prefect calls the address when", *_words(options))
    return 0


def _words(options: argparse.Namespace) -> list[str]:
    if options.remove:
        return []
    return [
        "  a night fails, crashes or takes too long,",
        "  data are rejected,",
        "  gates cannot tell and an operator is asked (on_inconclusive),",
        f"  the champion was kept for {counted(options.kept_nights, 'night')}, and again after as many,",
        f"  a use case has had no successful night for {counted(options.silent_hours, 'hour')}.",
    ]


def _api(settings: Settings) -> str:
    """The Prefect that runs the nights. Raises UsageError where there is none that stays."""
    servers = running_servers(settings)
    api = servers.prefect_api if servers else os.environ.get("PREFECT_API_URL")
    if not api:
        raise UsageError(
            "alerts are kept by the Prefect server that runs the nights",
            "`retrain up` does not run here and PREFECT_API_URL is not set",
            "start retrain up in another terminal",
        )
    if not answers(f"{api}/health"):
        raise PrefectUnavailable("the server at PREFECT_API_URL must answer", f"{api} does not", "start it")
    return api


def _require_address(url: str | None) -> None:
    if url is None or urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
        # Its value may be a secret, as Slack's are.
        raise UsageError("URL is the http or https address to call", "it is not", "write https://...")


def set_up(client: "SyncPrefectClient", url: str, page: str, kept_nights: int, silent: timedelta) -> None:
    """Makes the webhook and the automations, or makes them anew under the same names."""
    from prefect.blocks.webhook import Webhook
    from prefect.types import SecretDict

    webhook = Webhook(url=SecretStr(url), headers=SecretDict({"Content-Type": "application/json"}))
    block = webhook.save(BLOCK, overwrite=True)
    assert isinstance(block, UUID)  # it is a coroutine only where a loop runs
    _remove_automations(client)
    for automation in automations(block, page, kept_nights, silent):
        client.create_automation(automation)


def remove(client: "SyncPrefectClient") -> None:
    """Deletes what `set_up` made; nothing is no error."""
    from prefect.blocks.webhook import Webhook

    _remove_automations(client)
    if any(document.name == BLOCK for document in client.read_block_documents_by_type("webhook")):
        Webhook.delete(BLOCK)


def _remove_automations(client: "SyncPrefectClient") -> None:
    for name in NAMES:
        for each in client.read_automations_by_name(name):
            if each.description == MADE_BY:
                client.delete_automation(each.id)


def automations(block: UUID, page: str, kept_nights: int, silent: timedelta) -> "list[AutomationCore]":
    """One automation an alert, all of them about runs of the flow `retrain`."""
    from prefect.events.schemas.automations import EventTrigger, Posture

    nights: dict[str, Any] = {
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": "retrain"},
    }
    failed = EventTrigger(expect=_events(FAILURES), **nights)
    rejected = EventTrigger(expect=_events({DATA_REJECTED}), **nights)
    asked = EventTrigger(expect=_events(WAITS), **nights)
    counts = [str(kept_nights * number) for number in range(1, REMINDERS + 1)]
    kept = EventTrigger(expect={KEPT_EVENT}, match={"prefect.resource.id": "retrain.use-case.*", KEPT_NIGHTS: counts})
    silence = EventTrigger(
        after=_events(
            SUCCESSES | FAILURES | {DATA_REJECTED}
        ),  # any of them starts the clock, and a success restarts it
        expect=_events(SUCCESSES),
        for_each={"related:deployment:prefect.resource.id"},
        posture=Posture.Proactive,
        within=silent,
        match=nights["match"],
        match_related=[nights["match_related"], {"prefect.resource.role": "deployment"}],
    )
    hours = f"{silent.total_seconds() / 3600:g}"
    return [
        _automation(block, page, FAILED, failed, "flow_run.state.message"),
        _automation(block, page, REJECTED, rejected, "flow_run.state.message"),
        _automation(block, page, ASKED, asked, "'Press Resume on its page, and answer.'"),
        _automation(block, page, KEPT, kept, "event.payload.reason"),
        _automation(block, page, SILENT, silence, f"'No night has succeeded within {hours} hours of this run.'"),
    ]


def _events(states: set[str]) -> set[str]:
    """Prefect names the event of a state by the state's name, and not by its type."""
    return {f"prefect.flow-run.{state}" for state in states}


def _automation(block: UUID, page: str, name: str, trigger: Any, reason: str) -> "AutomationCore":
    """`reason` is an expression of Prefect's templates."""
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import AutomationCore

    payload = BODY.replace("REASON", reason).replace("NAME", name).replace("PAGE", page)
    return AutomationCore(
        name=name,
        description=MADE_BY,
        trigger=trigger,
        actions=[CallWebhook(block_document_id=block, payload=payload)],
    )
