"""Everyone's answers on the same rows become scores and evidence."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from sklearn.metrics import confusion_matrix

from ml import Column
from ml.data.cleaning import DAY, LABEL
from ml.data.split import units_of
from ml.evaluation.judging import (
    NoAnswer,
    answer_table,
    baselines,
    judge_all,
    model_answers,
)
from ml.metrics.scores import METRICS, PROBABILITY_SCORES
from ml.serving.output import TaskKind
from tests.tiny import KINDS, cleaned, packaged, parcel_rows, parcels, tills


def rows_of(kind: TaskKind, rows: int = 100, seed: int = 5) -> pd.DataFrame:
    return cleaned(parcels(kind), parcel_rows(rows, seed)).assign(**{DAY: "all"})


@pytest.mark.parametrize("kind", KINDS)
def test_everyone_is_scored_with_every_metric_on_the_same_rows(kind: TaskKind) -> None:
    use_case, test = parcels(kind), rows_of(kind)
    found = baselines(use_case, rows_of(kind, 300, 6))
    answers = {who: baseline.answers(test) for who, baseline in found.items()}
    answers["candidate"] = model_answers(use_case, packaged(kind).predict, test)
    judged = judge_all(use_case, test, answers, dict.fromkeys(answers, "words"))
    assert set(judged.models) == (
        {"candidate", "constant"} if kind == "multiclass" else {"candidate", "constant", "rule"}
    )
    assert set(judged.evidence.pairs) == set(judged.models) - {"candidate"}
    for model in judged.models.values():
        assert set(METRICS[kind]) <= set(model.scores)
        assert all(score.value is not None or score.reason for score in model.scores.values())
        assert (model.confusion is None) == (kind == "regression")
        assert model.confusion is None or sum(map(sum, model.confusion)) == len(test)
    for who, said in answers.items():
        matrix, y = judged.models[who].confusion, test[LABEL]
        if matrix is not None:
            assert np.array_equal(matrix, confusion_matrix(y, said.chosen, labels=range(len(matrix))))
        else:
            assert judged.models[who].scores["mae"].value == pytest.approx(np.abs(y - said.chosen).mean())
    table = answer_table(test, answers["candidate"])
    assert list(table.columns[:2]) == ["label", "answer"]
    assert table.shape == (len(test), 2 + {"binary": 2, "multiclass": 3, "regression": 0}[kind])


def judged_by_day(kind: TaskKind, days: Any) -> Any:
    """Candidate and baselines on rows of these days."""
    seen_at = Column(name="seen_at", type="timestamp", feature=False)
    dated = parcels(kind, columns=(*parcels(kind).columns, seen_at), time_column="seen_at")
    test = rows_of(kind, len(days)).assign(**{DAY: days})
    answers = {who: baseline.answers(test) for who, baseline in baselines(dated, rows_of(kind, 300, 6)).items()}
    answers["candidate"] = model_answers(parcels(kind), packaged(kind).predict, rows_of(kind, len(days)))
    return judge_all(dated, test, answers, dict.fromkeys(answers, "words"))


@pytest.mark.parametrize("kind", KINDS)
def test_days_are_judged_in_their_order_and_nothing_else_has_one(kind: TaskKind) -> None:
    """With other names the same days follow each other in another order. That moves intervals and no value."""
    names = np.array([f"2024-01-{day:02}" for day in range(1, 29)])
    first, same, other = (
        judged_by_day(kind, order[np.arange(560) // 20])
        for order in (names, names, np.random.default_rng(0).permutation(names))
    )
    assert first == same
    name = METRICS[kind][0]
    ours, theirs = (judged.models["candidate"].scores[name] for judged in (first, other))
    assert ours.value == theirs.value
    assert (ours.low, ours.high) != (theirs.low, theirs.high)
    assert all(len(pair.order) == 28 for pair in first.evidence.pairs.values())


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("named", [(), ("f1",), ("log_loss", "f1"), PROBABILITY_SCORES])
def test_scores_of_probabilities_have_intervals_where_they_are_named(kind: TaskKind, named: tuple[str, ...]) -> None:
    """Naming one changes no other score, and no value by more than the order of a sum."""
    use_case, test = parcels(kind), rows_of(kind)
    answers = {who: baseline.answers(test) for who, baseline in baselines(use_case, rows_of(kind, 300, 6)).items()}
    answers["candidate"] = model_answers(use_case, packaged(kind).predict, test)
    plain, judged = (
        judge_all(use_case, test, answers, dict.fromkeys(answers, "words"), names) for names in ((), named)
    )
    for who, model in judged.models.items():
        before = plain.models[who].scores
        for name, score in model.scores.items():
            if name in named and name in PROBABILITY_SCORES:
                assert score.value == pytest.approx(before[name].value)
                assert score.low is not None
                assert score.high is not None
                assert score.low <= score.value <= score.high  # type: ignore[operator]
            else:
                assert score == before[name]
    measured = {name for name in PROBABILITY_SCORES if judged.evidence.pairs["constant"].measures(name)}
    assert measured == set(named) & set(PROBABILITY_SCORES)


def test_the_unit_is_the_day_the_group_or_the_row() -> None:
    dated = pd.DataFrame({DAY: ["2024-01-01", "2024-01-02"], "shop": ["a", "b"]})
    units, name = units_of(tills(group="shop"), dated)
    assert (list(units), name) == (["2024-01-01", "2024-01-02"], "day")
    units, name = units_of(parcels(group="carrier"), rows_of("binary", 4))
    assert (len(units), name) == (4, "carrier")
    assert units_of(parcels(), rows_of("binary", 4)) == (None, "row")


def test_a_blank_group_is_no_unit_as_it_is_no_group_of_the_split() -> None:
    rows = rows_of("binary", 4).assign(carrier=pd.Series(["a", "", "  ", "a"], dtype="str"))
    units, _ = units_of(parcels(group="carrier"), rows)
    assert list(pd.isna(units)) == [False, True, True, False]


NULLS = {"none": 0.0, "half": 0.5, "all": 1.0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["day", "row", "carrier", "zone", "distance", "seen_at"])
@pytest.mark.parametrize("nulls", NULLS)
def test_evidence_report_and_scikit_learn_agree_on_all_test_rows(kind: TaskKind, unit: str, nulls: str) -> None:
    """Whatever the unit: a row without one is a unit of its own, and not left out."""
    test = rows_of(kind, 300)
    test["seen_at"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(300) // 10, unit="D")
    test[DAY] = test["seen_at"].dt.strftime("%Y-%m-%d")
    null = np.random.default_rng(1).random(300) < NULLS[nulls]
    changes: dict[str, Any] = {"time_column": "seen_at"} if unit == "day" else {}
    if unit not in {"day", "row"}:
        changes = {"group": unit}
        test[unit] = test[unit].mask(null)
    seen_at = Column(name="seen_at", type="timestamp", feature=False)
    use_case = parcels(kind, columns=(*parcels(kind).columns, seen_at), **changes)
    found = baselines(use_case, rows_of(kind, 300, 6))
    answers = {who: baseline.answers(test) for who, baseline in found.items()}
    answers["candidate"] = model_answers(parcels(kind), packaged(kind).predict, rows_of(kind, 300))
    judged = judge_all(use_case, test, answers, dict.fromkeys(answers, ""))
    for pair in judged.evidence.pairs.values():
        totals = pair.totals()[0]
        assert (totals[0] if kind == "regression" else totals.sum()) == len(test)
    own = unit not in {"day", "row"} and test[unit].isna()
    expected = 300 if unit == "row" else test[unit if own is not False else DAY].nunique() + int(np.sum(own))
    assert {pair.units for pair in judged.evidence.pairs.values()} == {expected}
    y = test[LABEL].to_numpy()
    for who, said in answers.items():
        scores = {name: interval.value for name, interval in judged.models[who].scores.items()}
        assert {name: scores[name] for name in sklearn_scores(kind, y, said.chosen)} == pytest.approx(
            sklearn_scores(kind, y, said.chosen)
        )


def sklearn_scores(kind: TaskKind, y: Any, said: Any) -> dict[str, float]:
    if kind == "regression":
        return {"rmse": float(metrics.root_mean_squared_error(y, said)), "r2": float(metrics.r2_score(y, said))}
    return {
        "accuracy": float(metrics.accuracy_score(y, said)),
        "f1": float(metrics.f1_score(y, said, average="binary" if kind == "binary" else "macro", zero_division=0)),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", [np.nan, np.inf, "no class"])
def test_an_answer_that_is_none_is_refused_and_not_counted_elsewhere(kind: TaskKind, said: Any) -> None:
    test = rows_of(kind, 20)

    def predict(rows: pd.DataFrame) -> pd.DataFrame:
        out = packaged(kind).predict(rows)
        column = "prediction" if said == "no class" or kind == "regression" else out.columns[1]
        value = np.nan if kind == "regression" and said == "no class" else said
        return out.assign(**{column: out[column].mask(out.index == 3, value)})

    with pytest.raises(NoAnswer, match="1 of 20 test rows"):
        model_answers(parcels(kind), predict, test)


def test_a_model_that_refuses_rows_of_today_cannot_be_compared() -> None:
    test = rows_of("binary", 10)
    test.loc[3, "weight"] = 31.0
    with pytest.raises(NoAnswer, match="refuses 1 of 10 test rows"):
        model_answers(parcels(), packaged().predict, test)


def test_answers_are_class_indices_in_the_declared_order() -> None:
    test = rows_of("multiclass")
    answers = model_answers(parcels("multiclass"), packaged("multiclass").predict, test)
    assert answers.probability is not None
    assert np.array_equal(answers.chosen, answers.probability.argmax(axis=1))
    assert (answers.chosen == test[LABEL]).mean() > 0.4
