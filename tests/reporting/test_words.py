"""Words from outside - reasons, names, rules - are printed and shown letter by letter.

And what a library raises is told by its kind and place only: its words may quote rows.
"""

import json
import logging
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from deployments.cli import OneLine, main
from deployments.commands.moves import _confirm
from deployments.prefect.held import send_what_is_held, wait_until_recorded
from deployments.terminal import say, show
from ml.data.reading import short
from ml.errors import DataRejected, StoreUnavailable, only_our_words, unforeseen
from ml.operations.moves import LONGEST_REASON, carry_out, plan_exclude, plan_hold, plan_promote
from ml.reporting import page
from ml.reporting.escaping import literal, on_a_page
from ml.storage.ledger import Ledger
from ml.storage.store import open_store
from tests.reporting.test_report import document
from tests.storage.test_ledger import entry, version

HOSTILE = [
    "so\n99  2031-01-01  by root  PROMOTE  version 7",
    "\x1b[2K\x1b[1Aforged",
    "\x1b]0;title\x07",
    "\r over the line",
    "\u202etxt.exe",
    "\x9b31mred",
    "a\u2028b\u2029c\x85d\x0be",
    "\b\b\b\x7f",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "a | b || c",
    "`code` ```\nblock",
    "[here](javascript:alert(1))",
    "![x](http://evil/x.png)",
    "http://evil.example and www.evil.example and a@evil.example",
    "<http://evil.example>",
    "**bold** ~~gone~~ _x_ # head",
    "&lt;b&gt; &amp; &#60;",
    "\\[x](y)",
    "</p><iframe>",
    "| --- |",
    "# head",
    "1. one",
    "- one",
]
SECRET = "Ada Lovelace 918273"


def on_terminal(text: str) -> None:
    """One line for each that was meant, and nothing that moves a cursor."""
    assert all(letter.isprintable() for line in text.split("\n") for letter in line), text


@pytest.mark.parametrize("words", HOSTILE)
def test_a_line_on_the_terminal_is_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(words, f"{words} and {words}")
    out = capsys.readouterr().out
    on_terminal(out)
    assert out.count("\n") == 2


@pytest.mark.parametrize("words", HOSTILE)
def test_a_line_of_the_log_is_one_line(words: str) -> None:
    record = logging.LogRecord("retrain", logging.INFO, "f", 1, "said %s", (words,), None)
    line = OneLine("%(asctime)s  %(message)s").format(record)
    on_terminal(line)
    assert "\n" not in line


@pytest.mark.parametrize("words", HOSTILE)
def test_no_reason_or_name_forges_a_line_of_the_ledger(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said by `retrain ledger` and `retrain status`, of a hold, a day left out, a promotion and a night."""
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", words)
    ledger = Ledger(open_store(str(tmp_path / "store")), "purchase")
    one = version(1)
    verdict = {"gate": words, "verdict": "PASS", "reason": words, "figures": {}}
    result = {**document(), "verdicts": [verdict], "again": words}
    ledger.append(entry(1, decision="FIRST", candidate=one, champion=one, reference=one, reason=words, result=result))
    for move in (plan_hold(ledger, words), plan_exclude, plan_promote):
        made = move if not callable(move) else move(ledger, *(("2024-01-01",) if move is plan_exclude else (1,)), words)
        carry_out(ledger, None, made)
    lines = []
    for command in (["ledger", "purchase"], ["status"], ["status", "purchase"]):
        assert main(command) == 0
        out = capsys.readouterr().out
        on_terminal(out)
        lines.append(len(out.splitlines()))
    assert lines[0] == 17, "four entries of the same lines, whatever is said"


@pytest.mark.parametrize("words", HOSTILE)
def test_a_question_on_the_terminal_is_one_line(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    options: Any = type("Options", (), {"yes": False})
    _confirm(options, f"HOLD shop: {words}")
    on_terminal(asked[0])
    assert "\n" not in asked[0]


@pytest.mark.parametrize("words", HOSTILE)
def test_json_holds_the_words_as_they_are(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    options: Any = type("Options", (), {"json": True})
    show(options, {"said": words}, "")
    out = capsys.readouterr().out
    assert json.loads(out) == {"said": words}
    assert all(letter.isprintable() or letter == "\n" for letter in out)


def rendered(text: str) -> str:
    """As a page does that knows tables and struck words, and takes HTML for HTML."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


@pytest.mark.parametrize("words", HOSTILE)
def test_markdown_shows_words_as_they_are(words: str) -> None:
    for text in (literal(words), f"| a | b |\n| --- | --- |\n| {literal(words)} | 1 |\n", f"- **x** {literal(words)}"):
        html = rendered(text)
        tags = set(re.findall(r"<\s*/?\s*([a-zA-Z]+)", html))
        assert tags <= {"p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong"}, html
        assert html.count("<td") in {0, 2}, html
        assert not re.search(r"https?://|www\.", text), text


@pytest.mark.parametrize("words", HOSTILE)
def test_a_report_shows_words_as_they_are(words: str) -> None:
    night = document()
    plain = set(re.findall(r"<\s*/?\s*([a-zA-Z0-9]+)", rendered(page.markdown(night))))
    for field in ("question", "reason"):
        night[field] = words
    night["data"] |= {"left_out": {words: words}, "unknown_columns": {words: [words]}}
    night["data"]["broken_rules"] = [{"rule": words, "scope": words, "severity": words, "unexpected": 3}]
    night["verdicts"] = [{"gate": words, "verdict": "PASS", "reason": words, "figures": {}}]
    night["scores"]["rule"]["description"] = words
    night["units"]["name"] = words
    html = rendered(page.markdown(night))
    assert set(re.findall(r"<\s*/?\s*([a-zA-Z0-9]+)", html)) <= plain, html
    assert "onerror" not in re.sub(r"&lt;[^<]*", "", html)


def test_our_own_names_stay_what_they_are() -> None:
    plain = {"roc_auc": 1.0, "decision": "KEEP", "days": ["2024-01-01"], "metric": "f1", "none": None, "yes": True}
    assert on_a_page(plain) == plain
    assert page.markdown(document()) == page.markdown(json.loads(json.dumps(document())))


@pytest.mark.parametrize("letters", [LONGEST_REASON + 1, 110_000])
def test_a_reason_that_is_too_long_is_refused_before_anything_is_asked(
    letters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    ledger = Ledger(open_store(str(tmp_path / "store")), "purchase")
    ledger.append(entry(1, decision="FIRST", candidate=version(1), champion=version(1), reference=version(1)))
    for command in (["hold", "purchase"], ["promote", "purchase", "--version", "1"]):
        assert main([*command, "--yes", "--reason", "x" * letters]) == 2
        said = capsys.readouterr().err
        assert f"a reason has at most 1,000 letters, but it has {letters:,}: say it shorter" in said
        assert len(said) < 200
    assert len(ledger.entries()) == 1
    carry_out(ledger, None, plan_hold(ledger, "x" * LONGEST_REASON))


def raising() -> dict[str, BaseException]:
    """What a library may raise about a row, in every form that Prefect's log would print."""
    library = ValueError(f"could not convert string to float: '{SECRET}'")
    ours = DataRejected("a rule", "a value", "a step")
    ours.__cause__ = library
    context = StoreUnavailable("a store", "away", "wait")
    context.__context__ = library
    noted = KeyError("a")
    noted.add_note(SECRET)
    deep = RuntimeError("outer")
    deep.__cause__ = library
    return {
        "a library's": library, "a key": KeyError(SECRET), "ours with a cause": ours, "ours in a context": context,
        "with a note": noted, "chained": deep, "a group": ExceptionGroup(SECRET, [library]),
        "its own": type("Odd", (Exception,), {})(SECRET), "no words": AssertionError(),
        "an import": ImportError(SECRET, name="torchtext"),
        "unreadable bytes": UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, "invalid start byte"),
    }  # fmt: skip


@pytest.mark.parametrize("error", raising().values(), ids=raising())
def test_what_leaves_is_in_our_words(error: Exception) -> None:
    import traceback

    with pytest.raises(Exception) as caught, only_our_words():
        raise error
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in f"{caught.value!r} {caught.value}"
    assert SECRET not in str(unforeseen(error))


def test_prefect_is_told_no_words_of_a_library(prefect: str, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of stages and of flows: in states, events and the log."""
    from prefect import flow

    from tasks.flow_run import in_our_words
    from tasks.stage import stage

    since, logger = datetime.now(UTC), logging.getLogger("retrain")
    caplog.set_level(logging.DEBUG)

    def of_stage(error: BaseException) -> Any:
        def fail() -> None:
            raise error

        return stage(f"fails with {type(error).__name__}", timeout_seconds=60)(fail)

    @flow(name="control-918274", retries=0)
    def all_stages() -> None:
        logger.info("control-918274")
        for error in raising().values():
            if not isinstance(error, StoreUnavailable):  # it would be tried again
                of_stage(error)(return_state=True)
        with in_our_words():
            raise ValueError(SECRET)

    all_stages(return_state=True)
    send_what_is_held()
    wait_until_recorded(prefect, since)
    with closing(sqlite3.connect(f"file:{home / 'prefect' / 'prefect.db'}?mode=ro", uri=True)) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        recorded = "\n".join(str(row) for name in tables for row in connection.execute(f'select * from "{name}"'))
    assert "control-918274" in recorded
    assert "ValueError at test_words.py" in recorded
    assert SECRET not in recorded
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"could not convert string to float: '{SECRET}'", "ValueError"),
        (f'Error parsing datetime string "{SECRET}" at position 0', "ValueError"),
        (f"invalid literal for int() with base 10: '{SECRET}'", "ValueError"),
        (f"Integer column has NA values in column {SECRET}", "ValueError"),
        (f"time data '{SECRET}' is not ISO8601", "ValueError"),
        ("", "ValueError"),
        ("'utf-8' codec can't decode byte 0xff in position 5: invalid start byte",) * 2,
        ("Compressed file ended before the end-of-stream marker was reached",) * 2,
    ],
)
def test_of_a_file_that_cannot_be_read_only_what_holds_no_value_is_told(said: str, told: str) -> None:
    assert short(ValueError(said)) == told
