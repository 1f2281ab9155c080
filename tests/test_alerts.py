"""Alerts on a real Prefect server, to a real receiver on loopback: what is told, when, and with which reason."""

import http.server
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from deployments import alerts
from deployments.cli import main
from deployments.servers import ask, insisted
from ml.decision import ALL_STATE_NAMES
from tests.story import Shop
from tests.test_schedules import wait_for


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


def test_every_state_is_matched_by_its_name() -> None:
    triggers: list[Any] = [a.trigger for a in alerts.automations(uuid4(), "http://here", 7, timedelta(hours=36))]
    failed, rejected, asked, kept, silent = triggers
    assert asked.expect == {"prefect.flow-run.Suspended"}
    matched = {event.removeprefix("prefect.flow-run.") for event in silent.after}
    assert set(ALL_STATE_NAMES) <= matched
    assert silent.expect < silent.after
    assert (failed.expect | rejected.expect).isdisjoint(silent.expect)
    assert failed.expect | rejected.expect | silent.expect == silent.after
    assert kept.match["retrain.kept-nights"][:3] == ["7", "14", "21"]


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


@pytest.mark.slow
def test_what_goes_wrong_is_told_with_reason_and_link(
    shop: Shop, prefect: str, told: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.serve import deployments

    url, documents = told
    page = prefect.removesuffix("/api")
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    assert main(["alerts", "http://127.0.0.1:9/nobody"]) == 0
    assert main(["alerts", url, "--kept-nights", "1"]) == 0
    assert names(prefect) == sorted(alerts.NAMES), "and not twice"

    (deployment,) = [str(each.apply()) for each in deployments(shop.settings) if each.name == "shop"]
    failed = ended(prefect, deployment, {"type": "FAILED", "name": "Failed", "message": 'the "store" is silent'})
    rejected = ended(prefect, deployment, {"type": "FAILED", "name": "DataRejected", "message": "expected 2024-03-14"})
    ended(prefect, deployment, {"type": "COMPLETED", "name": "Promoted", "message": "All gates allow it."})
    ended(prefect, deployment, {"type": "PAUSED", "name": "Suspended"})
    wait_for(lambda: len(documents) >= 3, 30)
    by_alert = {document["alert"]: document for document in documents}
    assert by_alert[alerts.FAILED] == {
        "text": f'{alerts.FAILED}: shop 2024-03-15. the "store" is silent {page}/runs/flow-run/{failed}',
        "alert": alerts.FAILED,
        "use_case": "shop",
        "night": "shop 2024-03-15",
        "reason": 'the "store" is silent',
        "link": f"{page}/runs/flow-run/{failed}",
    }
    assert by_alert[alerts.REJECTED]["reason"] == "expected 2024-03-14"
    assert by_alert[alerts.REJECTED]["link"].endswith(rejected)
    assert by_alert[alerts.ASKED]["reason"] == "Press Resume on its page, and answer."

    documents.clear()
    shop.night("2024-03-15")
    assert main(["hold", "shop", "--yes", "--reason", "a freeze"]) == 0
    shop.night("2024-03-16")
    wait_for(lambda: documents, 30)
    (kept,) = documents
    assert (kept["alert"], kept["night"]) == (alerts.KEPT, "shop 2024-03-16")
    assert kept["reason"].startswith("The champion of shop was kept for 1 night. shop is held (")
    assert shop.ledger.kept_nights() == 1

    documents.clear()
    with temporary_settings({PREFECT_API_URL: prefect}), get_client(sync_client=True) as client:
        alerts.set_up(client, url, page, 7, timedelta(seconds=15))
    for _ in range(2):  # the second starts the clock again
        last = ended(prefect, deployment, {"type": "COMPLETED", "name": "NothingNew", "message": "Nothing."})
    wait_for(lambda: documents, 60)
    (silent,) = documents
    assert (silent["alert"], silent["link"]) == (alerts.SILENT, f"{page}/runs/flow-run/{last}")

    assert main(["alerts", "--remove"]) == 0
    assert main(["alerts", "--remove"]) == 0
    assert names(prefect) == []
    assert ask(f"{prefect}/block_documents/filter", {}) == []
