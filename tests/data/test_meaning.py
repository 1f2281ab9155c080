"""Data that lost their meaning: what is counted of a day, and when the days before say that it means something else."""

import re
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.cli import main
from ml import DatabaseSource, FileSource, Source, UseCase
from ml.data.handles import JoinCounts, PartitionCheck
from ml.data.meaning import (
    ALL_HASHES,
    SAMPLE,
    Compared,
    Sample,
    compare,
    hashes_of,
    known_of,
    odd_at_start,
    parse_sample,
)
from ml.data.partitions import PartitionRows
from ml.data.rejections import way_out
from ml.data.validation import Batch, check_batch
from ml.errors import DataRejected
from ml.serving.columns import Column, conform
from tests.story import Shop
from tests.tiny import FIRST_DAY, parcels, sales, tills

ROWS = 40
DAYS = [str(FIRST_DAY + timedelta(days=number)) for number in range(12)]
LAST = DAYS[-1]
Change = Callable[[pd.DataFrame], Any]


def use_case(**changes: Any) -> UseCase:
    """With a nullable column of every type; a third of `coupon` and 80 % of `note` is missing on every day."""
    columns = (
        *tills().columns[:-1],
        Column(name="zone", category=True, nullable=True),
        Column(name="customer", type="text", nullable=True),
        Column(name="seen_at", type="timestamp", nullable=True, feature=False),
        Column(name="coupon", type="text", nullable=True),
        Column(name="note", type="text", nullable=True),
        tills().columns[-1],
    )
    nullable = {"amount", "items", "shop"}
    columns = tuple(Column(**{**vars(c), "nullable": c.nullable or c.name in nullable}) for c in columns)
    return tills(**{"columns": columns, **changes})


def rows_of(day: str, rows: int = ROWS) -> pd.DataFrame:
    generator = np.random.default_rng(date.fromisoformat(day).toordinal() + 1)
    numbers = np.arange(rows)
    return sales(date.fromisoformat(day), rows).assign(
        zone=generator.integers(1, 6, rows),
        customer=[f"{day} {number}" for number in numbers],
        seen_at=pd.Timestamp(day),
        coupon=pd.Series(generator.choice(["five", "ten"], rows), dtype="str").mask(numbers % 3 == 0),
        note=pd.Series("by hand", numbers, dtype="str").mask(numbers % 5 != 0),
    )


def checks_of(
    frames: dict[str, pd.DataFrame], unmatched: dict[str, int] | None = None, **changes: Any
) -> list[PartitionCheck]:
    case = use_case(**changes)
    typed = {day: conform(rows, case.columns) for day, rows in frames.items()}
    counts = {
        day: JoinCounts(rows=ROWS, null_keys=0, unmatched=number, side_null_keys=0)
        for day, number in (unmatched or {}).items()
    }
    joins = {day: {"weather": count} for day, count in counts.items()}
    batch = Batch.of(case.key, {day: PartitionRows(rows, joins=joins.get(day, {})) for day, rows in typed.items()})
    return list(check_batch(case, case.column_rules, batch).checks.values())


def healthy(days: list[str] = DAYS, **changed: Change) -> dict[str, pd.DataFrame]:
    """Rows by day; on the last day, columns are changed."""
    frames = {day: rows_of(day) for day in days}
    last = frames[days[-1]]
    frames[days[-1]] = last.assign(**{name: change(last) for name, change in changed.items()})
    return frames


def compared(checks: list[PartitionCheck], accepted: tuple[str, ...] = (), limit: float = 0.5) -> Compared:
    return compare(checks, [], dict.fromkeys(accepted, "so"), limit)


NOTHING: Change = lambda rows: None  # noqa: E731 - a column without any value
NEW_WORDS: dict[str, Change] = {
    "shop": lambda rows: rows["shop"].str.upper() + "!",
    "zone": lambda rows: rows["zone"] + 100,
    "coupon": lambda rows: rows["coupon"] + " ",
}
NULLABLE = ["amount", "items", "shop", "zone", "customer", "seen_at", "coupon", "returned_after"]


def test_healthy_days_lose_nothing_and_move_nowhere() -> None:
    found = compared(checks_of(healthy()))
    assert (found.lost, found.moves) == ({}, ())


@pytest.mark.parametrize("column", NEW_WORDS)
def test_a_day_whose_categories_are_all_new_is_lost(column: str) -> None:
    found = compared(checks_of(healthy(**{column: NEW_WORDS[column]})))
    assert list(found.lost) == [LAST]
    assert f"100% of the rows have a value in {column} that was never seen before" in found.lost[LAST]
    assert f"at most 0% on the 11 usable days since {DAYS[0]}" in found.lost[LAST]


@pytest.mark.parametrize("column", NULLABLE)
def test_a_day_that_has_no_value_in_a_column_is_lost(column: str) -> None:
    found = compared(checks_of(healthy(**{column: NOTHING})))
    assert list(found.lost) == [LAST]
    assert f"{column} is missing in all rows" in found.lost[LAST]


def test_a_day_whose_side_table_matches_nothing_is_lost() -> None:
    unmatched = dict.fromkeys(DAYS, 3) | {LAST: ROWS}
    found = compared(checks_of(healthy(), unmatched))
    assert list(found.lost) == [LAST]
    assert "side table weather matches none of the rows" in found.lost[LAST]
    assert "at most 8% on the 11 usable days" in found.lost[LAST]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"customer": lambda rows: rows["customer"] + " new"}, "an identifier is new on every day"),
        ({"note": NOTHING}, "it is missing in most rows on every day"),
        ({"shop": lambda rows: rows["shop"].mask(np.arange(ROWS) < 18, "web")}, "most rows are of known shops"),
        ({"zone": lambda rows: rows["zone"].mask(np.arange(ROWS) > 0)}, "one row has a zone"),
        ({"amount": lambda rows: rows["amount"] * 30}, "a number has no vocabulary"),
    ],
)
def test_what_is_usual_or_partial_is_no_loss(changed: dict[str, Change], why: str) -> None:
    assert compared(checks_of(healthy(**changed))).lost == {}, why


@pytest.mark.parametrize("column", [*NEW_WORDS, "amount"])
def test_what_too_few_rows_or_days_say_is_not_believed(column: str) -> None:
    change = NEW_WORDS.get(column, NOTHING)
    frames = healthy(**{column: change})
    assert compared(checks_of({**frames, LAST: frames[LAST].iloc[:9]})).lost == {}
    assert compared(checks_of(dict(list(frames.items())[-7:]))).lost == {}
    assert list(compared(checks_of(dict(list(frames.items())[-8:]))).lost) == [LAST]


def test_a_vocabulary_that_often_changes_is_none() -> None:
    """A campaign's name, for example, every five days."""
    frames = {
        day: rows.assign(coupon=f"campaign {number // 5}") for number, (day, rows) in enumerate(healthy().items())
    }
    assert compared(checks_of(frames)).lost == {}


@pytest.mark.parametrize("limit", [0.5, 1.0])
def test_the_use_case_says_how_much_may_be_new(limit: float) -> None:
    found = compared(checks_of(healthy(shop=NEW_WORDS["shop"])), limit=limit)
    assert list(found.lost) == ([LAST] if limit < 1 else [])
    half = compared(checks_of(healthy(shop=lambda rows: rows["shop"].mask(np.arange(ROWS) < 16, "web"))), limit=0.3)
    assert list(half.lost) == [LAST]


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize("column", [*NEW_WORDS, "amount", "seen_at"])
def test_an_odd_day_at_the_start_of_a_window_is_told_by_the_days_around_it(column: str, place: int) -> None:
    """It stays lost when the days before it have left the window."""
    frames = {day: rows_of(day) for day in DAYS}
    odd = frames[DAYS[place]]
    frames[DAYS[place]] = odd.assign(**{column: NEW_WORDS.get(column, NOTHING)(odd)})
    checks = checks_of(frames)
    assert list(odd_at_start(checks, {}, 0.5)) == [DAYS[place]]
    assert odd_at_start(checks, {DAYS[place]: "so"}, 0.5) == {}
    assert list(compare(checks, [], {}, 0.5, odd_at_start(checks, {}, 0.5)).lost) == [DAYS[place]]


def test_a_lasting_change_at_the_start_of_a_window_is_no_odd_day() -> None:
    frames = {day: rows_of(day) for day in DAYS}
    for day in DAYS[3:]:
        frames[day] = frames[day].assign(shop=frames[day]["shop"].str.upper())
    assert odd_at_start(checks_of(frames), {}, 0.5) == {}
    assert odd_at_start(checks_of({day: rows_of(day) for day in DAYS}), {}, 0.5) == {}


LASTING: dict[str, Change] = {**NEW_WORDS, "amount": NOTHING, "seen_at": NOTHING}


@pytest.mark.parametrize("column", LASTING)
def test_a_lasting_change_is_refused_every_day_until_one_is_accepted(column: str) -> None:
    frames = healthy()
    for day in DAYS[8:]:
        frames[day] = frames[day].assign(**{column: LASTING[column](frames[day])})
    checks = checks_of(frames)
    assert list(compared(checks).lost) == DAYS[8:]
    assert compared(checks, accepted=(DAYS[8],)).lost == {}
    assert list(compared(checks, accepted=(DAYS[9],)).lost) == [DAYS[8]]


def test_after_an_accepted_change_another_one_is_refused() -> None:
    frames = healthy()
    frames[DAYS[8]] = frames[DAYS[8]].assign(shop=frames[DAYS[8]]["shop"].str.upper())
    frames[LAST] = frames[LAST].assign(shop="?")
    assert list(compared(checks_of(frames), accepted=(DAYS[8],)).lost) == [LAST]


def test_what_moves_without_being_lost_is_told() -> None:
    change = {"shop": lambda rows: rows["shop"].mask(np.arange(ROWS) < 12, "web")}
    (move,) = compared(checks_of(healthy(**change))).moves
    assert (move.day, move.kind, move.name, move.share, move.usual) == (LAST, "unseen", "shop", 0.3, 0.0)


def test_two_months_are_compared_as_one_row_of_days() -> None:
    checks = checks_of(healthy(shop=NEW_WORDS["shop"], customer=NOTHING))
    whole = compared(checks)
    first = compared(checks[:6])
    known = [known_of(check, first.unseen.get(check.day, {})) for check in checks[:6]]
    second = compare(checks[6:], known, {}, 0.5)
    assert (first.lost | second.lost, first.unseen | second.unseen) == (whole.lost, whole.unseen)


def test_labels_that_come_to_be_known_later_are_no_loss() -> None:
    frames = healthy(returned_after=NOTHING)
    assert list(compared(checks_of(frames)).lost) == [LAST]
    assert compared(checks_of(frames, known_at_column="seen_at")).lost == {}


@pytest.mark.parametrize("renamed", [False, True])
def test_of_many_categories_a_sample_tells_as_much(renamed: bool) -> None:
    """5,000 of them, of which a day has 3,000 and keeps 64."""
    generator = np.random.default_rng(1)
    frames = {day: rows_of(day, 3_000).assign(shop=generator.integers(0, 5_000, 3_000).astype(str)) for day in DAYS}
    if renamed:
        frames[LAST] = frames[LAST].assign(shop=frames[LAST]["shop"] + "x")
    checks = checks_of({day: rows.astype({"shop": "str"}) for day, rows in frames.items()})
    assert max(len(text) for check in checks for text in check.categories.values()) < 12 * SAMPLE
    assert list(compared(checks).lost) == ([LAST] if renamed else [])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=5), st.integers(1, 10**6), min_size=1, max_size=200))
def test_a_sample_is_the_same_after_it_was_kept(rows: dict[str, int]) -> None:
    sample = Sample.of(hashes_of(list(rows)), np.array(list(rows.values())))
    assert parse_sample(sample.text) == sample
    assert len(sample.rows) == min(SAMPLE, len(set(hashes_of(list(rows)).tolist())))
    assert (sample.bound == ALL_HASHES) == (len(set(hashes_of(list(rows)).tolist())) <= SAMPLE)


def test_no_value_of_a_row_is_kept_with_the_counts() -> None:
    kept = repr(checks_of(healthy()))
    assert not [word for word in ("north", "south", "five", "by hand", f"{LAST} 3") if word in kept]


SOURCES: list[tuple[dict[str, Any], str]] = [
    ({}, "deliver tills/2024-01-31.csv again"),
    ({"source": Source(folder="s3://lake/tills")}, "deliver s3://lake/tills/2024-01-31.csv again"),
    ({"source": FileSource(file="tills.csv", time_column="at")}, "deliver the rows of 2024-01-31 in tills.csv again"),
    (
        {"source": DatabaseSource(database="SALES", query="select 1", time_column="at")},
        "deliver the rows of 2024-01-31 in the database SALES again",
    ),
]


@pytest.mark.parametrize(("source", "words"), SOURCES)
def test_what_is_to_be_delivered_again_is_in_the_words_of_the_use_case(source: dict[str, Any], words: str) -> None:
    said = way_out(tills(**source), date(2024, 2, 1), "2024-01-31", "2024-01-31.csv", "lower min_rows", lost=False)
    assert said.startswith(f"{words}, or lower min_rows in the use case; or go on without it by retrain data exclude")


def test_a_use_case_without_days_cannot_go_on_without_them() -> None:
    said = way_out(parcels(), date(2024, 2, 1), "all", "all.parquet", "declare nullable=True for zone", lost=False)
    again = "then retrain run parcels --as-of 2024-02-01"
    assert said == f"deliver parcels/all.parquet again, or declare nullable=True for zone, {again}"


@pytest.mark.parametrize("lost", [True, False])
def test_the_next_step_has_the_file_the_day_and_the_commands(lost: bool) -> None:
    words = way_out(tills(), date(2024, 2, 1), "2024-01-31", "2024-01-31.csv", "", lost=lost)
    assert words.startswith("deliver tills/2024-01-31.csv again")
    assert ("retrain data include tills 2024-01-31 --reason" in words) is lost
    assert ("mend the declaration in the use case" in words) is not lost
    assert "retrain data exclude tills 2024-01-31 --reason WHY" in words
    assert words.endswith("then retrain run tills --as-of 2024-02-01")


@pytest.mark.slow
def test_the_words_of_a_rejection_lead_to_a_good_night(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Countries are written in small letters from one day on, for good: what the sentence says is done."""
    file = shop.settings.project / "use_cases" / "shop.py" if shop.settings.project else Path()
    file.write_text(file.read_text().replace(', values=("DE", "FR", "US")', ""))
    rows = pd.read_parquet(shop.file("2024-03-14"))
    shop.rewrite("2024-03-14", country=rows["country"].str.lower())
    with pytest.raises(DataRejected) as caught:
        shop.night("2024-03-15")
    accept, again = (re.search(rf"retrain ({what}[^;.]*)", caught.value.next_step) for what in ("data include", "run"))
    assert accept is not None and again is not None
    with pytest.raises(DataRejected):
        shop.night("2024-03-15")
    assert main(["data", "include", "shop", "2024-03-13", "--reason", "so", "--yes"]) == 2
    assert "2024-03-14" in capsys.readouterr().err
    assert main([*accept[1].replace("WHY", "lasting").split(), "--yes"]) == 0
    assert main(["data", "include", "shop", "2024-03-14", "--reason", "so", "--yes"]) == 2
    assert again[1] == "run shop --as-of 2024-03-15"
    document = shop.document("2024-03-15")
    assert (document["decision"], document["data"]["left_out"]) == ("FIRST", {})
    assert shop.entries()[-1].accepted == {"2024-03-14": "lasting"}
    assert main(["status", "shop"]) == 0
    assert "Accepted as it is: 2024-03-14, lasting" in capsys.readouterr().out
