"""What a report says of the columns that the model's answers rest on."""

from dataclasses import replace
from typing import Any

import pytest

from ml import BetterThanTrivial
from ml.evaluation.explanation import Explanation, Importance
from ml.evaluation.handles import Interval
from ml.reporting.document import _importance
from ml.reporting.importance_figure import importance_figure
from ml.reporting.importance_section import importance_lines, sentence
from ml.reporting.page import markdown
from ml.storage.json_form import from_json, to_json
from ml.storage.records import Work
from tests.reporting.test_report import document
from tests.tiny import tills


def importance(f1: float | None, loss: float, *columns: str) -> Importance:
    of_f1 = Interval(value=None, reason="no") if f1 is None else Interval(value=f1, low=f1 - 0.01, high=f1 + 0.01)
    return Importance(columns=columns, costs={"f1": of_f1, "log_loss": Interval(value=loss, low=loss, high=loss + 0.1)})


TOLD = Explanation(
    work=Work(stage="explain", seconds=1.0, computed=1),
    metrics=("f1", "log_loss"),
    importances=(
        importance(0.412, 0.82, "amount"),
        importance(0.05, 0.1, "items"),
        importance(-0.0001, -0.0001, "shop"),
        importance(0.5, 1.5, "amount", "items"),
    ),
    rows=4_000,
    test_rows=25_000,
    shuffles=3,
    unit="day",
    units=28,
)


def text(**changes: Any) -> str:
    return "\n".join(importance_lines(_importance(replace(TOLD, **changes))))


def test_the_table_says_what_each_column_is_worth_with_its_interval() -> None:
    lines = text().splitlines()
    assert "| column | F1 falls by | log loss rises by |" in lines
    assert "| amount | 0.412 [0.402, 0.422] | +82.0 % [+82.0 %, +92.0 %] |" in lines
    assert "| shop | 0.000 [-0.010, 0.010] | 0.0 % [0.0 %, +10.0 %] |" in lines
    assert "| amount + items | 0.500 [0.490, 0.510] | +150.0 % [+150.0 %, +160.0 %] |" in lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Measured on 4,000 of 25,000 test rows, drawn at random, shuffled 3 times."),
        ({"rows": 25_000}, "Measured on 25,000 test rows, shuffled 3 times."),
        ({}, "each of 28 days changes"),
        ({}, "stand for each other and were shuffled together"),
        ({"unmeasured": 900}, "900 columns went least with the model's answers: not measured."),
        ({"reason": "the model fell over"}, "Which columns matter could not be measured: the model fell over."),
        ({"importances": (importance(None, 0.1, "amount"),)}, "| amount | undefined | +10.0 % "),
        ({"importances": (importance(0.1, 0.1, "amount"),) * 23}, "3 more columns mattered less and are not shown."),
    ],
)
def test_what_a_reader_must_know_of_the_figures_is_said(changes: dict[str, Any], words: str) -> None:
    assert words in text(**changes)


def test_the_section_stands_in_the_page_and_older_nights_have_none() -> None:
    assert "## Which columns matter" in markdown(document() | _importance(TOLD))
    assert "## Which columns matter" not in markdown(document())
    assert _importance(None) == {}


def test_a_column_that_is_called_like_markup_is_shown_as_it_is() -> None:
    told = replace(TOLD, importances=(importance(0.1, 0.1, "<b>|x"),))
    assert "| &lt;b&gt;&#124;x | 0.100" in markdown(document() | _importance(told))


def test_a_log_line_names_the_surest_columns() -> None:
    assert (
        sentence(TOLD)
        == "The answers rest most on amount (0.412), items (0.050): F1 falls by that much where one is shuffled."
    )
    unsure = replace(TOLD, importances=(importance(0.005, 0.1, "amount"),))
    assert sentence(unsure) == "By shuffling, no column matters surely."


def test_what_is_kept_comes_back_as_it_was() -> None:
    assert from_json(Explanation, to_json(TOLD)) == TOLD


def test_the_figure_has_a_bar_for_each_column_and_there_is_none_without_figures() -> None:
    (image,) = importance_figure(tills(), TOLD).values()
    assert image.startswith(b"\x89PNG")
    of_loss = tills(metric="log_loss", gates=(BetterThanTrivial(metric="log_loss", why="a test"),))
    loss_only = replace(TOLD, metrics=("log_loss",))
    assert importance_figure(of_loss, loss_only)
    assert importance_figure(tills(), None) == importance_figure(tills(), replace(TOLD, importances=())) == {}
