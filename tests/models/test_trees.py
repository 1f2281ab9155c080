"""Boosted trees: what LightGBM is told, what it learns, and what the served half answers."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss, root_mean_squared_error

from ml import Column, Target, Trees, UseCase
from ml.data.cleaning import LABEL
from ml.errors import ConfigError, DataRejected
from ml.models.packaging import write_model
from ml.models.protocol import Fitted
from ml.models.tree_options import ELSEWHERE, GROWTH, main_names
from ml.serving.columns import conform
from ml.serving.kinds.trees import TREES, ServedTrees, load
from ml.serving.output import Output, TaskKind, probabilities
from tests.tiny import (
    KINDS,
    Memory,
    cleaned,
    job,
    labels_of,
    learnt,
    parcel_rows,
    parcels,
    raw_parcels,
    rows_of,
    sales,
    tills,
)

Floats = NDArray[np.float64]
SMALL = {"min_child_samples": 5, "rounds": 60}
OBJECTIVES = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}


def small(**changes: Any) -> Trees:
    return Trees(**{**SMALL, **changes})


def grown(
    use_case: UseCase, folder: Path, train: pd.DataFrame, validation: pd.DataFrame | None = None, **changes: Any
) -> tuple[Fitted, ServedTrees]:
    """The fit of cleaned rows, and its served half."""
    fitted = use_case.model.fit_rows(job(use_case, folder, train, validation, **changes))
    return fitted, load(folder, 1)


def parcels_of(kind: TaskKind = "binary", **changes: Any) -> tuple[UseCase, pd.DataFrame, pd.DataFrame]:
    """The use case with train and validation rows."""
    use_case = parcels(kind, **{"model": small(), **changes})
    return use_case, cleaned(use_case, parcel_rows(400)), cleaned(use_case, parcel_rows(200, seed=1))


def by_hand(rows: pd.DataFrame) -> Floats:
    """Numbers as they are; categories as 0 unknown, 1 missing, then the known ones in their order."""
    carriers, zones = {"ant": 2, "bee": 3, "cat": 4}, {1.0: 2, 2.0: 3, 3.0: 4}
    texts = rows.carrier.astype("object").where(rows.carrier.notna(), None)
    return np.column_stack(
        [
            rows.weight.to_numpy(np.float64),
            rows.distance.to_numpy(np.float64),
            [1 if text is None else carriers.get(text, 0) for text in texts],
            [zones.get(float(zone), 0) for zone in rows.zone],
        ]
    )


def learnt_labels(kind: TaskKind, rows: pd.DataFrame) -> Floats:
    return np.log(labels_of(rows)) if kind == "regression" else labels_of(rows)


# What LightGBM says when it is called by hand


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_lightgbm_called_by_hand_on_the_same_rows(kind: TaskKind, tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(kind, model=Trees(min_child_samples=5, reg_lambda=0.5))
    fitted, served = grown(use_case, tmp_path / "fitted", train, validation)

    parameters = {
        "objective": OBJECTIVES[kind], "learning_rate": 0.05, "num_leaves": 31, "min_child_samples": 5,
        "reg_lambda": 0.5, "num_threads": 1, "verbosity": -1, **({"num_class": 3} if kind == "multiclass" else {}),
    }  # fmt: skip
    data = lightgbm.Dataset(by_hand(train), learnt_labels(kind, train), categorical_feature=[2, 3], params=parameters)
    held_out = lightgbm.Dataset(by_hand(validation), learnt_labels(kind, validation), reference=data)
    hand = lightgbm.train(
        parameters, data, 1000, valid_sets=[held_out], callbacks=[lightgbm.early_stopping(30, verbose=False)]
    )
    assert fitted.chosen == {"trees": hand.best_iteration}
    fresh = conform(raw_parcels(300, seed=5), use_case.features)
    raw = np.asarray(hand.predict(by_hand(fresh), raw_score=True)).reshape(300, -1)
    assert np.abs(served.outputs(fresh) - raw).max() < 1e-9
    if kind != "regression":
        p = probabilities(Output(kind=kind), served.outputs(fresh))
        said = np.asarray(hand.predict(by_hand(fresh)))
        assert np.abs((p[:, 1] if kind == "binary" else p) - said).max() < 1e-9


def test_the_bins_of_many_rows_are_lightgbms_whatever_the_seed(tmp_path: Path) -> None:
    """LightGBM chooses bins by a sample of the rows. The sample is that of its default seed."""
    use_case, train, validation = parcels_of(model=small(options={"bin_construct_sample_cnt": 100}))
    _, served = grown(use_case, tmp_path / "fitted", train, chosen={"trees": 20}, seed=7)
    parameters = {
        "objective": "binary", "learning_rate": 0.05, "min_child_samples": 5, "bin_construct_sample_cnt": 100,
        "num_threads": 1, "verbosity": -1,
    }  # fmt: skip
    data = lightgbm.Dataset(by_hand(train), labels_of(train), categorical_feature=[2, 3], params=parameters)
    raw = np.asarray(lightgbm.train(parameters, data, 20).predict(by_hand(validation), raw_score=True))
    assert np.array_equal(served.outputs(validation)[:, 0], raw)


def test_weights_of_rows_and_of_classes_are_those_of_lightgbm_and_count_in_both_losses(tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(weight="weight", model=small(class_weight="balanced"))
    fitted, served = grown(use_case, tmp_path / "fitted", train, validation)

    def weights(rows: pd.DataFrame) -> Floats:
        of_rows = rows.weight.to_numpy(np.float64) / rows.weight.mean()
        counts = train[LABEL].value_counts()
        return of_rows * rows[LABEL].map(len(train) / (2 * counts)).to_numpy(np.float64)

    parameters = {
        "objective": "binary",
        "learning_rate": 0.05,
        "min_child_samples": 5,
        "num_threads": 1,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(
        by_hand(train), labels_of(train), weight=weights(train), categorical_feature=[2, 3], params=parameters
    )
    hand = lightgbm.train(parameters, data, fitted.chosen["trees"])
    raw = np.asarray(hand.predict(by_hand(validation), raw_score=True))
    assert np.abs(served.outputs(validation)[:, 0] - raw).max() < 1e-9
    assert fitted.best is not None
    best = fitted.steps[fitted.best - 1]
    for rows, loss in ((train, best.train_loss), (validation, best.validation_loss)):
        p = np.asarray(hand.predict(by_hand(rows)))
        assert loss == pytest.approx(log_loss(labels_of(rows), p, sample_weight=weights(rows)), rel=1e-6)


def test_only_the_proportions_of_weights_count(tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(weight="weight", model=small(reg_lambda=10.0))
    kilograms, grams = (
        grown(use_case, tmp_path / str(unit), *(rows.assign(weight=rows.weight * unit) for rows in (train, validation)))
        for unit in (1, 1024)
    )
    by_weight = [step.validation_loss for step in kilograms[0].steps]
    assert [step.validation_loss for step in grams[0].steps] == pytest.approx(by_weight)


def test_weights_that_are_all_zero_are_refused(tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(weight="weight")
    with pytest.raises(DataRejected, match="some rows must have a weight in weight, but each has 0"):
        grown(use_case, tmp_path / "fitted", train, validation.assign(weight=0.0))


# The curve, and what validation chooses


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_has_a_step_for_each_tree_and_the_best_one_is_kept(kind: TaskKind, tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(kind, model=Trees(min_child_samples=5, patience=7))
    diary = Memory()
    fitted, served = grown(use_case, tmp_path / "fitted", train, validation, diary=diary)
    losses = [step.validation_loss for step in fitted.steps]
    assert [step.number for step in fitted.steps] == list(range(1, len(losses) + 1))
    assert fitted.best == 1 + losses.index(min(losses)) == len(losses) - 7
    assert fitted.chosen == {"trees": served.booster.current_iteration()} == {"trees": fitted.best}
    assert diary.steps == list(fitted.steps)
    y, outputs = learnt_labels(kind, validation), served.outputs(validation)
    if kind == "regression":
        assert min(losses) == pytest.approx(root_mean_squared_error(y, outputs[:, 0]), rel=1e-6)
    else:
        assert min(losses) == pytest.approx(log_loss(y, probabilities(Output(kind=kind), outputs)), rel=1e-6)


def test_without_patience_all_trees_grow_and_the_best_one_is_still_kept(tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(model=Trees(min_child_samples=5, rounds=120, patience=None))
    fitted, _ = grown(use_case, tmp_path / "fitted", train, validation)
    assert len(fitted.steps) == 120 > fitted.chosen["trees"]


@pytest.mark.parametrize("model", [small(), small(subsample=0.6, colsample_bytree=0.5, class_weight="balanced")])
def test_a_fit_that_is_given_what_was_chosen_needs_no_validation_and_makes_equal_bytes(
    model: Trees, tmp_path: Path
) -> None:
    use_case, train, validation = parcels_of(model=model)
    first, _ = grown(use_case, tmp_path / "first", train, validation)
    again, _ = grown(use_case, tmp_path / "again", train, chosen=json.loads(json.dumps(first.chosen)))
    assert again.chosen == first.chosen
    assert len(again.steps) == again.best == first.best
    assert files(tmp_path / "again") == files(tmp_path / "first")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_fit_that_was_killed_begins_again_and_ends_with_equal_bytes(tmp_path: Path) -> None:
    class Killed(Memory):
        def step(self, step: Any, total: int) -> None:
            if step.number == 5:
                raise KeyboardInterrupt

    use_case, train, validation = parcels_of()
    grown(use_case, tmp_path / "whole", train, validation)
    killed = Killed()
    with pytest.raises(KeyboardInterrupt):
        grown(use_case, tmp_path / "killed", train, validation, diary=killed)
    after = Memory()
    after.checkpoint = killed.checkpoint
    grown(use_case, tmp_path / "again", train, validation, diary=after)
    assert files(tmp_path / "again") == files(tmp_path / "whole")


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_cuts_into_frames_change_no_byte(kind: TaskKind, tmp_path: Path) -> None:
    use_case = parcels(kind, weight="weight", model=Trees(rounds=8, subsample=0.7, colsample_bytree=0.6))
    train, validation = (cleaned(use_case, parcel_rows(rows, seed)) for rows, seed in ((3000, 0), (200, 1)))
    grown(use_case, tmp_path / "one", train, validation)
    for threads in (2, 3):
        grown(use_case, tmp_path / str(threads), train, validation, threads=threads)
        assert files(tmp_path / str(threads)) == files(tmp_path / "one")
    cut = rows_of(train[:100], train[100:100], train[100:])
    use_case.model.fit_rows(replace(job(use_case, tmp_path / "cut", train, validation), train=cut))
    assert files(tmp_path / "cut") == files(tmp_path / "one")


def test_the_seed_decides_which_rows_and_columns_a_tree_sees(tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(model=small(subsample=0.5))
    one, same, other = (
        grown(use_case, tmp_path / name, train, validation, seed=seed) and files(tmp_path / name)
        for name, seed in (("one", 2**62 + 1), ("same", 2**62 + 1), ("other", 2))
    )
    assert one == same
    assert one[TREES] != other[TREES]


# What the served half answers


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_answered_alike_alone_and_in_any_company_and_by_any_threads(kind: TaskKind, tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(kind)
    _, served = grown(use_case, tmp_path / "fitted", train, validation)
    rows = conform(raw_parcels(500), use_case.features)
    together = served.outputs(rows)
    order = np.random.default_rng(3).permutation(len(rows))
    assert np.array_equal(served.outputs(rows.iloc[order]), together[order])
    assert np.array_equal(load(tmp_path / "fitted", 2).outputs(rows), together)
    alone = [served.outputs(rows.iloc[[place]])[0] for place in range(50)]
    assert np.array_equal(np.array(alone), together[:50])
    assert served.outputs(rows[:0]).shape == (0, together.shape[1])


def test_unseen_and_missing_categories_and_missing_numbers_are_answered(tmp_path: Path) -> None:
    use_case, train, validation = parcels_of()
    _, served = grown(use_case, tmp_path / "fitted", train, validation)
    odd = raw_parcels(3).assign(carrier=[None, "dog", "ant"], zone=[9, 1, 2], distance=[np.nan, 5.0, np.inf])
    assert np.isfinite(served.outputs(conform(odd, use_case.features))).all()
    assert served.vocabulary == {"carrier": ("ant", "bee", "cat"), "zone": ("1", "2", "3")}


def test_a_missing_number_counts_as_0_where_no_train_row_missed_it(tmp_path: Path) -> None:
    """So LightGBM has it, which learnt nothing about a missing one. The page on models says so."""
    use_case, train, validation = parcels_of()
    _, served = grown(use_case, tmp_path / "fitted", train, validation)
    rows = conform(raw_parcels(2), use_case.features)
    missing, zero = (rows.assign(weight=value) for value in (np.nan, 0.0))
    assert np.array_equal(served.outputs(missing), served.outputs(zero))


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_of_raw_columns_add_up_to_the_output(kind: TaskKind, tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(kind)
    _, served = grown(use_case, tmp_path / "fitted", train, validation)
    rows = conform(raw_parcels(20).set_index(np.arange(20) + 7), use_case.features)
    outputs = served.outputs(rows)
    assert served.base_values.shape == (outputs.shape[1],)
    for output in range(outputs.shape[1]):
        parts = served.contributions(rows, output)
        assert list(parts.columns) == ["weight", "distance", "carrier", "zone"]
        assert list(parts.index) == list(rows.index)
        assert np.abs(parts.sum(axis=1) + served.base_values[output] - outputs[:, output]).max() < 1e-9
    assert served.contributions(rows[:0]).shape == (0, 4)


def test_the_contributions_of_a_times_parts_are_added_up_in_its_column(tmp_path: Path) -> None:
    at = Column(name="at", type="timestamp", parts=("hour", "weekday", "month"))
    use_case = tills()
    use_case = tills(model=small(), columns=tuple(at if c.name == "at" else c for c in use_case.columns))
    rows = pd.concat([sales(day.date(), 40) for day in pd.date_range("2024-01-01", periods=30)])
    train = cleaned(use_case, rows.assign(returned_after=(rows["at"].dt.hour > 12) * 1.0))
    _, served = grown(use_case, tmp_path / "fitted", train, chosen={"trees": 20})
    parts = served.contributions(train)
    assert list(parts.columns) == ["amount", "items", "shop", "at"]
    of_features = np.asarray(served.booster.predict(served.features.transform(train), pred_contrib=True))
    assert served.features.columns == ["amount", "items", "shop", "at", "at", "at"]
    assert np.array_equal(parts["at"], of_features[:, 3:6].sum(axis=1))
    assert parts["at"].abs().max() > 0.1
    assert np.abs(parts.sum(axis=1) + served.base_values[0] - served.outputs(train)[:, 0]).max() < 1e-9


@pytest.mark.parametrize(("kind", "sign"), [("binary", 1), ("binary", -1), ("regression", 1)])
def test_a_monotone_column_moves_the_output_one_way_only(kind: TaskKind, sign: int, tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(kind, model=small(monotone={"distance": sign}))
    _, served = grown(use_case, tmp_path / "fitted", train, validation)
    free, _, _ = parcels_of(kind)
    _, unbound = grown(free, tmp_path / "free", train, validation)
    rows = conform(pd.concat([raw_parcels(1)] * 200), use_case.features).assign(distance=np.linspace(0, 1000, 200))
    rises = np.diff(served.outputs(rows)[:, 0]) * sign
    assert (rises >= 0).all()
    assert not (np.diff(unbound.outputs(rows)[:, 0]) * sign >= 0).all()


# Odd rows and columns


def wide(columns: tuple[Column, ...], **changes: Any) -> UseCase:
    """Parcels with these features only."""
    outcome = tuple(column for column in parcels().columns if not column.feature)
    return parcels(columns=(*columns, *outcome), **{"model": small(rounds=5), **changes})


@pytest.mark.parametrize(
    "values",
    [
        {"constant": 1.0},
        {"missing": np.nan},
        {"one": np.arange(60.0), "same": np.arange(60.0)},
        {"huge": np.array([1e140, -1e140] * 30)},
        {"tiny": np.array([1e-300, -1e-300] * 30)},
        {name: np.arange(60.0) for name in ('a"b', "a,b", "a:b", "[x]", "a b", "ä", "{", "weight\\")},
    ],
    ids=lambda values: ", ".join(values),
)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_columns_are_learnt(values: dict[str, Any], kind: TaskKind, tmp_path: Path) -> None:
    rows = parcel_rows(60).assign(**values)
    columns = tuple(Column(name=name, nullable=True) for name in values)
    use_case = wide(columns, target=parcels(kind).target, metric=parcels(kind).metric)
    train = cleaned(use_case, rows)
    fitted, served = grown(use_case, tmp_path / "fitted", train, train)
    assert np.isfinite(served.outputs(train)).all()
    assert fitted.steps
    assert list(served.contributions(train).columns) == list(values)


def test_one_row_is_learnt(tmp_path: Path) -> None:
    use_case, train, validation = parcels_of("regression")
    fitted, served = grown(use_case, tmp_path / "fitted", train[:1], validation)
    assert fitted.chosen == {"trees": 1}
    assert served.outputs(validation)[:, 0] == pytest.approx(np.log(labels_of(train[:1])[0]), rel=1e-6)


def test_a_sample_of_no_row_is_refused(tmp_path: Path) -> None:
    use_case, train, validation = parcels_of("regression", model=small(subsample=0.2))
    with pytest.raises(ConfigError, match=r"must see a train row, but a share of 0\.2 of 4 train rows is none"):
        grown(use_case, tmp_path / "four", train[:4], validation)
    grown(use_case, tmp_path / "five", train[:5], validation)


def test_five_thousand_columns_are_learnt(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = [f"x{number}" for number in range(5000)]
    rows = pd.concat([parcel_rows(60), pd.DataFrame(generator.normal(size=(60, 5000)), columns=names)], axis=1)
    rows["outcome"] = np.where(rows.x4321 > 0, "late", "in time")
    use_case = wide(tuple(Column(name=name) for name in names))
    train = cleaned(use_case, rows)
    _, served = grown(use_case, tmp_path / "fitted", train, chosen={"trees": 3})
    assert served.contributions(train[:1]).abs().iloc[0].idxmax() == "x4321"


def test_a_hundred_thousand_categories_are_learnt(tmp_path: Path) -> None:
    count = 100_000
    text = np.char.add("c", np.arange(count).astype(str))
    rows = pd.concat([parcel_rows(count)] * 2, ignore_index=True).assign(code=np.tile(text, 2))
    rows["outcome"] = np.where(rows.code.str.endswith("7"), "late", "in time")
    use_case = wide((Column(name="code", type="text"),), rare_below=1, model=Trees(rounds=2, num_leaves=4))
    train = cleaned(use_case, rows)
    _, served = grown(use_case, tmp_path / "fitted", train, train[:100])
    assert np.isfinite(served.outputs(train[:1000])).all()
    assert len(served.vocabulary["code"]) == count


def test_labels_that_differ_only_in_later_digits_than_lightgbm_keeps_are_refused(tmp_path: Path) -> None:
    use_case = parcels("regression", target=Target(column="price", kind="regression"), model=small())
    near = cleaned(use_case, parcel_rows(50).assign(price=1.7e9 + np.arange(50.0)))
    with pytest.raises(ConfigError, match=r"first seven digits.* its rounding moves one by 3.4 standard deviations"):
        grown(use_case, tmp_path / "near", near, near)
    equal = cleaned(use_case, parcel_rows(50).assign(price=1.7e9 + 1))
    _, served = grown(use_case, tmp_path / "equal", equal, equal)
    assert served.outputs(equal)[:, 0] == pytest.approx(1.7e9, rel=1e-6)


# What a use case may say


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (Trees(options=["max_depth"]), "options"),
        (Trees(monotone={"weight": 2}), "monotone"),
        (Trees(learning_rate=0.0), "learning_rate"),
        (Trees(rounds=0), "rounds"),
        (Trees(num_leaves=1), "num_leaves"),
        (Trees(subsample=1.5), "subsample"),
    ],
    ids=str,
)
def test_a_parameter_of_another_type_or_size_is_refused(model: Trees, field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parcels(model=model)
    assert re.match(rf"{field}(\[\w+\])? of the model of parcels must ", str(refused.value))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_depth": "deep"}, "Parameter max_depth should be of type int"),
        ({"max_bin": 1}, "Check failed: (max_bin) > (1)'"),
        ({"extra_trees": "maybe"}, "extra_trees"),
        ({"top_rate": 2.0, "data_sample_strategy": "goss"}, "top_rate"),
    ],
)
def test_a_value_that_lightgbm_refuses_is_refused_with_its_words(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    use_case, train, validation = parcels_of(model=Trees(options=options))
    for ask in (use_case.model.try_parameters, lambda _: grown(use_case, tmp_path / "fitted", train, validation)):
        with pytest.raises(ConfigError) as refused:
            ask(use_case)
        assert words in str(refused.value)
        assert "trees must be values that LightGBM takes" in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_lightgbm_takes_are_tried_without_a_word(kind: TaskKind) -> None:
    monotone: Any = None if kind == "multiclass" else {"weight": 1}
    use_case = parcels(kind, model=Trees(options={"max_depth": 3}, monotone=monotone, subsample=0.5))
    use_case.model.try_parameters(use_case)


def test_options_reach_lightgbm_under_any_of_its_names(tmp_path: Path) -> None:
    use_case, train, validation = parcels_of(
        model=small(options={"reg_alpha": 2.5, "max_depth": 2, "extra_trees": True})
    )
    _, served = grown(use_case, tmp_path / "fitted", train, validation)
    text = served.booster.model_to_string()
    assert {"[lambda_l1: 2.5]", "[max_depth: 2]", "[extra_trees: 1]"} <= set(text.splitlines())


def test_every_parameter_that_the_tables_name_is_one_of_lightgbm() -> None:
    assert {*GROWTH, *ELSEWHERE} <= set(main_names().values())
    assert not GROWTH & set(ELSEWHERE)
    assert main_names() == {
        name: main for main, names in lightgbm.basic._ConfigAliases._get_all_param_aliases().items() for name in names
    }


# Silence, and what is imported


def test_a_fit_and_its_answers_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    use_case, train, validation = parcels_of(model=small(options={"max_depth": 3}))
    _, served = grown(use_case, tmp_path / "fitted", train.assign(weight=1.0), validation)
    served.outputs(validation)
    served.contributions(validation)
    grown(use_case, tmp_path / "one", train[:2], chosen={"trees": 5})
    assert capfd.readouterr() == ("", "")


def test_declaring_trees_imports_neither_lightgbm_nor_torch() -> None:
    script = (
        "import sys\nfrom ml import Trees\nfrom tests.tiny import parcels\n"
        "for model in (Trees(), Trees(options={'max_depth': 3}, monotone={'weight': 1})): parcels(model=model)\n"
        "print([name for name in ('lightgbm', 'torch') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


WITHOUT_TORCH = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'ml', 'safetensors'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Refused())
import mlflow.pyfunc, pandas as pd
print(mlflow.pyfunc.load_model(sys.argv[1]).predict(pd.read_parquet(sys.argv[2])).to_json())
"""


def test_a_version_of_trees_serves_without_torch_and_needs_lightgbm(tmp_path: Path) -> None:
    _, model = learnt(model=small())
    write_model(model, small(), tmp_path / "version")
    needs = (tmp_path / "version" / "requirements.txt").read_text()
    assert f"lightgbm=={lightgbm.__version__}" in needs
    assert "torch" not in needs
    raw_parcels(5).to_parquet(tmp_path / "rows.parquet")
    process = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_TORCH, str(tmp_path / "version"), str(tmp_path / "rows.parquet")],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout.strip() == model.predict(raw_parcels(5)).to_json()
    kinds = {path.name for path in (tmp_path / "version").rglob("kinds/*.py")}
    assert kinds == {"__init__.py", "trees.py"}
