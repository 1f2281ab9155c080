"""Ensembles: their parts are what they would be alone, their answers are means, and their weights must be earned.

What every kind of model keeps stands in test_kinds.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from ml import Ensemble, Fitted, Job, Learner, NetworkClassifier, NetworkRegressor, ScikitLearn, Trees
from ml.errors import ConfigError
from ml.models.handles import Step
from ml.models.packaging import write_model
from ml.models.part_weights import Held, weighed
from ml.serving.kinds.ensemble import ExplainedEnsemble
from ml.serving.model import load_served
from ml.serving.output import TaskKind, sigmoid
from ml.serving.own_code import OwnCode
from tests.tiny import KINDS, Memory, cleaned, fit, job, learnt, parcel_rows, parcels, raw_parcels

pytestmark = pytest.mark.usefixtures("one_thread")
each_kind = pytest.mark.parametrize("kind", KINDS)
SMALL = Trees(rounds=8, patience=None, num_leaves=6, learning_rate=0.2)
OTHER = Trees(rounds=5, patience=None, num_leaves=3, learning_rate=0.3, subsample=0.7)


def linear(kind: TaskKind) -> Learner:
    return ScikitLearn(Ridge() if kind == "regression" else LogisticRegression())


def network(kind: TaskKind) -> Learner:
    estimator = NetworkRegressor() if kind == "regression" else NetworkClassifier()
    return estimator.set_params(hidden=(4,), epochs=4, batch_size=64, learning_rate=0.02)


def blocks(use_case: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    return cleaned(use_case, parcel_rows(300, 0)), cleaned(use_case, parcel_rows(150, 1))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Parts


@each_kind
def test_a_part_has_the_files_that_it_would_have_alone(kind: TaskKind, tmp_path: Path) -> None:
    learners = (SMALL, network(kind))
    use_case = parcels(kind, model=Ensemble(learners))
    train, validation = blocks(use_case)
    use_case.model.fit_rows(job(use_case, tmp_path / "both", train, validation, seed=5))
    for place, learner in enumerate(learners):
        alone = tmp_path / f"alone-{place}"
        learner.fit_rows(job(use_case, alone, train, validation, seed=5 + place))
        assert contents(tmp_path / "both" / f"part-{place + 1}") == contents(alone)


@each_kind
def test_the_answer_is_the_mean_of_what_the_parts_answer(kind: TaskKind, tmp_path: Path) -> None:
    """In probability for classes, and not in logits; as values for numbers."""
    learners, weights = (SMALL, linear(kind), OTHER), (1.0, 2.0, 5.0)
    use_case = parcels(kind, model=Ensemble(learners, weights=weights))
    train, validation = blocks(use_case)
    use_case.model.fit_rows(job(use_case, tmp_path / "both", train, validation))
    rows = cleaned(use_case, parcel_rows(50, 3))
    places = [(learner.served[0], tmp_path / "both" / f"part-{n}") for n, learner in enumerate(learners, 1)]
    told = [load_served(name, place, 1).outputs(rows) for name, place in places]
    whole = load_served("ensemble", tmp_path / "both", 1).outputs(rows)
    shares = np.array(weights) / 8
    if kind == "regression":
        assert np.allclose(whole, sum(share * each for share, each in zip(shares, told, strict=True)), atol=1e-12)
    elif kind == "binary":
        mean = sum(share * sigmoid(each) for share, each in zip(shares, told, strict=True))
        assert np.allclose(sigmoid(whole), mean, atol=1e-12)
    else:
        softmax = [np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in told]
        assert np.allclose(np.exp(whole), sum(s * p for s, p in zip(shares, softmax, strict=True)), atol=1e-12)


def test_logits_that_no_probability_can_hold_are_averaged_to_numbers() -> None:
    from ml.serving.kinds.ensemble import mean_outputs

    sure = np.array([[60.0], [-60.0], [800.0], [0.0]])
    assert np.allclose(mean_outputs("binary", [sure, sure], (0.5, 0.5)), sure)
    assert np.allclose(mean_outputs("binary", [sure, -sure], (0.5, 0.5)), 0)


class Killed(BaseException):
    """As the end of a process, nothing catches it."""


class KilledAt(Memory):
    """A diary of a process that is killed at the step with this place among all that it is told."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def step(self, step: Step, total: int) -> None:
        super().step(step, total)
        if len(self.steps) == self.place:
            raise Killed


@each_kind
def test_a_killed_fit_goes_on_inside_its_part_and_fits_no_finished_part_again(kind: TaskKind, tmp_path: Path) -> None:
    use_case = parcels(kind, model=Ensemble((SMALL, network(kind), OTHER)))
    train, validation = blocks(use_case)
    whole = Memory()
    fitted = use_case.model.fit_rows(job(use_case, tmp_path / "whole", train, validation, diary=whole))
    killed = KilledAt(8 + 3)  # eight trees, and then in the third epoch of the network
    with pytest.raises(Killed):
        use_case.model.fit_rows(job(use_case, tmp_path / "killed", train, validation, diary=killed))
    again = Memory()
    again.checkpoint = killed.checkpoint
    resumed = use_case.model.fit_rows(job(use_case, tmp_path / "again", train, validation, diary=again))
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert (resumed.chosen, resumed.notes) == (fitted.chosen, fitted.notes)
    assert [step.number for step in again.steps] == [step.number for step in whole.steps[8 + 2 :]]


def test_ensembles_can_be_parts(tmp_path: Path) -> None:
    use_case = parcels(model=Ensemble((Ensemble((SMALL, OTHER)), linear("binary"))))
    train, validation = blocks(use_case)
    fitted, model = fit(use_case, tmp_path / "fit", train, validation)
    assert use_case.model.served == ("ensemble", "trees", "scikit_learn")
    assert len(fitted.chosen["parts"][0]["parts"]) == 2
    assert np.isfinite(model.predict(raw_parcels(20))["probability"]).all()


def test_an_ensemble_declares_what_its_parts_need_and_no_more() -> None:
    both = Ensemble((SMALL, linear("binary")))
    assert both.needs == ("lightgbm", "scikit-learn", "skops")
    assert both.device_on("cuda") == "cpu"
    assert "ml/models/trees.py" in both.code
    assert not any("network" in file for file in both.code)
    assert Ensemble((SMALL, network("binary"))).device_on("cuda") == "cuda"


def test_an_ensemble_of_trees_and_scikit_learn_serves_where_torch_is_absent(tmp_path: Path) -> None:
    use_case = parcels(model=Ensemble((SMALL, linear("binary"))))
    _, model = fit(use_case, tmp_path / "fit", *blocks(use_case))
    write_model(model, use_case.model, tmp_path / "model")
    raw_parcels(5).to_parquet(tmp_path / "rows.parquet")
    script = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import mlflow.pyfunc, pandas as pd\n"
        "mlflow.pyfunc.load_model('model').predict(pd.read_parquet('rows.parquet')).to_parquet('answers.parquet')\n"
    )
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", script], cwd=tmp_path, check=True)
    told = pd.read_parquet(tmp_path / "answers.parquet")
    assert np.array_equal(told["probability"], model.predict(raw_parcels(5))["probability"])


OWN_KIND = b"""
import numpy as np


class Served:
    vocabulary = {"carrier": ("ant",)}

    def outputs(self, typed):
        return np.full((len(typed), 1), -0.5)


def load(folder, threads):
    return Served()
"""


class Constant(Learner):
    """A company's own kind."""

    served = ("my_constant",)

    def fit_rows(self, job: Job) -> Fitted:
        (job.folder / "constant").write_bytes(b"-0.5")
        return Fitted(chosen={})


def test_a_part_may_be_a_companys_own_kind(tmp_path: Path) -> None:
    own = OwnCode({"my_constant": OWN_KIND})
    use_case = parcels(model=Ensemble((SMALL, Constant())))
    use_case.model.fit_rows(job(use_case, tmp_path / "fit", *blocks(use_case), own=own))
    served = load_served("ensemble", tmp_path / "fit", 1, own)
    rows = cleaned(use_case, parcel_rows(20, 3))
    trees = load_served("trees", tmp_path / "fit" / "part-1", 1).outputs(rows)
    assert np.allclose(sigmoid(served.outputs(rows)), (sigmoid(trees) + sigmoid(np.array(-0.5))) / 2)
    assert "ant" in served.vocabulary["carrier"]


# Contributions


@each_kind
def test_contributions_of_an_ensemble_add_up_to_its_output(kind: TaskKind) -> None:
    _, model = learnt(kind, model=Ensemble((SMALL, OTHER), weights=(0.3, 0.7)))
    rows = raw_parcels(60)
    told = model.contributions(rows)  # which refuses those that do not
    assert len(told) == 60
    assert isinstance(model.served, ExplainedEnsemble)


def test_without_contributions_of_every_part_an_ensemble_tells_none() -> None:
    _, model = learnt(model=Ensemble((SMALL, linear("binary"))))
    with pytest.raises(ValueError, match="the kind ensemble cannot tell contributions"):
        model.contributions(raw_parcels(5))


class Telling:
    """A part whose contributions are given."""

    vocabulary: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init__(self, columns: list[str], values: np.ndarray, base: list[float]) -> None:
        self.columns, self.values, self.base_values = columns, values, np.array(base)  # values (outputs, rows, columns)

    def outputs(self, typed: pd.DataFrame) -> np.ndarray:
        del typed
        return self.values.sum(axis=2).T + self.base_values

    def contributions(self, typed: pd.DataFrame, output: int = 0) -> pd.DataFrame:
        return pd.DataFrame(self.values[output], typed.index, self.columns)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1.0, 20.0])
@pytest.mark.parametrize(("task", "outputs"), [("binary", 1), ("multiclass", 4), ("regression", 1)])
def test_contributions_add_up_however_far_parts_are_apart(task: TaskKind, outputs: int, size: float) -> None:
    generator = np.random.default_rng(0)
    columns = (["a", "b"], ["b", "c", "a"], ["d"])
    parts = tuple(
        Telling(names, size * generator.normal(size=(outputs, 50, len(names))), [*generator.normal(size=outputs)])
        for names in columns
    )
    ensemble = ExplainedEnsemble(task=task, parts=parts, weights=(0.5, 0.2, 0.3))
    rows = pd.DataFrame(index=range(50))
    whole = ensemble.outputs(rows)
    for output in range(outputs):
        told = ensemble.contributions(rows, output)
        assert list(told) == ["a", "b", "c", "d"]
        assert np.abs(told.sum(axis=1) + ensemble.base_values[output] - whole[:, output]).max() < 1e-12


# Weights


def held(told: np.ndarray, task: TaskKind = "binary", **changes: Any) -> Held:
    rows = len(told)
    fields: dict[str, Any] = {"labels": np.zeros(rows), "weights": np.ones(rows), "units": np.arange(rows)}
    return Held(**{"task": task, "told": told, "dated": False, **fields, **changes})


def test_weights_are_chosen_where_that_is_surely_better() -> None:
    generator = np.random.default_rng(1)
    good, bad = generator.uniform(0.6, 0.9, 400), generator.uniform(0.1, 0.6, 400)
    weights, words = weighed(held(np.column_stack([good, bad])), "validation", ["A", "B"])
    assert weights == (1.0, 0.0)
    assert words.startswith("Weights chosen on validation rows (1.00, 0.00) count")
    assert "B 1." in words
    assert "alone (left out)" in words


def test_equal_weights_stay_where_others_are_not_surely_better() -> None:
    told = np.random.default_rng(2).uniform(0.3, 0.9, (400, 3))
    weights, words = weighed(held(told), "validation", ["A", "B", "C"])
    assert weights == (1 / 3, 1 / 3, 1 / 3)
    assert "is not surely better" in words


def test_few_days_are_never_sure() -> None:
    told = np.column_stack([np.full(400, 0.9), np.full(400, 0.1)])
    days = held(told, units=np.repeat(np.arange(4), 100), dated=True)
    assert weighed(days, "validation", ["A", "B"])[0] == (0.5, 0.5)


def test_days_are_the_units_that_make_a_gain_sure() -> None:
    """One day on which a part is far better is no proof, however many rows it has."""
    told = np.full((1000, 2), 0.5)
    told[:50, 0] = 0.99
    days = held(told, units=np.repeat(np.arange(20), 50), dated=True)
    assert weighed(days, "validation", ["A", "B"])[0] == (0.5, 0.5)


def test_rows_count_by_their_weight() -> None:
    told = np.array([[0.9, 0.1]] * 200 + [[0.1, 0.9]] * 200)
    of_rows = np.repeat([1.0, 0.0], 200)
    assert weighed(held(told, weights=of_rows), "validation", ["A", "B"])[0] == (1.0, 0.0)


def test_a_regression_is_weighed_by_its_squared_error() -> None:
    labels = np.random.default_rng(3).normal(size=300)
    told = np.column_stack([labels + 0.1, labels + 5])
    weights, words = weighed(held(told, "regression", labels=labels), "validation", ["A", "B"])
    assert weights == (1.0, 0.0)
    assert "the RMSE is 0.1000: A 0.1000 alone, B 5.0000 alone (left out)." in words


def test_the_report_says_what_a_part_is_worth() -> None:
    told = np.array([[0.8, 0.6]] * 100)
    _, words = weighed(held(told), "equal", ["A", "B"])
    both, first, second = (-np.log(p) for p in (0.7, 0.8, 0.6))
    assert words == (
        f"Its parts count alike. On validation rows the log loss is {both:.4f}: "
        f"A {first:.4f} alone (without it {second - both:.4f} worse), "
        f"B {second:.4f} alone (without it {both - first:.4f} better)."
    )


def test_a_part_that_counts_for_nothing_is_neither_kept_nor_fitted_again(tmp_path: Path) -> None:
    hopeless = Trees(rounds=1, patience=None, learning_rate=1e-9)
    use_case = parcels("regression", model=Ensemble((SMALL, hopeless), weights="validation"))
    train, validation = blocks(use_case)
    fitted = use_case.model.fit_rows(job(use_case, tmp_path / "fit", train, validation))
    assert fitted.chosen["weights"] == [1.0, 0.0]
    assert not (tmp_path / "fit" / "part-2").exists()
    diary = Memory()
    refit = job(use_case, tmp_path / "refit", train, None, chosen=fitted.chosen, diary=diary)
    assert use_case.model.fit_rows(refit).chosen == {**fitted.chosen, "parts": [fitted.chosen["parts"][0], {}]}
    assert len(diary.steps) == 8


# Declarations


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Ensemble((SMALL,)), r"learners of the model of parcels must name two learners at least, but"),
        (lambda: Ensemble((SMALL, OTHER), weights=(1.0,)), r"weights of the model of parcels must be as many as the"),
        (lambda: Ensemble((SMALL, LogisticRegression())), r"learners\[1\] of the model of parcels must be an instance"),
        (lambda: Ensemble((SMALL, Trees(rounds=0))), r"rounds of part 2 of the model of parcels must be greater than"),
        (lambda: Ensemble((SMALL, Trees(monotone={"x": 1}))), r"monotone of part 2 of the model of parcels must name"),
        (lambda: Ensemble((SMALL, NetworkRegressor())), r"must fit its target, but it is a Ensemble of Trees and Netw"),
        (lambda: Ensemble((SMALL, Learner())), r"learners of the model of parcels must define fit_rows, but Learner"),
        (lambda: Ensemble((SMALL, Ensemble((OTHER,)))), r"learners of part 2 of the model of parcels must name two"),
    ],
)
def test_what_an_ensemble_cannot_be_is_refused_in_a_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parcels(model=make())


def test_a_part_that_fails_is_told_by_its_name(tmp_path: Path) -> None:
    class Failing(Constant):
        def fit_rows(self, job: Job) -> Fitted:
            raise ValueError("42 is secret")

    use_case = parcels(model=Ensemble((SMALL, Failing())))
    with pytest.raises(ConfigError, match="fit_rows of Failing must learn from the rows") as raised:
        use_case.model.fit_rows(job(use_case, tmp_path / "fit", *blocks(use_case)))
    assert "secret" not in str(raised.value)


def test_other_parts_are_another_model() -> None:
    digests = [
        parcels(model=Ensemble((SMALL, OTHER), weights=weights)).training_digest
        for weights in ("equal", "validation", (1.0, 2.0))
    ]
    digests += [parcels(model=Ensemble((OTHER, SMALL))).training_digest, parcels(model=SMALL).training_digest]
    assert len(set(digests)) == 5


def test_a_checkpoint_is_read_by_the_parts_that_wrote_it(tmp_path: Path) -> None:
    use_case = parcels(model=Ensemble((SMALL, OTHER)))
    train, validation = blocks(use_case)
    diary = Memory()
    use_case.model.fit_rows(job(use_case, tmp_path / "one", train, validation, diary=diary))
    steps = len(diary.steps)
    wanted = job(use_case, tmp_path / "two", train, validation, diary=diary)
    use_case.model.fit_rows(replace(wanted, train=None))  # type: ignore[arg-type]  # nothing is read again
    assert len(diary.steps) == steps
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
