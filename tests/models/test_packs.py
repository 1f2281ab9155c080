"""Packs of embedded networks and TabM: what the contract of all kinds does not say."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import IntegratedGradients
from rtdl_num_embeddings import PiecewiseLinearEmbeddings
from torch import Tensor
from torch.nn import functional

from ml import Column, EmbeddedNetwork, TabM
from ml.errors import ConfigError
from ml.models.packs.descent import Descent, losses
from ml.models.packs.features import Columns, fit_features, fit_target, normal_scores
from ml.models.packs.layers import Dropout, Embeddings
from ml.models.packs.learners import PackLearner, batch_size_for
from ml.serving.kinds.embedded import CYCLES, ExactLayer, Features, ServedPack, load, of_members, read_number
from ml.serving.model import ADDS_UP
from ml.serving.output import TaskKind
from tests.tiny import KINDS, Memory, cleaned, fit, job, parcel_rows, parcels, raw_parcels

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"hidden": (16, 8), "embedding": 4, "bins": 12, "epochs": 3}
PERTURBED = {"dropout": 0.2, "noise_std": 0.1, "mixup": 0.3, "feature_dropout": 0.1}
LEARNERS: dict[str, Callable[..., PackLearner]] = {
    "pack": lambda **changes: EmbeddedNetwork(**{**SMALL, "members": 3, **changes}),
    "tabm": lambda **changes: TabM(**{**SMALL, "members": 5, **changes}),
}
each = pytest.mark.parametrize("name", LEARNERS)
of_each_kind = pytest.mark.parametrize("kind", KINDS)


def rows_of_parcels(kind: TaskKind = "binary") -> tuple[pd.DataFrame, pd.DataFrame]:
    train, held_out = (cleaned(parcels(kind), parcel_rows(rows, seed)) for rows, seed in ((400, 0), (200, 1)))
    return train, held_out


def prepared(
    learner: PackLearner, folder: Path, kind: TaskKind = "binary", copies: range | None = None, **options: Any
) -> tuple[Descent, Features]:
    return learner.prepared(
        job(parcels(kind, model=learner), folder / "fit", *rows_of_parcels(kind)), copies, **options
    )


def served(learner: PackLearner, folder: Path, kind: TaskKind = "binary") -> tuple[ServedPack, pd.DataFrame]:
    train, held_out = rows_of_parcels(kind)
    learner.fit_rows(job(parcels(kind, model=learner), folder, train, held_out))
    return load(folder, 1), held_out


# One computation for all members


@of_each_kind
@pytest.mark.parametrize(("dtype", "steps", "apart"), [(torch.float64, 60, 1e-14), (torch.float32, 4, 1e-7)])
def test_a_member_learns_what_it_learns_alone(
    kind: TaskKind, dtype: torch.dtype, steps: int, apart: float, tmp_path: Path
) -> None:
    """With noise, dropout and mixed rows: all of the random numbers are its own."""
    batch = 32 if steps > 10 else 100
    learner = LEARNERS["pack"](**PERTURBED, batch_size=batch, epochs=steps * batch // 400, patience=99)
    together = prepared(learner, tmp_path / "all", kind, dtype=dtype)[0].run().network.state_dict()
    assert any(bool((weight[0] != weight[1]).any()) for weight in together.values())
    for member in range(3):
        alone = prepared(learner, tmp_path / str(member), kind, range(member, member + 1), dtype=dtype)[0]
        for name, weight in alone.run().network.state_dict().items():
            assert float((together[name][member] - weight[0]).abs().max()) < apart, name


def test_a_member_that_stops_by_itself_keeps_the_weights_of_its_solo_run(tmp_path: Path) -> None:
    learner = LEARNERS["pack"](stopping="members", epochs=25, patience=2, batch_size=32, learning_rate=0.02)
    together, _ = prepared(learner, tmp_path / "all", dtype=torch.float64)
    pack = together.run()
    assert len(set(pack.best_epochs)) > 1
    for member in range(3):
        alone = prepared(learner, tmp_path / str(member), copies=range(member, member + 1), dtype=torch.float64)[0]
        solo = alone.run()
        assert solo.best_epochs == pack.best_epochs[member : member + 1]
        assert all(torch.allclose(pack.best[name][member], solo.best[name][0], atol=1e-12) for name in solo.best)


def test_a_refit_trains_each_member_for_the_epochs_that_it_chose(tmp_path: Path) -> None:
    train, held_out = rows_of_parcels()
    learner = LEARNERS["pack"](stopping="members", epochs=25, patience=2, batch_size=32, learning_rate=0.02)
    use_case = parcels(model=learner)
    fitted = learner.fit_rows(job(use_case, tmp_path / "first", train, held_out))
    assert fitted.notes == (
        f"Each member kept the epoch that was best for itself: {str(fitted.chosen['epochs'])[1:-1]}.",
    )
    learner.fit_rows(job(use_case, tmp_path / "second", train, None, chosen=fitted.chosen))
    first, second = load(tmp_path / "first", 1), load(tmp_path / "second", 1)
    assert np.array_equal(first.outputs(held_out), second.outputs(held_out))


@each
def test_a_refit_takes_as_many_rows_a_step_as_the_first_fit(name: str, tmp_path: Path) -> None:
    """Though more rows would ask for more: so many epochs were chosen for steps of this size."""
    learner = LEARNERS[name]()
    use_case, (train, _) = parcels(model=learner), rows_of_parcels()
    wanted = job(use_case, tmp_path / "refit", train, None, chosen={"epochs": 2, "batch_size": 16})
    descent, _ = learner.prepared(wanted)
    assert (descent.plan.batch_size, descent.plan.epochs) == (16, 2)
    assert [batch_size_for(rows) for rows in (4_999, 5_000, 59_999, 60_000)] == [128, 256, 512, 1024]


@each
def test_one_and_two_threads_write_equal_bytes(name: str, tmp_path: Path) -> None:
    written = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        served(LEARNERS[name](**PERTURBED, hidden=(128, 128)), tmp_path / str(threads))
        written.append([path.read_bytes() for path in sorted((tmp_path / str(threads)).iterdir())])
    assert written[0] == written[1]


@each
@pytest.mark.parametrize("change", [{"learning_rate": 0.01}, {"hidden": (8,)}, {"label_smoothing": 0.1}])
def test_the_checkpoint_of_another_fit_is_not_used(
    name: str, change: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    diary, (train, held_out) = Memory(), rows_of_parcels()
    learner = LEARNERS[name]()
    learner.fit_rows(job(parcels(model=learner), tmp_path / "first", train, held_out, diary=diary))
    other = LEARNERS[name](**change)
    descent, _ = other.prepared(job(parcels(model=other), tmp_path / "other", train, held_out, diary=diary))
    assert descent.progress.epochs == []
    assert "The checkpoint is damaged or of another fit" in caplog.text
    again, _ = learner.prepared(job(parcels(model=learner), tmp_path / "again", train, held_out, diary=diary))
    assert len(again.progress.epochs) == 2


# Embeddings


def test_numbers_are_embedded_as_the_package_embeds_them(tmp_path: Path) -> None:
    descent, features = prepared(LEARNERS["pack"](), tmp_path)
    ours = descent.progress.network[0]
    assert isinstance(ours, Embeddings)
    torch.nn.init.normal_(ours.bends)
    scaled = torch.from_numpy(descent.train.scaled).float()
    edges = [torch.tensor(number.knots) for number in features.numbers]
    theirs = PiecewiseLinearEmbeddings(edges, 4, activation=False, version="B")
    located = descent.train.located
    parts = (torch.from_numpy(part)[None].expand(3, -1, -1) for part in (located.places, located.shares, located.codes))
    places, shares, codes = parts
    found = ours(places, shares.float(), codes).detach()
    for copy in range(3):
        state = {"linear0.weight": ours.linear[copy], "linear0.bias": ours.bias[copy]}
        bends = torch.zeros_like(theirs.linear.weight)
        for place, number in enumerate(features.numbers):
            inner = len(number.knots) - 2  # theirs has the last bin at the end of all
            bends[place, :inner], bends[place, -1] = ours.bends[copy, place, :inner], ours.bends[copy, place, inner]
        theirs.load_state_dict({**theirs.state_dict(), **state, "linear.weight": bends})
        wanted = theirs(scaled).flatten(1).detach()
        known = ~np.isnan(rows_of_parcels()[0]["distance"].to_numpy())
        assert float((found[copy, :, :8] - wanted)[known].abs().max()) < 4e-6


@each
def test_a_category_that_is_rare_and_one_that_is_unknown_have_one_vector(name: str, tmp_path: Path) -> None:
    learner = LEARNERS[name]()
    rows = parcel_rows(400).assign(carrier=lambda r: r["carrier"].where(r.index >= 3, "once"))
    use_case = parcels(model=learner)
    block = cleaned(use_case, rows)
    _, model = fit(use_case, tmp_path / "fit", block, block)
    asked = raw_parcels(2).assign(carrier=pd.Series(["once", "never"], dtype="str"))
    asked.loc[1, ["weight", "distance", "zone"]] = asked.loc[0, ["weight", "distance", "zone"]]
    answers = model.predict(asked)["probability"]
    assert answers[0] == answers[1]


def test_a_missing_number_has_a_vector_of_its_own_where_train_rows_miss_some(tmp_path: Path) -> None:
    pack, held_out = served(LEARNERS["pack"](epochs=12, learning_rate=0.02), tmp_path / "fit")
    assert [number.missing for number in pack.features.numbers] == [False, True]
    absent = held_out.head(1).assign(distance=np.nan, weight=np.nan)
    middle = absent.assign(weight=pack.features.numbers[0].center)
    assert np.array_equal(pack.outputs(absent), pack.outputs(middle))
    others = pack.outputs(pd.concat([middle] * 3).assign(distance=[1.0, 500.0, 1000.0]))
    assert not np.isclose(others, pack.outputs(middle)).any()


@pytest.mark.parametrize("scaling", ["standard", "robust", "quantile"])
def test_scaled_numbers_keep_their_order_and_an_outlier_stays_within_the_limit(scaling: Any) -> None:
    values = np.sort(np.random.default_rng(0).lognormal(size=(500, 1)), axis=0)
    values[-1] = 1e12
    features = fit_features(Columns((("x", ""),), ()), values, scaling=scaling, bins=16, clip=8.0)
    scaled = features.numbers[0].scaled(values[:, 0])
    assert (np.diff(scaled) >= 0).all()
    assert np.abs(scaled).max() <= 8
    middle = scaled[125:375]
    assert (np.ptp(middle) > 0.5) == (scaling != "standard"), "one outlier squeezes numbers that are standardised"
    assert np.isfinite(features.located(np.full((1, 1), np.inf), np.empty((1, 0), np.int32)).shares).all()


@pytest.mark.parametrize("scaling", ["standard", "robust", "quantile"])
@pytest.mark.parametrize("values", [[np.nan] * 4, [5.0] * 4, [0.0, 0.0, 0.0, 1.0], [3.0]])
def test_numbers_with_few_values_have_knots_that_rise(scaling: Any, values: list[float]) -> None:
    read = np.array(values)[:, None]
    features = fit_features(Columns((("x", ""),), ()), read, scaling=scaling, bins=8, clip=8.0)
    assert (np.diff(features.numbers[0].knots) > 0).all()
    located = features.located(np.vstack([read, [[np.nan]], [[7.0]]]), np.empty((len(read) + 2, 0), np.int32))
    assert np.isfinite(located.shares).all()


def test_parts_of_a_time_are_places_on_a_circle_if_they_are_cyclic(tmp_path: Path) -> None:
    """So that the hour before midnight is as near to midnight as the one after it."""
    times = pd.DataFrame({"at": pd.to_datetime(["2024-01-07T23:00", "2024-01-08T00:00", "2024-12-08T01:00", None])})
    hour = np.column_stack([read_number(times, "at", f"hour {wave}") for wave in ("sin", "cos")])
    far = np.linalg.norm(np.diff(hour[:3], axis=0), axis=1)
    assert far[0] == pytest.approx(far[1])
    assert np.isnan(hour[3]).all()
    for part, period in CYCLES.items():
        assert np.hypot(*[read_number(times, "at", f"{part} {w}")[0] for w in ("sin", "cos")]) == pytest.approx(1), (
            period
        )
    learner = LEARNERS["pack"](cyclic=True)
    at = Column(name="at", type="timestamp", parts=("hour", "weekday", "month"), nullable=True)
    use_case = replace(parcels(model=learner), columns=(*parcels().columns, at))
    rows = parcel_rows(400).assign(at=pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(400) * 7, unit="h"))
    rows.loc[5, "at"] = pd.NaT
    block = cleaned(use_case, rows)
    _, model = fit(use_case, tmp_path / "fit", block, block)
    pack = model.served
    assert isinstance(pack, ServedPack)
    assert [number.part for number in pack.features.numbers][2:] == [
        f"{part} {wave}" for part in ("hour", "weekday", "month") for wave in ("sin", "cos")
    ]
    assert len(pack.features.categories) == 2
    told = pack.contributions(block.head(3))
    assert list(told) == ["weight", "distance", "at", "carrier", "zone"]


# Options of training


@of_each_kind
@pytest.mark.parametrize("option", [*PERTURBED, "label_smoothing", "weight_decay"])
@each
def test_every_option_of_training_changes_the_weights(name: str, option: str, kind: TaskKind, tmp_path: Path) -> None:
    if (option, kind) == ("label_smoothing", "regression"):
        pytest.skip("refused in a regression")
    plain = {"dropout": 0.0, "weight_decay": 0.0, "epochs": 1}
    weights = []
    for value in (0.0, 0.2):
        learner = LEARNERS[name](**{**plain, option: value})
        network = prepared(learner, tmp_path / str(value), kind)[0].run().network
        weights.append(torch.cat([weight.flatten() for weight in network.parameters()]))
    assert weights[0].isfinite().all() and weights[1].isfinite().all()
    assert not torch.equal(*weights)


def test_noise_leaves_a_missing_number_missing_and_finds_the_place_of_another_one(tmp_path: Path) -> None:
    descent, features = prepared(LEARNERS["pack"](noise_std=0.1), tmp_path)
    embeddings = descent.progress.network[0]
    assert isinstance(embeddings, Embeddings)
    moved = descent.train.scaled + 0.3
    before = torch.from_numpy(descent.train.located.places)
    places, shares = embeddings.located(torch.from_numpy(moved)[None], before[None])
    absent = np.isnan(rows_of_parcels()[0]["distance"].to_numpy())
    assert (places[0, absent, 1].numpy() == len(features.numbers[1].knots)).all()
    knots = np.array(features.numbers[0].knots)
    at = places[0, :, 0].numpy()
    assert np.allclose(knots[at] + shares[0, :, 0].numpy() * (knots[at + 1] - knots[at]), moved[:, 0], atol=1e-6)


def test_smoothed_labels_have_the_loss_that_torch_gives_them(tmp_path: Path) -> None:
    plan = prepared(LEARNERS["pack"](label_smoothing=0.1), tmp_path)[0].plan
    answers, labels = torch.tensor([[[0.3], [-1.2]]]), torch.tensor([[1.0, 0.0]])
    both = torch.cat([torch.zeros_like(answers), answers], dim=2)[0]
    wanted = functional.cross_entropy(both, labels[0].long(), reduction="none", label_smoothing=0.1)
    assert torch.allclose(losses(plan, answers, labels)[0], wanted)


def test_dropped_units_are_as_many_as_asked_and_the_mean_stays() -> None:
    dropped = Dropout(0.25, [np.random.default_rng(place) for place in range(2)])(torch.ones(2, 400, 200))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert bool((dropped[0] != dropped[1]).any())


@each
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_balanced_classes_are_weights_of_rows(name: str, kind: TaskKind, tmp_path: Path) -> None:
    train, held_out = rows_of_parcels(kind)
    codes = train["label__"].to_numpy(int)
    weights = 1 / np.bincount(codes)
    plain, balanced = LEARNERS[name](), LEARNERS[name](class_weight="balanced")
    weight = Column(name="counts", minimum=0, feature=False)
    weighted = replace(parcels(kind, model=plain), columns=(*parcels().columns, weight), weight="counts")
    blocks = [block.assign(counts=weights[block["label__"].to_numpy(int)]) for block in (train, held_out)]
    plain.fit_rows(job(weighted, tmp_path / "weights", *blocks))
    balanced.fit_rows(job(parcels(kind, model=balanced), tmp_path / "balanced", train, held_out))
    told = [load(tmp_path / folder, 1).outputs(held_out) for folder in ("weights", "balanced")]
    assert np.allclose(*told, atol=1e-4)


def test_a_target_of_normal_scores_is_learnt_and_answered_in_its_own_unit(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).lognormal(3, 2, 1000)
    scale = fit_target(labels, "quantile")
    learnt = scale.learnt(labels)
    assert (abs(learnt.mean()) < 0.05, abs(learnt.std() - 1) < 0.05) == (True, True)
    assert np.allclose(scale.value(learnt), labels)
    assert (scale.value(np.array([-50.0, 50.0])) == [labels.min(), labels.max()]).all()
    near = np.linspace(-2, 2.1, 8)
    assert np.allclose(scale.slope(near), (scale.value(near + 1e-6) - scale.value(near - 1e-6)) / 2e-6, rtol=1e-3)
    pack, held_out = served(LEARNERS["pack"](target="quantile", epochs=15), tmp_path / "fit", "regression")
    assert np.corrcoef(pack.outputs(held_out)[:, 0], held_out["label__"])[0, 1] > 0.8
    assert fit_target(np.full(4, 7.0), "quantile").value(np.array([0.3])) == [7.0]
    assert normal_scores(np.empty(0)) == ((), ())


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("regression", {"class_weight": "balanced"}, "class_weight .* must be left out of a regression"),
        ("regression", {"label_smoothing": 0.1}, "label_smoothing .* must be left out of a regression"),
        ("binary", {"target": "quantile"}, "target .* must be left out unless numbers are learnt"),
        ("binary", {"members": 0}, "members"),
        ("binary", {"dropout": 1.0}, "dropout"),
        ("binary", {"numbers": "ranks"}, "numbers"),
    ],
)
@each
def test_parameters_that_make_no_sense_are_refused(
    name: str, kind: TaskKind, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        parcels(kind, model=LEARNERS[name](**change))


def test_a_learning_rate_that_explodes_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss of parcels's model must stay a number, but .*: lower it"):
        served(EmbeddedNetwork(**{**SMALL, "learning_rate": 1e30}), tmp_path / "fit")


# Answers


@of_each_kind
@each
def test_served_answers_are_those_of_the_trained_members(name: str, kind: TaskKind, tmp_path: Path) -> None:
    learner = LEARNERS[name]()
    descent, features = prepared(learner, tmp_path, kind)
    progress = descent.run()
    pack = learner._served(progress, descent, features)
    _, held_out = descent._place()
    assert held_out is not None
    wanted = of_members(kind, descent._answers(held_out))
    if kind == "regression":
        wanted = descent.plan.target.value(wanted)
    assert np.abs(pack.outputs(rows_of_parcels(kind)[1]) - wanted).max() < 2e-5


def test_sums_of_a_layer_are_equal_in_any_order_and_near_to_those_of_float64() -> None:
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(5000, 7)).astype(np.float32)
    x = generator.normal(size=(33, 5000)) * 10.0 ** generator.integers(-3, 4, (33, 1))
    layer, bias = ExactLayer(weight, np.zeros(7, np.float32)), generator.normal(size=7).astype(np.float32)
    told = layer(x)
    assert np.abs(told - x @ weight).max() < 1e-4 * np.abs(x).max()
    within = np.concatenate([generator.permutation(2048), 2048 + generator.permutation(2048), np.arange(4096, 5000)])
    turned = ExactLayer(weight[within], np.zeros(7, np.float32))(x[:, within])
    assert np.array_equal(turned, told)
    assert all(np.array_equal(layer(x[row : row + 1])[0], told[row]) for row in range(33))
    assert np.array_equal(ExactLayer(weight[:0], bias)(x[:, :0]), np.tile(bias.astype(float), (33, 1)))


@of_each_kind
@each
def test_contributions_add_up_and_are_those_of_captum(name: str, kind: TaskKind, tmp_path: Path) -> None:
    """Captum integrates the same members in torch, from the mean vector to the row's own."""
    pack, held_out = served(LEARNERS[name](epochs=10, learning_rate=0.01), tmp_path / "fit", kind)
    rows = held_out.head(20)
    outputs = pack.outputs(rows)
    located = pack.features.transform(rows)
    vectors = np.stack([pack._vectors(located, slice(None), copy) for copy in range(pack.copies)], axis=1)
    base = torch.from_numpy(pack.weights["base"][None].astype(np.float64))
    for output in range(outputs.shape[1]):
        told = pack.contributions(rows, output)
        away = told.sum(axis=1).to_numpy() + pack.base_values[output] - outputs[:, output]
        assert np.abs(away).max() < ADDS_UP
        explained = IntegratedGradients(in_torch(pack, output)).attribute(
            torch.from_numpy(vectors), baselines=base, n_steps=200, method="gausslegendre"
        )
        of_inputs = pd.DataFrame(explained.sum(1).numpy(), columns=pack._column_of_input)
        wanted = of_inputs.T.groupby(level=0, sort=False).sum().T
        assert np.abs(told.to_numpy() - wanted.to_numpy()).max() < 0.02 * np.abs(wanted.to_numpy()).max()


def in_torch(pack: ServedPack, output: int) -> Callable[[Tensor], Tensor]:
    """One output of a regression's, a binary or a multiclass pack, of vectors (rows, copies, inputs)."""

    def answer(vectors: Tensor) -> Tensor:
        answers = []
        for member in pack.members:
            units = vectors[:, member % pack.copies]
            for layer in pack._layers[member][:-1]:
                units = (units @ torch.from_numpy(layer.weight) + torch.from_numpy(layer.bias)).relu()
            last = pack._layers[member][-1]
            answers.append(units @ torch.from_numpy(last.weight) + torch.from_numpy(last.bias))
        of_all = torch.stack(answers)
        if pack.kind == "regression":
            return of_all.mean(0)[:, 0] * pack.target.scale + pack.target.center
        if pack.kind == "binary":
            return of_all.sigmoid().mean(0).logit()[:, 0]
        return of_all.softmax(2).mean(0).log()[:, output]

    return answer


def test_contributions_to_a_target_of_normal_scores_add_up(tmp_path: Path) -> None:
    pack, held_out = served(LEARNERS["pack"](target="quantile"), tmp_path / "fit", "regression")
    told = pack.contributions(held_out)
    assert np.abs(told.sum(axis=1) + pack.base_values[0] - pack.outputs(held_out)[:, 0]).max() < ADDS_UP
    assert pack.contributions(held_out.iloc[:0]).shape == (0, 4)


def test_packs_are_declared_and_answer_without_torch() -> None:
    code = (
        "import sys; from ml import EmbeddedNetwork, TabM; EmbeddedNetwork(), TabM()\n"
        "import ml.serving.kinds.embedded\n"
        "assert not {'torch', 'tabm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
