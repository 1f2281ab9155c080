"""What validation chooses after a fit, and the model that comes of it."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from ml.data.cleaning import LABEL
from ml.errors import ConfigError, StoreUnavailable
from ml.metrics.scores import CLASS_METRICS, PROBABILITY_SCORES, class_metric
from ml.metrics.thresholds import best_threshold
from ml.models import training
from ml.models.encoding import fit_encoder
from ml.models.handles import Step
from ml.models.networks.descent import divergence
from ml.models.networks.estimators import encode
from ml.models.protocol import Fitted
from ml.models.training import (
    StoredDiary,
    choose_output,
    package,
)
from ml.serving.kinds.network import load
from ml.serving.output import Output, TaskKind, probabilities, sigmoid
from ml.serving.rules import Between, NotBelow, NotNull, UniqueKey
from ml.storage.store import open_store
from tests.tiny import KINDS, cleaned, fit, job, packaged, parcel_rows, parcels, rows_of


def exact_f1(y: np.ndarray, said: np.ndarray) -> Fraction:
    return Fraction(2 * int((y * said).sum()), int(y.sum() + said.sum()))


def every_middle(probability: np.ndarray) -> list[float]:
    cuts = np.unique(probability)
    return [cuts[0] / 2, *((cuts[1:] + cuts[:-1]) / 2)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 99)), min_size=1, max_size=12))
def test_the_threshold_has_the_largest_f1_and_of_equals_lies_nearest_to_a_half(rows: list[tuple[bool, int]]) -> None:
    y = np.array([True] + [label for label, _ in rows], float)
    p = np.array([50] + [percent for _, percent in rows]) / 100
    said = {middle: exact_f1(y, p >= middle) for middle in every_middle(p)}
    best = [middle for middle, f1 in said.items() if f1 == max(said.values())]
    assert best_threshold("f1", y, p) == min(best, key=lambda middle: abs(middle - 0.5))


NEIGHBOURS = [0.3, np.nextafter(0.3, 1), np.nextafter(np.nextafter(0.3, 1), 1)]
PROBABILITIES = [0.0, 5e-324, *NEIGHBOURS, 0.4, 0.5, np.nextafter(0.5, 1), 0.9, np.nextafter(1, 0), 1.0]


def score_of(metric: str, y: np.ndarray, positive: np.ndarray) -> float:
    cells = np.zeros((1, 2, 2))
    np.add.at(cells[0], (y.astype(int), positive.astype(int)), 1)
    return float(np.nan_to_num(class_metric(metric, cells, binary=True)[0]))


@pytest.mark.parametrize("metric", CLASS_METRICS)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(PROBABILITIES)), min_size=1, max_size=12))
def test_no_other_threshold_is_better_for_the_metric(metric: str, rows: list[tuple[bool, float]]) -> None:
    """Ties, neighbouring floats, and the ends of what a probability can be are among the rows."""
    y = np.array([True, False] + [label for label, _ in rows], float)
    p = np.array([0.5, 0.4] + [probability for _, probability in rows])
    threshold, every = best_threshold(metric, y, p), [p >= cut for cut in [*np.unique(p), 1.01]]
    best = max(score_of(metric, y, positive) for positive in every)
    assert score_of(metric, y, p >= threshold) == best
    if metric in {"precision", "recall"}:
        equals = [score_of("f1", y, positive) for positive in every if score_of(metric, y, positive) == best]
        assert score_of("f1", y, p >= threshold) == max(equals)


@pytest.mark.parametrize("metric", CLASS_METRICS)
@pytest.mark.parametrize("constant", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("positives", [1, 5, 9])
def test_equal_probabilities_are_all_of_one_class(metric: str, constant: float, positives: int) -> None:
    """A model that knows nothing says what scores best: for accuracy the more frequent class, else the positive one."""
    y, p = np.array([1.0] * positives + [0.0] * (10 - positives)), np.full(10, constant)
    positive = p >= best_threshold(metric, y, p)
    assert positive.all() or not positive.any()
    assert score_of(metric, y, positive) == max(score_of(metric, y, np.full(10, each)) for each in (True, False))


@pytest.mark.parametrize("metric", CLASS_METRICS)
def test_the_threshold_is_the_best_of_all_in_scikit_learn_too(metric: str) -> None:
    outputs, y = validation_outputs(rows=150)
    p = sigmoid(outputs / 6 - 1)
    score = {"accuracy": accuracy_score, "f1": f1_score, "recall": recall_score, "precision": precision_score}[metric]
    options = {} if metric == "accuracy" else {"zero_division": 0}
    best = max(score(y, p >= cut, **options) for cut in [*np.unique(p), 1.1])
    assert score(y, p >= best_threshold(metric, y, p), **options) == best


def test_accuracy_of_a_rare_class_is_best_where_none_is_said() -> None:
    """The best F1 would call half of the rows positive, and lose to the constant."""
    y, p = np.array([0.0, 0, 1, 0, 0, 0, 0, 0, 0, 0]), np.linspace(0.95, 0.05, 10)
    assert best_threshold("accuracy", y, p) > p.max()
    assert best_threshold("f1", y, p) < p.max()
    assert best_threshold("accuracy", y, np.ones(10)) > 1.0


def test_the_threshold_of_a_model_is_that_of_its_use_cases_metric() -> None:
    use_case = parcels(metric="recall")
    outputs, y = validation_outputs()
    output = choose_output(use_case, outputs[:, None], y)
    found = probabilities(output, outputs[:, None])[:, 1] >= output.threshold
    assert found[y == 1].all()
    assert not found.all()


@pytest.mark.parametrize("metric", PROBABILITY_SCORES)
def test_where_no_threshold_matters_to_the_metric_it_is_that_of_the_best_f1(metric: str) -> None:
    outputs, y = validation_outputs()
    assert best_threshold(metric, y, sigmoid(outputs)) == best_threshold("f1", y, sigmoid(outputs))
    assert choose_output(parcels(metric=metric), outputs[:, None], y) == choose_output(parcels(), outputs[:, None], y)


TIES = [
    ("a perfect cut lies in the middle", [0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], 0.4),
    ("everything is positive", [1, 1], [0.4, 0.8], 0.2),
    ("equal probabilities cannot be parted", [0, 1, 1], [0.3, 0.3, 0.3], 0.15),
    ("of two equal cuts the one nearer to a half", [1, 0, 1], [0.55, 0.6, 0.7], 0.275),
    ("the same from above", [1, 0, 0, 1], [0.2, 0.45, 0.55, 0.9], 0.725),
    ("of 2/6 and 4/12 too", [0, 0, 0, 1] + [0] * 5 + [1], [0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1], 0.5),
]


@pytest.mark.parametrize(("y", "p", "threshold"), [case[1:] for case in TIES], ids=[case[0] for case in TIES])
def test_a_threshold_by_hand(y: list[int], p: list[float], threshold: float) -> None:
    assert best_threshold("f1", np.array(y, float), np.array(p)) == pytest.approx(threshold)


def validation_outputs(seed: int = 0, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = (generator.random(rows) < 0.3).astype(float)
    return 8 * y + generator.normal(0, 6, rows), y


def test_the_output_of_two_classes_is_calibrated_and_has_the_threshold_of_calibrated_probabilities() -> None:
    logits, y = validation_outputs()
    output = choose_output(parcels(), logits[:, None], y)
    p = probabilities(output, logits[:, None])[:, 1]
    assert output.calibration.startswith("Calibration: ")
    assert (output.slope, output.offset, output.curve) != (1.0, 0.0, ())
    assert exact_f1(y, p >= output.threshold) == max(exact_f1(y, p >= middle) for middle in every_middle(p))
    assert output.classes == ("in time", "late")


def test_other_outputs_have_no_threshold_of_their_own() -> None:
    classes = choose_output(parcels("multiclass"), np.zeros((3, 3)), np.zeros(3))
    assert replace(classes, calibration="") == Output(kind="multiclass", classes=("slow", "usual", "quick"))
    assert choose_output(parcels("regression"), np.zeros((3, 1)), np.zeros(3)).log


@pytest.mark.parametrize(("kind", "outputs"), [("binary", 1), ("multiclass", 3), ("regression", 1)])
def test_the_architecture_follows_the_target(kind: TaskKind, outputs: int) -> None:
    shape = load(packaged(kind).folder, threads=1).architecture
    assert (shape.hidden, shape.activation, shape.outputs) == ((8,), "relu", outputs)


def test_a_model_carries_the_row_rules_about_its_own_columns_only() -> None:
    model = packaged()
    use_case = parcels()
    rules = (
        NotNull(column="weight"),
        NotNull(column="outcome"),
        NotBelow(column="distance", other="price"),
        NotBelow(column="distance", other="weight"),
        Between(scope="partition", column="weight", minimum=1),
        UniqueKey(key=("weight", "zone")),
    )
    made = package(use_case, rules, model.folder, 1, cleaned(use_case, parcel_rows(50)))
    assert made.rules == (rules[0], rules[3])
    assert [column.name for column in made.columns] == ["weight", "distance", "carrier", "zone"]


def test_a_logarithm_is_learnt_where_the_target_says_so(tmp_path: Path) -> None:
    use_case = parcels("regression")
    block = cleaned(use_case, parcel_rows(50))
    wanted = job(use_case, tmp_path / "fit", block, None)
    encoder = fit_encoder(use_case, wanted.statistics)
    X, y, weights = encode(wanted, encoder, rows_of(block.iloc[:20], block.iloc[20:]))
    assert y == pytest.approx(np.log(block[LABEL]))
    assert X.shape == (50, encoder.number_width + len(encoder.category_sizes))
    assert weights is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_depends_on_the_nights_seed_and_leaves_the_use_case_as_it_is(
    kind: TaskKind, tmp_path: Path
) -> None:
    use_case = parcels(kind)
    block = cleaned(use_case, parcel_rows(100))
    one, same, other = (
        load(fit(use_case, tmp_path / str(number), block, block, seed)[1].folder, threads=1).network.numbers
        for number, seed in enumerate((1, 1, 2))
    )
    assert (one == same).all()
    assert (one != other).any()
    assert use_case.model.seed == 42
    assert not hasattr(use_case.model, "network_")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    return clock


def test_a_checkpoint_is_put_when_the_last_one_is_old_enough(tmp_path: Path, clock: Clock) -> None:
    """After every epoch that takes that long, and not after each of many short ones."""
    checkpoints = StoredDiary(open_store(str(tmp_path)), "stages/one", "epoch")
    assert checkpoints.load() is None
    for second, kept in ((1, None), (4.9, None), (5, b"5"), (9, b"5"), (10, b"10"), (99, b"99"), (100, b"99")):
        clock.now = 100.0 + second
        checkpoints.save(str(second).encode())
        assert checkpoints.load() == kept


@pytest.mark.parametrize(("total", "lines"), [(1, 1), (20, 20), (21, 11), (150, 19), (1000, 20)])
def test_a_long_fit_is_told_in_at_most_twenty_lines_and_its_last_step_among_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, total: int, lines: int
) -> None:
    caplog.set_level("INFO")
    diary = StoredDiary(open_store(str(tmp_path)), "stages/one", "tree")
    for number in range(1, total + 1):
        diary.step(Step(number=number, train_loss=0.5, validation_loss=None), total)
    assert len(caplog.messages) == lines
    assert caplog.messages[-1] == f"Tree {total} of {total}: train loss 0.5000."


def test_training_goes_on_without_a_checkpoint_that_the_store_did_not_take(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*args: Any) -> None:
        raise StoreUnavailable("the store must answer", "it does not", "wait")

    store = open_store(str(tmp_path))
    checkpoints = StoredDiary(store, "stages/one", "epoch")
    clock.now += 5
    with monkeypatch.context() as patch:
        patch.setattr(store, "put", away)
        checkpoints.save(b"lost")
    checkpoints.save(b"too soon to ask again")
    assert checkpoints.load() is None
    clock.now += 5
    checkpoints.save(b"kept")
    assert checkpoints.load() == b"kept"
    assert caplog.messages == [
        "the store must answer, but it does not: wait. (training goes on without a new checkpoint)"
    ]


# A fit that ran away


def fit_with(kind: TaskKind, folder: Path, **options: Any) -> Fitted:
    use_case = parcels(kind)
    use_case.model.set_params(**options)
    train, held_out = (cleaned(use_case, parcel_rows(rows, seed)) for rows, seed in ((300, 0), (100, 1)))
    return use_case.model.fit_rows(job(use_case, folder / "fit", train, held_out))


RAN_AWAY: dict[str, tuple[TaskKind, dict[str, Any], str]] = {
    "a value's loss explodes": ("regression", {"learning_rate": 3.0, "optimizer": "sgd"}, "The train loss"),
    "so does that of classes": ("binary", {"learning_rate": 100.0, "optimizer": "sgd"}, "The train loss rose to"),
    "of three classes": ("multiclass", {"learning_rate": 100.0}, "The train loss rose to"),
    "in a single epoch": ("binary", {"learning_rate": 1e3, "optimizer": "sgd", "epochs": 1}, "The train loss rose to"),
    "until it is no number": (
        "regression",
        {"learning_rate": 3.0, "optimizer": "sgd", "hidden": (), "epochs": 200, "batch_size": None},
        "In epoch",
    ),
}


@pytest.mark.parametrize("case", RAN_AWAY)
def test_a_fit_that_ran_away_is_said(case: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    kind, options, says = RAN_AWAY[case]
    fitted = fit_with(kind, tmp_path, **options)
    assert any(note.startswith(says) for note in fitted.notes), (fitted.notes, fitted.steps[-1])
    assert set(fitted.notes) <= set(caplog.messages)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"class_weight": "balanced"}, {"loss": "mse"}, {"epochs": 1}], ids=str)
def test_nothing_is_said_of_a_fit_that_learns(kind: TaskKind, options: dict[str, Any], tmp_path: Path) -> None:
    if kind == "regression" and "class_weight" in options:
        pytest.skip("a value has no classes")
    assert fit_with(kind, tmp_path, **options).notes == ()


@pytest.mark.parametrize(
    ("train", "validation", "says"),
    [
        ([0.5, 0.6, 0.7], [0.5, 0.4, 0.5], "The train loss only rose, from 0.5 to 0.7 in 3 epochs"),
        ([0.5, 0.4, 0.3], [0.5, 0.6, 0.9], "The validation loss only rose, from 0.5 to 0.9 in 3 epochs"),
        ([0.5, 0.4, 0.3], [0.5, 0.4, 0.9], ""),
        ([0.5, 0.6], [0.5, 0.6], ""),
        ([0.5, 4e28], [0.5, 0.6], "The train loss rose to 4e+28, where one answer for all rows has 0.69"),
    ],
)
def test_what_a_curve_shows(train: list[float], validation: list[float], says: str) -> None:
    epochs = [
        Step(number=number, train_loss=loss, validation_loss=judged, validation_score=None)
        for number, (loss, judged) in enumerate(zip(train, validation, strict=True), start=1)
    ]
    found = divergence(epochs, 0.69)
    assert found[0].startswith(says) if says else found == []


def test_a_fit_without_a_number_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"with learning_rate 1e.30 it is none after the first epoch: lower it"):
        fit_with("regression", tmp_path, learning_rate=1e30, optimizer="sgd")


class Answering:
    """The served half of a kind that always answers the same."""

    def __init__(self, outputs: np.ndarray) -> None:
        self.answer = outputs

    def outputs(self, typed: pd.DataFrame) -> np.ndarray:
        return self.answer


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (np.full((10, 1), np.nan), "10 of its 10 answers to validation rows are no numbers"),
        (np.array([[np.inf], *[[0.0]] * 9]), "1 of its 10 answers to validation rows are no numbers"),
        (np.zeros((10, 2)), r"must answer each row with 1 number, but its answer to 10 validation rows has the shape"),
        (np.zeros((9, 1)), r"has the shape \(9, 1\)"),
        (np.zeros(10), r"has the shape \(10,\)"),
    ],
)
def test_a_model_whose_answers_are_no_numbers_or_of_another_shape_is_never_packaged(
    outputs: np.ndarray, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_case = parcels()
    monkeypatch.setattr(training, "load_served", lambda *place: Answering(outputs))
    with pytest.raises(ConfigError, match=says):
        package(use_case, use_case.column_rules, tmp_path, 1, cleaned(use_case, parcel_rows(10)))
