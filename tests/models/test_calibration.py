"""Which calibration validation rows choose, and what each one does to the logits."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC, LinearSVC

from ml import Ensemble, Learner, NetworkClassifier, ScikitLearn, Trees
from ml.models.calibration import METHODS, Calibration, HeldOut, calibrated, isotonic, platt, temperature
from ml.serving.columns import with_tuples
from ml.serving.output import Output, TaskKind, probabilities, sigmoid
from tests.tiny import learnt, parcels

BINARY = Output(kind="binary")


def rows(count: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (rows, 1) and labels that follow from their probabilities exactly."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 1.5, (count, 1))
    return logits, (generator.random(count) < sigmoid(logits[:, 0])).astype(float)


def days(count: int, of: int = 14) -> np.ndarray:
    return np.array([f"2024-01-{1 + day:02}" for day in np.arange(count) * of // count], dtype=object)


def chosen(logits: np.ndarray, y: np.ndarray, wanted: Calibration = "auto", probable: bool = True) -> Output:
    held_out = HeldOut("binary", logits, y, days(len(y)), in_order=True)
    return replace(BINARY, **calibrated(held_out, wanted, probable=probable))


def bent(logits: np.ndarray) -> np.ndarray:
    """Logits of a model that is far too sure of high ones, which no line can mend."""
    return np.where(logits > -1, 6 * (logits + 1) - 1, logits)


@pytest.mark.parametrize("seed", range(5))
def test_a_model_whose_probabilities_are_right_is_not_calibrated(seed: int) -> None:
    output = chosen(*rows(seed=seed))
    assert replace(output, calibration="") == BINARY
    assert output.calibration.startswith("Calibration: none, because ")


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda z: 3 * z, "temperature"),
        (lambda z: 0.5 * z + 1.5, "Platt's"),
        (bent, "isotonic"),
    ],
)
def test_the_calibration_that_mends_a_model_is_chosen(wrong: Any, name: str) -> None:
    logits, y = rows(6000)
    output = chosen(wrong(logits), y)
    assert output.calibration.startswith(f"Calibration: {name}, because it changes the log loss"), output
    fresh, labels = rows(6000, seed=1)
    mended, right = (probabilities(o, z)[:, 1] for o, z in ((output, wrong(fresh)), (BINARY, fresh)))
    assert log_loss(labels, mended) < log_loss(labels, right) + 0.01


def test_too_few_days_choose_no_calibration() -> None:
    logits, y = rows(600)
    held_out = HeldOut("binary", 3 * logits, y, days(600, of=6), in_order=True)
    fields = calibrated(held_out, "auto", probable=True)
    assert fields == {
        "calibration": "Calibration: none, because 6 validation days cannot tell whether another is better."
    }


def test_a_model_that_errs_in_no_validation_row_is_not_calibrated() -> None:
    """Its loss is 0, of which no share can be said."""
    y = np.array([0.0, 1.0] * 50)
    output = chosen(np.where(y == 1, 800.0, -800.0)[:, None], y)
    assert replace(output, calibration="") == BINARY
    assert "nan" not in output.calibration


def test_three_classes_that_are_no_probabilities_get_a_temperature_without_a_comparison() -> None:
    logits = np.random.default_rng(0).normal(0, 1, (90, 3))
    fields = calibrated(HeldOut("multiclass", logits, np.array([0.0, 1, 2] * 30)), "auto", probable=False)
    words = "Calibration: temperature, because the model's own outputs are no probabilities."
    assert fields["calibration"] == words


@pytest.mark.parametrize("count", [8, 600])
def test_outputs_that_are_no_probabilities_are_calibrated_in_any_case(count: int) -> None:
    output = chosen(*rows(count), probable=False)
    assert "the model's own outputs are no probabilities" in output.calibration
    assert (output.slope, output.offset) != (1.0, 0.0)


@pytest.mark.parametrize("wanted", ["none", *METHODS])
def test_a_use_case_can_fix_the_calibration(wanted: Calibration) -> None:
    logits, y = rows(300)
    output = chosen(3 * logits, y, wanted)
    assert output.calibration.endswith("as the use case says.")
    fields = METHODS[wanted](3 * logits, y) if wanted in METHODS else {}
    assert replace(output, calibration="") == replace(BINARY, **fields)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([-9.0, -1.0, np.nextafter(-1.0, 0), 0.0, 1e-9, 1.0, 2.0, 40.0])),
        min_size=1,
        max_size=15,
    )
)
def test_no_calibration_changes_the_order_of_rows_or_is_certain(
    name: str, given_rows: list[tuple[bool, float]]
) -> None:
    """One class alone, ties and neighbouring floats are among the rows."""
    y, logits = np.array([float(label) for label, _ in given_rows]), np.array([[logit] for _, logit in given_rows])
    output = replace(BINARY, **METHODS[name](logits, y))
    tried = np.array([-50.0, -9.0, -2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 30.0])[:, None]
    p = probabilities(output, tried)[:, 1]
    assert np.isfinite(p).all()
    assert (np.diff(p) >= 0).all()


def test_an_isotonic_calibration_goes_through_the_steps_of_scikit_learns() -> None:
    logits, y = rows(500)
    steps = IsotonicRegression().fit(logits[:, 0], y).predict(logits[:, 0])
    curve = isotonic(logits, y)["curve"]
    middles = [logits[steps == step, 0].mean() for step in np.unique(steps)]
    assert [before for before, _ in curve] == pytest.approx(middles)
    inner = [after for _, after in curve][1:-1]
    assert sigmoid(np.array(inner)) == pytest.approx(np.unique(steps)[1:-1])


def test_platts_calibration_of_well_separated_rows_is_not_certain() -> None:
    y = np.array([0.0] * 10 + [1.0] * 10)
    output = replace(BINARY, **platt(np.where(y == 1, 3.0, -3.0)[:, None], y))
    assert probabilities(output, np.array([[3.0], [-3.0]]))[:, 1] == pytest.approx([11 / 12, 1 / 12], abs=0.01)


def test_platts_calibration_that_would_turn_the_order_round_is_refused() -> None:
    logits, y = rows(500)
    assert platt(-logits, y) == {}


@pytest.mark.parametrize("factor", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_temperature_undoes_a_factor_for_two_classes_and_for_more(factor: float, classes: int) -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 1.5, (4000, 1 if classes == 2 else classes))
    p = probabilities(Output(kind="binary" if classes == 2 else "multiclass"), logits)
    y = (generator.random((4000, 1)) > p.cumsum(axis=1)).sum(axis=1).astype(float)
    assert temperature(factor * logits, y)["slope"] == pytest.approx(1 / factor, rel=0.1)


def test_an_overconfident_model_of_three_classes_gets_a_temperature() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 1.5, (3000, 3))
    y = (generator.random((3000, 1)) > probabilities(Output(kind="multiclass"), logits).cumsum(axis=1)).sum(axis=1)
    fields = calibrated(HeldOut("multiclass", 5 * logits, y.astype(float)), "auto", probable=True)
    assert fields["slope"] == pytest.approx(0.2, rel=0.1)
    assert fields["calibration"].startswith("Calibration: temperature, because it changes the log loss")


def test_a_row_without_a_unit_is_a_unit_and_a_unit_lies_in_one_fold() -> None:
    logits, y = rows(60)
    units = np.array([None, "b", "a"] * 20, dtype=object)
    folds = HeldOut("binary", logits, y, units).folds()
    assert len(set(folds[1::3])) == len(set(folds[2::3])) == 1
    assert len(set(folds[::3])) == 5


def test_an_output_that_was_kept_answers_as_before() -> None:
    """Also one of before 2026-11-28, which has no curve and says nothing about its calibration."""
    logits, y = rows(300)
    output = replace(BINARY, **isotonic(logits, y))
    again = Output(**with_tuples(asdict(output) | {"curve": [list(point) for point in output.curve]}))
    assert (probabilities(again, logits) == probabilities(output, logits)).all()
    old = Output(
        **{"kind": "binary", "classes": ("a", "b"), "threshold": 0.4, "slope": 0.9, "offset": -0.1, "log": False}
    )
    assert (probabilities(old, logits)[:, 1] == sigmoid(0.9 * logits[:, 0] - 0.1)).all()


BALANCED = ScikitLearn(LogisticRegression(class_weight="balanced"))
NO_PROBABILITIES = {
    "a network with class weights": NetworkClassifier(class_weight="balanced"),
    "a network with the focal loss": NetworkClassifier(loss="focal"),
    "trees with class weights": Trees(class_weight="balanced"),
    "an estimator with class weights": BALANCED,
    "the last step of a pipeline": ScikitLearn(make_pipeline(MinMaxScaler(), SVC(class_weight="balanced"))),
    "a decision function": ScikitLearn(LinearSVC()),
    "an ensemble with such a part": Ensemble((Trees(), BALANCED)),
}


@pytest.mark.parametrize("case", NO_PROBABILITIES)
def test_outputs_that_are_meant_as_something_else_say_so(case: str) -> None:
    assert not NO_PROBABILITIES[case].gives_probabilities


@pytest.mark.parametrize(
    "learner", [NetworkClassifier(), NetworkClassifier(loss="mse"), Trees(), ScikitLearn(LogisticRegression())], ids=str
)
def test_other_outputs_are_meant_as_probabilities(learner: Learner) -> None:
    assert learner.gives_probabilities
    assert Ensemble((learner, Trees())).gives_probabilities


@pytest.mark.parametrize("model", [{"class_weight": "balanced"}, {"loss": "focal"}], ids=str)
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_a_network_that_learnt_something_else_is_packaged_with_a_calibration(kind: TaskKind, model: Any) -> None:
    changed = parcels(kind).model.set_params(**model)
    _, served = learnt(kind, model=changed)
    assert served.output.slope != 1.0
    assert "own outputs are no probabilities" in served.output.calibration


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_focal_loss_by_hand(outputs: int) -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(0, 2, (50, outputs)), generator.integers(0, max(2, outputs), 50)
    network = NetworkClassifier(loss="focal")
    network._learn_target(np.arange(max(2, outputs)))
    loss = network.loss_function("cpu")(torch.tensor(logits), torch.tensor(labels).float(), None)
    p = probabilities(Output(kind="binary" if outputs == 1 else "multiclass"), logits)[np.arange(50), labels]
    assert float(loss) == pytest.approx(float((-((1 - p) ** 2) * np.log(p)).mean()), rel=1e-5)
