"""How a night ends, as people see it: Prefect's state, alerts and MLflow's alias agree with the ledger as it is now."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from deployments.cli import main
from deployments.commands.status import last_of
from deployments.prefect import alerts
from deployments.prefect.client import ask, insisted
from deployments.prefect.crashed import end_left_tasks, resubmit_crashed
from deployments.prefect.last_night import red_nights, running_now
from ml.errors import DataRejected, unforeseen
from ml.reporting.decision_section import headline
from ml.reporting.endings import answered_yes, ending, moved_by_hand, shown_name, since
from ml.storage.ledger import AnyEntry, NightEntry, OperatorEntry, version_of
from ml.storage.nights import KILLED
from ml.storage.records import Champion
from ml.storage.registry import CHAMPION, Registry
from tasks import flow_run
from tasks.lost import ACTIVE, end_lost
from tests.deployments.test_alerts import told, wait_for_alert  # noqa: F401
from tests.deployments.test_schedules import wait_for
from tests.slow.test_production import is_link_to
from tests.storage.test_ledger import entry, pair, version
from tests.story import Shop

SCORES = {"candidate": {"f1": {"value": 0.771, "low": 0.7, "high": 0.8, "reason": None}}, "champion": None}
RESULT: dict[str, Any] = {
    "use_case": "tills", "metric": "f1", "scores": SCORES, "verdicts": [],
    "decision": "KEEP", "version": 2, "not_comparable": {}, "asks": False,
}  # fmt: skip
UNSCORED = {**RESULT, "scores": {"candidate": None, "champion": None}, "version": None}


def made_by(run: int) -> Champion:
    return replace(version(run), run_id=f"run {run}")


def night(seq: int, decision: str, before: int | None, after: int | None) -> NightEntry:
    """The night that registered version `seq`."""
    models = {"champion_before": before and made_by(before), "champion": after and made_by(after)}
    return entry(seq, decision=decision, candidate=made_by(seq), result=RESULT, **models)


def move(seq: int, decision: Any, before: int, after: int) -> OperatorEntry:
    models = {"champion_before": made_by(before), "champion": made_by(after), "reference": None}
    said = {"at": "2024-03-09T10:00:00+00:00", "by": "ada", "reason": "complaints."}
    return OperatorEntry(seq=seq, use_case="tills", decision=decision, **said, **models)  # type: ignore[arg-type]


FIRST, SECOND = night(1, "FIRST", None, 1), night(2, "PROMOTE", 1, 2)
KEPT = night(2, "KEEP", 1, 1)
REJECTED = night(1, "REJECT", None, None)
STANDINGS: list[tuple[str, NightEntry, list[AnyEntry], str, str]] = [
    ("promoted and still there", SECOND, [FIRST, SECOND], "Promoted", "Champion is now version 2."),
    (
        "rolled back",
        SECOND,
        [FIRST, SECOND, move(3, "ROLLBACK", 2, 1)],
        "Promoted",
        "Version 2 was rolled back on 2024-03-09 by ada (entry 3: complaints). Champion is now version 1.",
    ),
    (
        "rolled back to",
        FIRST,
        [FIRST, SECOND, move(3, "ROLLBACK", 2, 1)],
        "Promoted",
        "Version 1 was made champion on 2024-03-09 by ada (entry 3: complaints). Champion is now version 1.",
    ),
    (
        "followed by a later night",
        FIRST,
        [FIRST, SECOND],
        "Promoted",
        "Version 1 was followed by version 2 on 2024-03-01 by anna (entry 2: so). Champion is now version 2.",
    ),
    (
        "kept, and promoted by hand since",
        KEPT,
        [FIRST, KEPT, move(3, "OPERATOR_PROMOTE", 1, 2)],
        "KeptChampion",
        "Version 2 was made champion on 2024-03-09 by ada (entry 3: complaints). Champion is now version 2.",
    ),
    (
        "rolled back and chosen again",
        SECOND,
        [FIRST, SECOND, move(3, "ROLLBACK", 2, 1), move(4, "OPERATOR_PROMOTE", 1, 2)],
        "Promoted",
        "Version 2 was made champion on 2024-03-09 by ada (entry 4: complaints). Champion is now version 2.",
    ),
    ("kept", KEPT, [FIRST, KEPT], "KeptChampion", "Champion is now version 1."),
    ("rejected", REJECTED, [REJECTED], "NoChampionYet", "There is no champion."),
    (
        "rejected, and there is one since",
        REJECTED,
        [REJECTED, night(2, "FIRST", None, 2)],
        "NoChampionYet",
        "Champion is now version 2.",
    ),
]


BY_HAND: list[tuple[list[AnyEntry], str | None]] = [
    ([], None),
    ([REJECTED], None),
    ([FIRST, SECOND], None),
    ([FIRST, SECOND, move(3, "ROLLBACK", 2, 1)], "version 1 serves: ada rolled back to it on 2024-03-09 (entry 3: "),
    ([FIRST, KEPT, move(3, "OPERATOR_PROMOTE", 1, 2)], "version 2 serves: ada promoted it on 2024-03-09 (entry 3: "),
    (
        [FIRST, SECOND, move(3, "ROLLBACK", 2, 1), night(4, "KEEP", 1, 1)],
        "version 1 serves: ada rolled back to it on 2024-03-09 (entry 3: complaints).",
    ),
    ([FIRST, SECOND, move(3, "ROLLBACK", 2, 1), night(4, "PROMOTE", 1, 4)], None),
    ([FIRST, move(2, "HOLD", 1, 1)], None),
]


@pytest.mark.parametrize(("entries", "sentence"), BY_HAND)
def test_status_says_who_moved_the_champion_by_hand_until_a_night_moves_it_on(
    entries: list[AnyEntry], sentence: str | None
) -> None:
    said = moved_by_hand(entries)
    assert said is None if sentence is None else said is not None and said.startswith(sentence)


@pytest.mark.parametrize(
    ("which", "entries", "word", "sentence"), [row[1:] for row in STANDINGS], ids=[row[0] for row in STANDINGS]
)
def test_a_replayed_night_says_what_became_of_it(
    which: NightEntry, entries: list[AnyEntry], word: str, sentence: str
) -> None:
    told_now = ending(which, replayed_in=entries)
    champion = entries[-1].champion
    if champion is not None:
        sentence = (
            f"{sentence} Version {champion.version} serves, as it was judged. It learnt from rows up to 2024-02-01."
        )
    assert (told_now.word, since(which, entries)) == (word, sentence)
    assert word == ending(which).word, "the word that the night itself had"
    assert told_now.message.startswith(f"Replay, {word}: Version {which.seq} was ")
    assert f"entry {which.seq} of the ledger: so {sentence} Scored then: F1 0.771" in told_now.message
    assert told_now.tags == [word, "replay"]
    for before in ("tills 2024-03-02, F1 0.1", "tills 2024-03-02 (replay), F1 0.1", "tills 2024-03-02"):
        shown = shown_name(before, told_now.score, told_now.mark)
        assert shown == "tills 2024-03-02 (replay), F1 0.771"


def test_a_replayed_night_names_what_serves_and_not_the_judged_model_alone() -> None:
    both = night(1, "FIRST", None, 1)
    both = replace(both, candidate=pair(1), champion=pair(1))
    assert since(both, [both]) == (
        "Champion is now version 1. Version 2 serves, the refit of version 1. It learnt from rows up to 2024-03-01."
    )


ASKED = replace(KEPT, asks=True, result={**RESULT, "asks": True, "champion_before": 1})


def reply(seq: int, decision: Any, after: int, why: str, answers: int | None = 2) -> OperatorEntry:
    return replace(move(seq, decision, 1, after), answers=answers, reason=why)


ANSWERS: list[tuple[AnyEntry, str, str]] = [
    (
        reply(3, "OPERATOR_PROMOTE", 2, "yes to version 2 of entry 2: noise."),
        "Promoted",
        "ada answered on 2024-03-09 10:00 UTC (entry 3): yes to version 2 of entry 2: noise.",
    ),
    (
        reply(3, "OPERATOR_KEEP", 1, "no to version 2 of entry 2: not sure"),
        "KeptChampion",
        "ada answered on 2024-03-09 10:00 UTC (entry 3): no to version 2 of entry 2: not sure.",
    ),
    (
        reply(3, "OPERATOR_PROMOTE", 1, "it stays.", answers=None),
        "KeptChampion",
        "The question was closed on 2024-03-09 10:00 UTC by entry 3, OPERATOR_PROMOTE of version 1 by ada: it stays.",
    ),
    (
        night(3, "PROMOTE", 1, 3),
        "KeptChampion",
        "The question was closed on 2024-03-01 03:00 UTC by entry 3, PROMOTE of version 3 by anna: so.",
    ),
]


@pytest.mark.parametrize(("answer", "word", "sentence"), ANSWERS)
def test_the_end_of_a_question_has_one_word_however_it_was_closed(answer: AnyEntry, word: str, sentence: str) -> None:
    ended, again = ending(ASKED, answer), ending(ASKED, replayed_in=[FIRST, ASKED, answer])
    assert ended.message == f"{word}: {sentence} F1 0.771 [0.700, 0.800]."
    assert again.tags == [word, "replay"]
    assert f": so {sentence} " in again.message, "a replay says what the night decided and how it was answered"
    document = {**ASKED.result, "as_of": "2024-03-02", "replayed": False}
    words = "is the new champion" if word == "Promoted" else "was not promoted"
    assert words in headline(document, answered_yes=answered_yes(ASKED, answer))


def test_the_command_that_leads_on_ends_before_the_scores() -> None:
    assert ending(ASKED).message.endswith(
        "Is version 2 to serve? Yes: retrain promote tills --version 2 --reason WHY. "
        "No: retrain promote tills --version 2 --no --reason WHY. F1 0.771 [0.700, 0.800]."
    )


def test_a_night_with_nothing_new_has_no_score() -> None:
    idle = entry(3, decision="NOTHING_NEW", champion=made_by(2), result=UNSCORED)
    assert (ending(idle).message, ending(idle).score) == ("NothingNew: so", "")
    assert ending(idle, replayed_in=[FIRST, idle]).word == "NothingNew"


@pytest.mark.parametrize(
    ("starts", "began", "own"),
    [(1, "02:59:00", False), (2, "02:59:00", True), (2, "03:00:00.9", True), (3, "03:00:01", False), (2, None, False)],
)
def test_a_run_that_died_behind_its_own_decision_is_no_replay(
    starts: int, began: str | None, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry was added at 03:00:00. The second run of two that were submitted together has one start."""
    start_time = datetime.fromisoformat(f"2024-03-01T{began}+00:00") if began else None
    run = SimpleNamespace(run_count=starts, start_time=start_time)
    monkeypatch.setattr(flow_run.FlowRunContext, "get", lambda: SimpleNamespace(flow_run=run))
    assert flow_run.decided_in_this_run(SECOND) is own


def test_the_log_of_a_run_shows_our_errors_as_sentences_and_keeps_tracebacks_of_others() -> None:
    def line(message: str, error: Exception | None) -> tuple[bool, str, bool]:
        raised = (type(error), error, None) if error else None
        record = logging.LogRecord("prefect.flow_runs", logging.ERROR, "", 1, message, (), raised)
        return flow_run.is_worth_a_line(record), record.getMessage(), record.exc_info is not None

    rejected = DataRejected("a day is there", "it is not", "deliver it")
    assert line("Engine exited", rejected) == (True, "DataRejected: a day is there, but it is not: deliver it.", False)
    for foreign in (unforeseen(ValueError()), ValueError()):
        assert line("Engine exited", foreign) == (True, "Engine exited", True)
    assert line("Finished in state Failed('so')", None) == (True, "Finished in state Failed('so')", False)
    assert line("Finished in state Completed()", None)[0] is False


@pytest.fixture
def served_shop(shop: Shop, prefect: str) -> Iterator[Shop]:
    served = subprocess.Popen(
        [sys.executable, "-m", "deployments.prefect.serve"], env={**os.environ, "PREFECT_API_URL": prefect}
    )
    yield shop
    served.terminate()
    served.wait(30)


@dataclass
class Made:
    """Runs of a flow, and their tasks, made on the server as if a process had begun them."""

    prefect: str
    flow: str = "backfill"

    def run(self, state: str, **more: Any) -> str:
        flow = insisted(f"{self.prefect}/flows/", {"name": self.flow})["id"]
        asked = {"flow_id": flow, "name": str(uuid4()), "state": {"type": state}, **more}
        return str(insisted(f"{self.prefect}/flow_runs/", asked)["id"])

    def task(self, of: str, state: str) -> str:
        asked = {"flow_run_id": of, "task_key": "train", "dynamic_key": str(uuid4()), "state": {"type": state}}
        return str(insisted(f"{self.prefect}/task_runs/", asked)["id"])

    def states(self, what: str, *ids: str) -> list[str]:
        return [str(insisted(f"{self.prefect}/{what}/{each}")["state_type"]) for each in ids]


@pytest.mark.slow
def test_a_lost_run_takes_its_tasks_and_the_runs_inside_of_it_along(prefect: str) -> None:
    """As of a backfill whose driver was killed: one of its dates trained, another had ended."""
    made = Made(prefect)
    driver = made.run("RUNNING")
    waiting = made.task(driver, "RUNNING")
    date, ended = (made.run(state, parent_task_run_id=waiting) for state in ("RUNNING", "COMPLETED"))
    training, before = made.task(date, "RUNNING"), made.task(date, "COMPLETED")
    end_lost(lambda path, body: ask(f"{prefect}{path}", body), {"id": driver, "state_type": "RUNNING"}, "gone")
    assert made.states("flow_runs", driver, date, ended) == ["CRASHED", "CRASHED", "COMPLETED"]
    assert made.states("task_runs", waiting, training, before) == ["CRASHED", "CRASHED", "COMPLETED"]


@pytest.mark.slow
def test_tasks_that_prefect_left_active_in_a_run_that_has_ended_are_ended(
    prefect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect ends the run alone where its process is killed; a stranger's run stays as it is."""
    made = Made(prefect)
    tasks = {}
    for name, state, use_case in (
        ("crashed", "CRASHED", "tills"), ("cancelled", "CANCELLED", "tills"), ("running", "RUNNING", "tills"),
        ("another's", "CRASHED", "theirs"),
    ):  # fmt: skip
        run = made.run("RUNNING", parameters={"request": {"use_case": use_case}})
        tasks[name] = made.task(run, "RUNNING")
        insisted(f"{prefect}/flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})
    end_left_tasks(prefect, {"tills"})
    assert set(made.states("task_runs", *tasks.values())) == {"RUNNING"}, "their own ends may still be recorded"
    monkeypatch.setattr("deployments.prefect.crashed.LOST_SECONDS", -5.0)
    end_left_tasks(prefect, {"tills"})
    assert made.states("task_runs", *tasks.values()) == ["CRASHED", "CANCELLED", "RUNNING", "RUNNING"]


class Seen:
    """What people see of the shop's nights on the served deployment, compared with the ledger."""

    def __init__(self, shop: Shop, prefect: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.shop, self.prefect, self.capsys = shop, prefect, capsys
        self.registry = Registry(shop.settings, "shop")
        self.deployment = wait_for(lambda: ask(f"{prefect}/deployments/name/retrain/shop"), 60)["id"]

    def submit(self, as_of: str, **request: Any) -> str:
        parameters = {"request": {"use_case": "shop", "as_of": as_of, **request}}
        asked = {"parameters": parameters, "idempotency_key": str(uuid4())}
        return str(insisted(f"{self.prefect}/deployments/{self.deployment}/create_flow_run", asked)["id"])

    def ended(self, run: str) -> dict[str, Any]:
        state = wait_for(lambda: self.run(run)["state_type"] in {"COMPLETED", "FAILED", "CRASHED"}, 240)
        assert state, self.run(run)["state"]
        return self.run(run)

    def run(self, run: str) -> dict[str, Any]:
        return dict(insisted(f"{self.prefect}/flow_runs/{run}"))

    def compare(self, run: str, state: str, word: str, *, replay: bool = False) -> dict[str, Any]:
        """The run's end, after the comparison with the ledger."""
        found = self.ended(run)
        begins = f"Replay, {word}" if replay else word
        assert (found["state_name"], found["state"]["message"].split(":")[0]) == (state, begins), found["state"]
        assert {"shop", word} <= set(found["tags"])
        assert ("replay" in found["tags"], "(replay)" in found["name"]) == (replay, replay)
        assert self.registry.alias(CHAMPION) == self.champion
        assert wait_for(lambda: self.active_tasks(run) == 0, 30)
        self.agree(found["state"]["message"].partition(": ")[2] if state == "Failed" else None)
        return found

    def agree(self, red: str | None) -> dict[str, Any]:
        """Status and doctor say what the ledger says, and the sentence of a night that ended red, if it did. The row
        of status."""
        assert main(["status", "shop", "--json"]) == 0
        (row,) = json.loads(self.capsys.readouterr().out)["use_cases"]
        code = main(["doctor", "shop", "--json"])
        checks = json.loads(self.capsys.readouterr().out)["checks"]
        wrong = [each for each in checks if each["state"] in {"wrong", "unknown"}]
        last = last_of(self.shop.entries())
        assert (row["champion"], row["mlflow"]) == (self.champion, [])
        assert (row["last_as_of"], row["last_decision"]) == ((str(last.as_of), last.decision) if last else (None, None))
        assert row["last_night"] == ("red" if red else "good" if last else None)
        assert code == (1 if red else 0), wrong
        if red is None:
            assert (row["red"], wrong) == ([], [])
            return dict(row)
        (each,), (finding,) = row["red"], wrong
        assert f"{each['rule']}, but {each['value']}: {each['next_step']}." == red
        assert (finding["check"], finding["seen"], finding["mend"]) == (
            "last night of shop",
            each["seen"],
            each["next_step"],
        )
        return dict(row)

    @property
    def champion(self) -> int | None:
        head = self.shop.ledger.head()
        return version_of(head.champion) if head else None

    def lines(self, run: str) -> list[str]:
        """The log on the run's page, oldest line first."""
        asked = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in insisted(f"{self.prefect}/logs/filter", asked)]

    def active_tasks(self, run: str) -> int:
        chosen = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"state": {"type": {"any_": ACTIVE}}}}
        return int(insisted(f"{self.prefect}/task_runs/filter", chosen).__len__())

    def kill(self, run: str) -> None:
        """Kills the process of the run while it works, as status says."""
        lock = self.shop.settings.home / "locks" / "shop.lock"
        running = wait_for(lambda: (found := running_now(self.shop.settings, "shop")) and found["stage"] and found, 120)
        assert running["as_of"] in self.run(run)["name"]
        found = [fd for fd in Path("/proc").glob("[0-9]*/fd/*") if is_link_to(fd, lock)]
        os.kill(int(found[0].parts[2]), signal.SIGKILL)


@pytest.mark.slow
def test_six_endings_agree_with_the_ledger(
    served_shop: Shop,
    prefect: str,
    told: tuple[str, list[dict[str, Any]]],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Good, rolled back, replayed, kept, red and killed: status, doctor, alerts, Prefect's state and MLflow's alias
    agree with the ledger after each. Four minutes on a quiet machine."""
    url, documents = told
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    assert main(["alerts", url, "--kept-nights", "1"]) == 0
    capsys.readouterr()
    seen, say = Seen(served_shop, prefect, capsys), ["--yes", "--reason", "a test says so"]

    seen.compare(seen.submit("2024-03-15"), "Completed", "Promoted")
    good = seen.compare(seen.submit("2024-03-16"), "Completed", "Promoted")
    assert good["name"].startswith("shop 2024-03-16, F1 0.")
    assert "the champion's" in good["state"]["message"]
    shown = seen.registry.client.get_model_version("shop", "2")
    assert shown.tags["scores"].startswith(good["name"].removeprefix("shop 2024-03-16, "))
    assert good["name"].rpartition("F1 ")[2] in shown.description
    assert shown.tags["digests"].startswith("snapshot ")

    assert main(["rollback", "shop", *say]) == 0
    capsys.readouterr()
    assert seen.agree(None)["champion"] == 1
    replayed = seen.compare(seen.submit("2024-03-16"), "Completed", "Promoted", replay=True)
    assert "Version 2 was rolled back on" in replayed["state"]["message"]
    assert "Champion is now version 1." in replayed["state"]["message"]

    dry = seen.ended(seen.submit("2024-03-16", dry_run=True))
    assert (dry["name"], dry["state"]["message"][:8]) == ("shop 2024-03-16 (dry run)", "Dry run:")

    assert main(["hold", "shop", *say]) == 0
    capsys.readouterr()
    assert documents == [], "nothing went wrong, and nothing was told"
    kept = seen.compare(seen.submit("2024-03-17"), "Completed", "KeptChampion")
    assert "shop is held" in kept["state"]["message"]
    assert wait_for_alert(documents, alerts.KEPT)["reason"].startswith("The champion of shop was kept for 1 night.")
    assert main(["release", "shop", *say]) == 0
    capsys.readouterr()

    file = served_shop.file("2024-03-17")
    day = file.read_bytes()
    file.write_bytes(b"not parquet")
    before = served_shop.ledger.head()
    red = seen.compare(seen.submit("2024-03-18"), "Failed", "DataRejected")
    assert served_shop.ledger.head() == before
    rejected = wait_for_alert(documents, alerts.REJECTED)
    assert rejected["reason"] == red["state"]["message"]
    assert rejected["text"].count("retrain run shop --as-of 2024-03-18") == 1, "the step is said once"
    assert wait_for(lambda: seen.lines(red["id"])[-1] == red["state"]["message"], 30), seen.lines(red["id"])
    assert not any("Traceback" in line for line in seen.lines(red["id"]))
    assert seen.agree(red["state"]["message"].partition(": ")[2])["red"][0]["flow_run"] == red["id"]
    older = seen.ended(seen.submit("2024-03-15"))
    seen.agree(red["state"]["message"].partition(": ")[2])  # an older night's good end does not hide it
    file.write_bytes(day)

    killed = seen.submit("2024-03-18")
    seen.kill(killed)
    assert wait_for(lambda: seen.run(killed)["state_type"] == "CRASHED", 60)
    assert "runs it again by itself: attempt 2 of 3" in wait_for_alert(documents, alerts.CRASHED)["next"]
    assert [red.error for red in red_nights(served_shop.settings, "shop")] == [KILLED], "the date was begun again"
    resubmit_crashed(prefect, {"shop"})  # as `retrain up` does every five seconds
    end_left_tasks(prefect, {"shop"})
    again = seen.ended(killed)
    seen.compare(killed, "Completed", again["state"]["message"].split(":")[0])
    last = served_shop.entries()[-1]
    assert (str(last.as_of), ending(last).message) == ("2024-03-18", again["state"]["message"])
    assert older["name"].startswith("shop 2024-03-15 (replay)")
    recovered = wait_for_alert(documents, alerts.RECOVERED)  # once, for red and killed, and not for the replay
    assert (recovered["night"], recovered["reason"]) == ("shop 2024-03-18", again["state"]["message"])
    assert {each["alert"] for each in documents} == {alerts.KEPT, alerts.REJECTED, alerts.CRASHED, alerts.RECOVERED}
    assert main(["alerts", "--remove"]) == 0
