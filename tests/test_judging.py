"""Everyone's answers on the same rows become scores and evidence."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from ml.cleaning import DAY, LABEL
from ml.evaluation import METRICS
from ml.judging import NoAnswer, answer_table, baselines, judge_all, model_answers, resampling_units
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
    judged = judge_all(use_case, test, answers, dict.fromkeys(answers, "words"), seed=1)
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


def test_the_resampling_unit_is_the_day_the_group_or_the_row() -> None:
    dated = pd.DataFrame({DAY: ["2024-01-01", "2024-01-02"], "shop": ["a", "b"]})
    units, name = resampling_units(tills(group="shop"), dated)
    assert (list(units), name) == (["2024-01-01", "2024-01-02"], "day")
    units, name = resampling_units(parcels(group="carrier"), rows_of("binary", 4))
    assert (len(units), name) == (4, "carrier")
    assert resampling_units(parcels(), rows_of("binary", 4)) == (None, "row")


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
