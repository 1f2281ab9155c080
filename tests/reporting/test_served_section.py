"""What is said of the score of what served."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from ml.evaluation.promise import Band, JudgedDay, Promise
from ml.evaluation.served import Served, ServedDay, ServedScore
from ml.reporting.document import _served
from ml.reporting.figures import served_figure
from ml.reporting.served_section import sentence, served_lines
from tests.tiny import tills

SCORE = ServedScore(
    version=4, versions=1, metric="f1", days=28, rows=2_800, first_day="2024-02-01", last_day="2024-02-28",
    score=0.7512, relative=0.61, promised=Band(low=0.709, high=0.788), one_day=Band(low=0.6581, high=0.831),
    outside=1, left=None, left_side=None,
)  # fmt: skip
DAY = ServedDay(
    day="2024-02-28", version=4, rows=1_000, score=0.7, relative=0.6, one_day=SCORE.one_day, days=28, newest=0.7512,
    promised=SCORE.promised,
)  # fmt: skip
JUDGED = JudgedDay(rows=100, score=0.7, relative=None)


def lines(**changes: Any) -> str:
    return "\n".join(served_lines({"served": _served(Served(**changes))}))


def test_the_sentence_says_who_served_how_well_and_what_was_promised() -> None:
    assert sentence(SCORE) == (
        "What served (version 4) reached F1 0.751 on 28 days, 2024-02-01 to 2024-02-28; promised was 0.709 to 0.788."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"versions": 3}, "(3 versions, the last 4)"),
        ({"days": 1}, "on 2024-02-28;"),
        ({"score": None}, "F1 undefined on"),
        ({"promised": None}, "; what was promised is not known."),
        ({"left": "2024-02-20", "left_side": "worse"}, "Since 2024-02-20 it has been worse than promised."),
        ({"left": "2024-02-20", "left_side": "better"}, "Since 2024-02-20 it has been better than promised."),
    ],
)
def test_the_sentence_of_other_scores(changes: dict[str, Any], words: str) -> None:
    assert words in sentence(replace(SCORE, **changes))


@pytest.mark.parametrize(("outside", "words"), [(0, ": none was."), (1, ": 1 was."), (4, ": 4 were.")])
def test_the_section_counts_the_days_that_were_worse(outside: int, words: str) -> None:
    text = lines(score=replace(SCORE, outside=outside), curve=(DAY,))
    assert "Nine in ten single days were promised to lie within 0.658 to 0.831" in text
    assert words in text
    assert "| 2024-02-28 | 4 | 1,000 | 0.700 | 0.600 |" in text


def test_the_section_is_left_out_where_nothing_served() -> None:
    assert served_lines({"served": None}) == []
    assert served_lines({}) == [], "of older entries"
    assert (_served(None), _served(Served())) == (None, None)


def test_the_section_names_what_could_not_be_scored_and_a_twin() -> None:
    days = tuple((f"2024-02-{day:02}", "version 4 could not be scored: so") for day in range(1, 29))
    text = lines(unscored=days, twin="The twin takes over.")
    assert "The twin takes over." in text
    assert "- 2024-02-28: version 4 could not be scored: so" in text
    assert "- and 8 earlier days" in text
    assert "|" not in text


def test_the_document_has_the_score_as_it_is() -> None:
    document = _served(Served(score=SCORE, curve=(DAY,) * 30))
    assert document is not None
    assert {name: document[name] for name in asdict(SCORE)} == asdict(SCORE)
    assert len(document["newest_days"]) == 20


@pytest.mark.parametrize("left", [None, "2024-02-28"])
@pytest.mark.parametrize("has_promise", [True, False])
def test_the_figure_is_a_picture(left: str | None, has_promise: bool) -> None:
    judgement = Promise(
        metric="f1", value=0.7, error=0.01, independent=28.0, mean=0.7, spread=0.05, days={"2024-01-31": JUDGED}
    )
    bare = replace(DAY, one_day=None, promised=None, score=None)
    served = Served(
        score=replace(SCORE, left=left, left_side=left and "worse"),
        curve=(replace(DAY, day="2024-02-27"), DAY if has_promise else bare),
        judgement=judgement if has_promise else None,
    )
    (image,) = served_figure(tills(), served).values()
    assert image.startswith(b"\x89PNG")
    assert served_figure(tills(), Served()) == {}
