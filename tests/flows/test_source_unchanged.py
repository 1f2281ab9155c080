"""A night whose source has changed asks a person, keeps the champion, and takes the answer."""

from pathlib import Path

import pandas as pd
import pytest

from deployments.cli import main
from ml.storage.ledger import NightEntry, open_questions
from tests.story import SHOP, Shop

WATCHED = SHOP.replace("    Source,", "    Source,\n    SourceUnchanged,", 1).replace(
    "    gates=(", '    gates=(\n        SourceUnchanged(why="a changed source is no merit of a candidate"),', 1
)
SAY = ["--yes", "--reason", "a test says so"]


@pytest.fixture
def shop(shop_with_cleaned_days: Shop) -> Shop:
    return shop_with_cleaned_days


@pytest.fixture
def watched_shop(shop: Shop) -> Shop:
    """The shop with the gate, and a champion that has seen the days until 2024-03-09."""
    _file(shop).write_text(WATCHED)
    assert shop.document("2024-03-10")["decision"] == "FIRST"
    return shop


def _file(shop: Shop) -> Path:
    assert shop.settings.project is not None
    return shop.settings.project / "use_cases" / "shop.py"


def raise_amounts(shop: Shop, *days: str) -> None:
    """Whoever delivers the days puts another currency into them."""
    for day in days:
        shop.rewrite(day, amount=pd.read_parquet(shop.file(day)).amount * 10)


def last_night(shop: Shop) -> NightEntry:
    return shop.entries()[-1]


def gate_says(night: NightEntry) -> str:
    (verdict,) = [verdict for verdict in night.result["verdicts"] if verdict["gate"] == "SourceUnchanged"]
    return str(verdict["verdict"])


def test_a_changed_source_asks_and_after_no_its_days_are_left_out(
    watched_shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = watched_shop
    raise_amounts(shop, "2024-03-11", "2024-03-12")
    shop.night("2024-03-13")
    night = last_night(shop)
    assert (night.decision, night.asks, gate_says(night)) == ("KEEP", True, "INCONCLUSIVE")
    assert [(change.column, change.kind, change.days) for change in night.source_changes] == [
        ("amount", "number", ("2024-03-11", "2024-03-12")),
        ("", "loss", ("2024-03-11", "2024-03-12")),
    ]
    assert "on 2024-03-11 to 2024-03-12 (2 days) amount is spread as on no day of the weeks before" in night.reason
    assert main(["promote", "shop", "--version", "2", "--no", "--exclude", *SAY]) == 0
    assert "No later night uses 2024-03-11, 2024-03-12." in capsys.readouterr().out
    shop.night("2024-03-14")
    night = last_night(shop)
    assert (gate_says(night), night.asks, open_questions(shop.ledger.entries())) == ("PASS", False, [])
    assert set(night.result["data"]["left_out"]) == {"2024-03-11", "2024-03-12"}


@pytest.mark.slow
def test_after_yes_the_same_change_is_not_asked_about_again(watched_shop: Shop) -> None:
    shop = watched_shop
    raise_amounts(shop, "2024-03-12", "2024-03-13", "2024-03-14")
    shop.night("2024-03-13")
    assert last_night(shop).asks
    assert main(["promote", "shop", "--version", "2", *SAY]) == 0
    for as_of in ("2024-03-14", "2024-03-15"):
        shop.night(as_of)
        assert gate_says(last_night(shop)) == "PASS", as_of
    head = shop.ledger.head()
    assert head is not None
    assert [(answer.column, answer.accepted) for answer in head.source_answers] == [("amount", True), ("", True)]


@pytest.mark.slow
def test_after_no_alone_the_champion_stays_until_the_days_are_left_out(watched_shop: Shop) -> None:
    shop = watched_shop
    raise_amounts(shop, "2024-03-12")
    shop.night("2024-03-13")
    assert main(["promote", "shop", "--version", "2", "--no", *SAY]) == 0
    shop.night("2024-03-14")
    assert (gate_says(last_night(shop)), last_night(shop).asks) == ("FAIL", False)
    assert main(["data", "exclude", "shop", "2024-03-12", *SAY]) == 0
    shop.night("2024-03-15")
    assert gate_says(last_night(shop)) == "PASS"


@pytest.mark.slow
def test_a_change_of_derive_is_told_in_the_report_and_asks(watched_shop: Shop) -> None:
    """The bytes are the same, and all days are changed, train and test alike."""
    shop = watched_shop
    derive = "def in_cents(rows):\n    return rows.assign(amount=rows.amount * 100)\n\n\nUSE_CASE = UseCase(\n"
    _file(shop).write_text(WATCHED.replace("USE_CASE = UseCase(\n", f"{derive}    derive=in_cents,\n", 1))
    shop.night("2024-03-11")
    night = last_night(shop)
    assert (gate_says(night), night.asks) == ("INCONCLUSIVE", True)
    (told,) = night.result["rewritten"]
    assert told.startswith("amount differs in 1,6") and "(28 days), whose bytes are the same, by +8" in told
    of_columns = [change for change in night.source_changes if change.column]
    assert [(change.column, change.kind, len(change.days)) for change in of_columns] == [("amount", "rewritten", 28)]
    shop.night("2024-03-12")
    night = last_night(shop)
    assert "rewritten" not in night.result, "nothing has changed since the last night"
    assert gate_says(night) == "INCONCLUSIVE", "no champion has seen it yet"
