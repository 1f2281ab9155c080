"""Alerts on a real Prefect server, to a real receiver on loopback: what is told, when, and with which reason."""

import http.server
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from deployments.cli import main
from deployments.prefect import alerts, crashed
from deployments.prefect.client import ask, insisted
from deployments.prefect.crashed import ATTEMPT
from deployments.prefect.up import STOPPED
from ml.reporting.endings import Ending, shown_name
from tasks import question
from tests.deployments.test_schedules import wait_for
from tests.storage.test_ledger import entry, version
from tests.story import Shop


@pytest.fixture
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver's address, and the documents that it was sent."""
    documents: list[dict[str, Any]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            documents.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/alert", documents
        server.shutdown()


def made() -> dict[str, Any]:
    return {each.name: each.trigger for each in alerts.automations(uuid4(), 7, timedelta(hours=36))}


def matched(trigger: Any, run: str, message: str, deployed: bool = True, flow: str = "retrain") -> bool:
    """Whether Prefect's own code takes this end of a run for one of the trigger's."""
    from prefect.server.events.schemas.automations import EventTrigger
    from prefect.server.events.schemas.events import RelatedResource, Resource

    labels = {"prefect.resource.id": "prefect.flow-run.1", "prefect.resource.name": run}
    related = [{"prefect.resource.id": "f", "prefect.resource.role": "flow", "prefect.resource.name": flow}]
    if deployed:
        related.append({"prefect.resource.id": "d", "prefect.resource.role": "deployment"})
    return EventTrigger.model_validate(trigger.model_dump()).covers_resources(
        Resource.model_validate({**labels, "prefect.state-message": message}),
        [RelatedResource.model_validate(each) for each in related],
    )


ENDS = {  # run, message and flow of an end, and which alerts it may raise
    "failed": ("shop 2024-03-15", "Flow run encountered an exception: no store", "retrain", {alerts.FAILED}),
    "rejected": ("shop 2024-03-15", "DataRejected: expected 2024-03-14", "retrain", {alerts.REJECTED}),
    "without a message": ("shop 2024-03-15", "", "retrain", {alerts.FAILED}),
    "backfill": ("shop 2024-03-01 to 2024-03-15", "1 of 2 dates are done, 1 failed", "backfill", {alerts.FAILED}),
    "a date of a backfill": ("shop 2024-03-15 #1", "DataRejected: expected", "retrain date", set()),
    "dry run": ("shop 2024-03-15 (dry run)", "Flow run encountered an exception", "retrain", set()),
    "rejected dry run": ("shop (dry run)", "Dry run, DataRejected: expected", "retrain", set()),
    "a stranger's": ("theirs", "DataRejected: theirs", "etl", set()),
}


@pytest.mark.parametrize(("run", "message", "flow", "told"), ENDS.values(), ids=ENDS.keys())
def test_which_red_ends_are_told(run: str, message: str, flow: str, told: set[str]) -> None:
    """And never of a run that a command executes by itself."""
    triggers = {name: made()[name] for name in (alerts.FAILED, alerts.REJECTED)}
    assert {name for name, trigger in triggers.items() if matched(trigger, run, message, flow=flow)} == told
    assert not any(matched(trigger, run, message, deployed=False, flow=flow) for trigger in triggers.values())


def test_stopping_up_is_no_crash_to_be_told_of() -> None:
    for name in (alerts.CRASHED, alerts.RECOVERED):
        assert not matched(made()[name], "shop 2024-03-15", STOPPED)
        assert matched(made()[name], "shop 2024-03-15", "Process exited with status code: -9.")


def test_neither_a_replay_nor_a_dry_run_nor_a_night_before_a_red_one_is_a_recovery_or_a_success() -> None:
    old = shown_name("shop 2024-03-01", "F1 0.771", Ending("Promoted", "so", still_red=True).mark)
    assert old == "shop 2024-03-01 (a later night is red), F1 0.771"
    assert shown_name(old, "F1 0.8") == "shop 2024-03-01, F1 0.8", "when it is run again later"
    for name in (alerts.RECOVERED, alerts.SILENT):
        assert matched(made()[name], "shop 2024-03-15, F1 0.771", "Promoted: so")
        for run in ("shop 2024-03-15 (replay), F1 0.771", "shop 2024-03-15 (dry run)", old):
            assert not matched(made()[name], run, "Promoted: so")


def sentence(name: str, starts: int, labels: dict[str, Any], **asked: Any) -> str:
    """What comes next, as the alert's template says it of such a run."""
    return str(body(name, starts, labels, **asked)["next"])


def body(name: str, starts: int, labels: dict[str, Any], message: str = "Killed.", **asked: Any) -> dict[str, Any]:
    """The alert that the template makes of such a run."""
    from jinja2 import Environment

    pages = Environment(autoescape=False)
    pages.filters["ui_url"] = lambda run: None
    action: Any = next(
        each for each in alerts.automations(uuid4(), 7, timedelta(hours=36)) if each.name == name
    ).actions[0]
    request = {"use_case": "shop", "as_of": None, "plan": None, "first": None, **asked}
    run = {"name": "shop 2024-03-15", "run_count": starts, "labels": labels, "parameters": {"request": request}}
    text = pages.from_string(action.payload).render(
        flow_run={**run, "state": {"message": message}}, event={"payload": {}}
    )
    return dict(json.loads(text))


CRASHES = [  # Prefect's count of starts, attempts begun after a crash, and what is told
    (1, None, "`retrain up` runs it again by itself: attempt 2 of 3."),
    (0, None, "`retrain up` runs it again by itself: attempt 2 of 3."),
    (0, 2, "`retrain up` runs it again by itself: attempt 3 of 3."),
    (5, 2, "`retrain up` runs it again by itself: attempt 3 of 3."),
    (0, 3, "This was attempt 3 of 3: read its log, then retrain run shop --as-of 2024-03-15."),
    (9, 3, "This was attempt 3 of 3: read its log, then retrain run shop --as-of 2024-03-15."),
]


@pytest.mark.parametrize(("starts", "attempt", "told"), CRASHES)
def test_a_crash_is_told_with_its_own_number_whatever_was_started(starts: int, attempt: int | None, told: str) -> None:
    """A process may be killed before it starts, and a run that asked an operator starts again."""
    labels = {"retrain.as_of": "2024-03-15", **({ATTEMPT: attempt} if attempt else {})}
    assert sentence(alerts.CRASHED, starts, labels).startswith(told)


def test_every_alert_of_a_run_says_what_comes_next() -> None:
    for name in alerts.NEXT:
        said = sentence(name, 1, {"retrain.next_night": "The next night comes at 03:00."})
        assert said.endswith(".") and "None" not in said and "  " not in said
        assert "retrain" in said or "succeed" in said, said


def test_the_alert_of_a_question_says_what_is_asked_and_both_answers() -> None:
    gates = "NotWorseThanChampion f1 says INCONCLUSIVE: it is 0.01 lower."
    said = body(alerts.ASKED, 1, question._labels(entry(3, candidate=version(2), reason=gates)))
    assert said["reason"] == f"Is version 2 to serve? {gates}"
    yes, no = "retrain promote tills --version 2 --reason WHY", "retrain promote tills --version 2 --no --reason WHY"
    assert f"Yes: {yes}. No: {no}. Later nights go on" in said["next"]
    assert "`retrain status shop` says how." in body(alerts.ASKED, 1, {})["next"], "of a run of an older release"


@pytest.mark.parametrize("step", ["deliver it; then retrain run shop --as-of 2024-03-15", "widen the window"])
def test_a_red_alert_says_its_step_once(step: str) -> None:
    said = body(alerts.REJECTED, 1, {"retrain.as_of": "2024-03-15"}, f"DataRejected: a rule, but a value: {step}.")
    assert said["text"].count("retrain run shop --as-of 2024-03-15") == 1
    assert said["text"].count("not tried again by itself") == 1


def test_the_next_attempt_is_noted_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(crashed, "ask", lambda url, query=None, method="POST": asked.append((method, url, query)))
    crashed.run_again("api", "run", 3)
    assert asked[0] == ("PATCH", "api/flow_runs/run/labels", {ATTEMPT: 3})
    assert asked[1][1] == "api/flow_runs/run/set_state"


def test_events_are_those_of_the_states_that_runs_end_in() -> None:
    triggers = made()
    assert triggers[alerts.ASKED].expect == {"prefect.flow-run.Suspended"}
    assert triggers[alerts.FAILED].expect == triggers[alerts.REJECTED].expect
    for name in (alerts.SILENT, alerts.RECOVERED):
        assert triggers[name].expect == {"prefect.flow-run.Completed"}
        assert triggers[alerts.FAILED].expect | triggers[alerts.CRASHED].expect <= triggers[name].after
    assert triggers[alerts.KEPT].match["retrain.kept-nights"][:3] == ["7", "14", "21"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["alerts", "ftp://host/secret"], "URL is the http or https address to call, but it is not"),
        (["alerts"], "URL is the http or https address to call, but it is not"),
        (["alerts", "http://host", "--kept-nights", "0"], "it is a whole number from 1, but it is '0'"),
    ],
)
def test_bad_options_are_refused(
    words: list[str], sentence: str, prefect: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "secret" not in said


def test_without_a_server_that_stays_there_are_no_alerts(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alerts", "http://host"]) == 2
    assert "start retrain up in another terminal" in capsys.readouterr().err


def names(prefect: str) -> list[str]:
    return sorted(each["name"] for each in ask(f"{prefect}/automations/filter", {}))


def ended(prefect: str, deployment: str, state: dict[str, str]) -> str:
    """A night of the deployment that ends in this state; its id."""
    asked = {"name": "shop 2024-03-15", "idempotency_key": str(uuid4())}
    run = insisted(f"{prefect}/deployments/{deployment}/create_flow_run", asked)["id"]
    insisted(f"{prefect}/flow_runs/{run}/set_state", {"state": state, "force": True})
    return str(run)


def wait_for_alert(documents: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found = wait_for(lambda: [each for each in documents if each["alert"] == name], 30)
    assert found, f"{name} among {documents}"
    assert len(found) == 1, found
    return dict(found[0])


@pytest.mark.slow
def test_what_goes_wrong_is_told_with_reason_next_step_and_link(
    shop: Shop, prefect: str, told: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.prefect.serve import deployments

    url, documents = told
    page = prefect.removesuffix("/api")
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    assert main(["alerts", "--test"]) == 2, "none is set up"
    assert main(["alerts", "http://127.0.0.1:9/nobody"]) == 0
    assert main(["alerts", "--test"]) == 1, "nobody listens there"
    assert main(["alerts", url, "--kept-nights", "1", "--test"]) == 0
    assert names(prefect) == sorted(alerts.NAMES), "and not twice"
    assert [each["alert"] for each in documents] == [alerts.TEST]

    (deployment,) = [str(each.apply()) for each in deployments(shop.settings) if each.name == "shop"]
    failed = ended(prefect, deployment, {"type": "FAILED", "name": "Failed", "message": 'the "store" is silent'})
    first = wait_for_alert(documents, alerts.FAILED)
    after = "It is not tried again by itself: mend what it names, then retrain run shop."
    after += " The next night comes by its schedule."
    assert first == {
        "text": f'{alerts.FAILED}: shop 2024-03-15. the "store" is silent {after} {page}/runs/flow-run/{failed}',
        "alert": alerts.FAILED,
        "use_case": "shop",
        "night": "shop 2024-03-15",
        "reason": 'the "store" is silent',
        "next": after,
        "link": f"{page}/runs/flow-run/{failed}",
    }
    rejected = ended(prefect, deployment, {"type": "FAILED", "message": "DataRejected: expected 2024-03-14"})
    second = wait_for_alert(documents, alerts.REJECTED)
    assert (second["reason"], second["link"][-36:]) == ("DataRejected: expected 2024-03-14", rejected)
    ended(prefect, deployment, {"type": "CRASHED", "message": "SIGKILL"})
    assert "attempt 2 of 3" in wait_for_alert(documents, alerts.CRASHED)["next"], "though it was killed before it began"
    ended(prefect, deployment, {"type": "CRASHED", "message": STOPPED})
    for word in ("Promoted: All gates allow it.", "NothingNew: nothing."):
        ended(prefect, deployment, {"type": "COMPLETED", "message": word})
    assert wait_for_alert(documents, alerts.RECOVERED)["reason"] == "Promoted: All gates allow it."
    ended(prefect, deployment, {"type": "PAUSED", "name": "Suspended"})
    assert "Press Resume on its page" in wait_for_alert(documents, alerts.ASKED)["next"]
    assert len(documents) == 6, "stopping `up` is not told, and a recovery once"

    documents.clear()
    with temporary_settings({PREFECT_API_URL: prefect}), get_client(sync_client=True) as client:
        alerts.set_up(client, url, 7, timedelta(seconds=15))
    for _ in range(2):  # the second starts the clock again
        last = ended(prefect, deployment, {"type": "COMPLETED", "message": "NothingNew: nothing."})
    silent = wait_for_alert(documents, alerts.SILENT)
    assert silent["link"] == f"{page}/runs/flow-run/{last}"

    assert main(["alerts", "--remove"]) == 0
    assert main(["alerts", "--remove"]) == 0
    assert names(prefect) == []
    assert ask(f"{prefect}/block_documents/filter", {}) == []
