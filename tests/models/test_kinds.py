"""The contract that every kind of model keeps. A new kind is one line of LEARNERS."""

import io
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from ml import (
    Column,
    EmbeddedNetwork,
    Ensemble,
    Learner,
    NetworkClassifier,
    NetworkRegressor,
    ScikitLearn,
    TabM,
    Trees,
    UseCase,
)
from ml.data.cleaning import LABEL
from ml.errors import DataRejected, RetrainError
from ml.models.handles import Step
from ml.models.packaging import write_model
from ml.models.protocol import Fitted, Rows
from ml.models.training import package
from ml.serving.model import PackagedModel
from ml.serving.output import TaskKind
from tests.tiny import KINDS, Memory, cleaned, fit, job, learnt, parcel_rows, parcels, raw_parcels, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")


def of_frames(last: Any) -> Any:
    """A pipeline that takes a frame: imputed and scaled numbers, one-hot categories, a logarithm."""
    numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    columns = [
        ("numbers", numbers, make_column_selector(dtype_include=np.number)),
        ("logarithm", FunctionTransformer(np.log1p), ["weight"]),
        ("categories", OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_include="category")),
    ]
    return make_pipeline(ColumnTransformer(columns), last)


def either(classifier: Any, regressor: Any, **options: Any) -> Callable[[TaskKind], Learner]:
    return lambda kind: ScikitLearn(regressor if kind == "regression" else classifier, **options)


def network(kind: TaskKind) -> Learner:
    estimator = NetworkRegressor() if kind == "regression" else NetworkClassifier()
    return estimator.set_params(hidden=(8,), epochs=3, batch_size=64, learning_rate=0.02)


def trees(kind: TaskKind) -> Learner:
    return Trees(rounds=12, patience=None, num_leaves=8, learning_rate=0.2, subsample=0.8)


linear = either(LogisticRegression(), Ridge())
FOREST = {"n_estimators": 5, "max_depth": 6}
SMALL: dict[str, Any] = {"hidden": (8,), "embedding": 2, "bins": 6, "batch_size": 64, "learning_rate": 0.02}
BOOSTED = {"max_iter": 5, "max_leaf_nodes": 8}
LEARNERS: dict[str, Callable[[TaskKind], Learner]] = {
    "network": network,
    "trees": trees,
    "pack": lambda kind: EmbeddedNetwork(members=2, epochs=4, **SMALL),
    "tabm": lambda kind: TabM(members=4, epochs=4, **SMALL),
    "linear": linear,
    "forest": either(RandomForestClassifier(**FOREST), RandomForestRegressor(**FOREST)),
    "histograms": either(
        HistGradientBoostingClassifier(**BOOSTED), HistGradientBoostingRegressor(**BOOSTED), rows="frame"
    ),
    "pipeline": either(of_frames(LogisticRegression()), of_frames(Ridge()), rows="frame"),
    "ensemble": lambda kind: Ensemble((network(kind), trees(kind), linear(kind))),
}
TELLS_STEPS = ("network", "pack", "tabm", "ensemble")  # and goes on in the middle of a fit; other kinds begin it again
SEES_ALL_ROWS: dict[str, Learner] = {  # in each of its steps: a weight then moves it as much as repeated rows do
    "network": network("binary").set_params(batch_size=None, epochs=20),
    "pack": EmbeddedNetwork(members=2, **{**SMALL, "batch_size": 10_000}, epochs=30, dropout=0.0),
    "tabm": TabM(members=4, **{**SMALL, "batch_size": 10_000}, epochs=30, dropout=0.0),
    "forest": ScikitLearn(RandomForestClassifier(**FOREST, bootstrap=False)),
    "trees": Trees(rounds=12, patience=None, num_leaves=8, learning_rate=0.2, min_child_samples=1),
}
SEES_ALL_ROWS["ensemble"] = Ensemble((SEES_ALL_ROWS["network"], SEES_ALL_ROWS["trees"]))
SEEDLESS = ("linear", "pipeline")
# Of kinds that share their code with another, one task is tested at once and the others are slow.
AT_ONCE: dict[str, tuple[TaskKind, ...]] = {
    "tabm": ("binary",), "forest": ("multiclass",), "histograms": ("regression",), "pipeline": ("binary",),
    "ensemble": ("binary", "regression"),
}  # fmt: skip
CASES = [
    pytest.param(name, kind, marks=() if kind in AT_ONCE.get(name, KINDS) else pytest.mark.slow)
    for name in LEARNERS
    for kind in KINDS
]
case = pytest.mark.parametrize(("name", "kind"), CASES)
each = pytest.mark.parametrize("name", LEARNERS)


@dataclass(frozen=True)
class Made:
    use_case: UseCase
    fitted: Fitted
    model: PackagedModel


@cache
def made(name: str, kind: TaskKind) -> Made:
    learner = LEARNERS[name](kind)
    return Made(parcels(kind, model=learner), *learnt(kind, model=learner))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


# Fit, save, load, answer


@pytest.fixture(scope="module")
def answered_elsewhere(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], pd.DataFrame]:
    """The answers of the registered files of every kind that is to be tested, all from one fresh process that imports
    nothing of ours."""
    place = tmp_path_factory.mktemp("elsewhere")
    users = [each for each in request.session.items if "answered_elsewhere" in getattr(each, "fixturenames", ())]
    cases = [(each.callspec.params["name"], each.callspec.params["kind"]) for each in users]
    raw_parcels().to_parquet(place / "rows.parquet")
    for name, kind in cases:
        write_model(made(name, kind).model, made(name, kind).use_case.model, place / f"{name}-{kind}")
    (place / "answer.py").write_text(
        "import sys, mlflow.pyfunc, pandas as pd\n"
        "rows = pd.read_parquet('rows.parquet')\n"
        "for name in sys.argv[1:]:\n"
        "    mlflow.pyfunc.load_model(name).predict(rows).to_parquet(f'{name}.parquet')\n"
        "assert not [name for name in sys.modules if name == 'ml' or name.startswith('ml.')]\n"
    )
    names = [f"{name}-{kind}" for name, kind in cases]
    subprocess.run([sys.executable, "-P", "-W", "ignore", "answer.py", *names], cwd=place, check=True)
    return {(name, kind): pd.read_parquet(place / f"{name}-{kind}.parquet") for name, kind in cases}


@case
def test_a_fresh_process_gives_equal_answers(
    name: str, kind: TaskKind, answered_elsewhere: dict[tuple[str, str], pd.DataFrame]
) -> None:
    here, there = made(name, kind).model.predict(raw_parcels()), answered_elsewhere[name, kind]
    assert list(here) == list(there)
    tolerance = made(name, kind).use_case.model.repeats
    for column in here.select_dtypes("number"):
        assert np.abs(here[column] - there[column]).max() <= tolerance
    assert here["broken_rule"].isna().all()


@case
def test_answers_are_better_than_chance(name: str, kind: TaskKind) -> None:
    model, rows = made(name, kind).model, parcel_rows(400, 2)
    answers = model.predict(raw_parcels())
    if kind == "binary":
        late = (rows["outcome"] == "late").to_numpy()
        assert answers["probability"][late].mean() > answers["probability"][~late].mean() + 0.1
    elif kind == "multiclass":
        assert (answers["prediction"] == rows["pace"]).mean() > 0.45
    else:
        assert np.corrcoef(answers["prediction"], rows["price"])[0, 1] > 0.5


@case
def test_a_row_is_answered_alike_in_any_order_and_company(name: str, kind: TaskKind) -> None:
    model, rows = made(name, kind).model, raw_parcels(300)
    whole = model.predict(rows)
    tolerance = made(name, kind).use_case.model.repeats
    others = {
        "turned round": model.predict(rows.iloc[::-1]).iloc[::-1],
        "mixed": model.predict(rows.sample(frac=1, random_state=0)).sort_index(),
        "alone": pd.concat([model.predict(rows.iloc[[place]]) for place in (0, 7, 299)]),
        "beside its like": model.predict(rows.iloc[[5] * 40]).head(1),
        "a few": model.predict(rows.iloc[100:117]),
    }
    for company, answers in others.items():
        for column in whole.select_dtypes("number"):
            assert np.abs(answers[column] - whole[column].loc[answers.index]).max() <= tolerance, company
    assert len(model.predict(rows.iloc[:0])) == 0


@case
def test_no_file_is_a_pickle(name: str, kind: TaskKind) -> None:
    files = contents(made(name, kind).model.folder)
    inside = [
        archive.read(member)
        for data in files.values()
        if zipfile.is_zipfile(io.BytesIO(data))
        for archive in [zipfile.ZipFile(io.BytesIO(data))]
        for member in archive.namelist()
    ]
    assert files
    assert not any(is_pickle(data) for data in [*files.values(), *inside])
    arrays = [np.load(io.BytesIO(data), allow_pickle=False) for data in inside if data.startswith(b"\x93NUMPY")]
    assert not any(array.dtype.hasobject for array in arrays)


def is_pickle(data: bytes) -> bool:
    try:
        return bool(list(pickletools.genops(data)))
    except Exception:  # noqa: BLE001 - no pickle, whatever pickletools makes of it
        return False


@case
def test_missing_and_unseen_values_are_answered_with_numbers(name: str, kind: TaskKind) -> None:
    rows = raw_parcels(6)
    rows["distance"] = np.nan
    rows["carrier"] = pd.Series(["ant", None, "unseen", "(other)", "other", ""], dtype="str")
    rows.loc[5, "zone"] = 99
    answers = made(name, kind).model.predict(rows).select_dtypes("number")
    assert np.isfinite(answers.to_numpy()).all()
    alike = rows.iloc[[2, 2, 2]].assign(carrier=pd.Series(["unseen", "other", "never"], dtype="str", index=[2, 2, 2]))
    assert len(made(name, kind).model.predict(alike).select_dtypes("number").drop_duplicates()) == 1


# Equal fits, killed fits


class Killed(BaseException):
    """As the end of a process, nothing here catches it."""


class Killing(Memory):
    """A diary of a process that is killed when its fit tells the second step."""

    def step(self, step: Step, total: int) -> None:
        super().step(step, total)
        if step.number == 2:
            raise Killed


def read_to_the_middle(*frames: pd.DataFrame) -> Rows:
    def read() -> Iterator[pd.DataFrame]:
        yield frames[0]
        raise Killed

    return Rows(read)


@case
def test_a_killed_fit_ends_with_equal_bytes(name: str, kind: TaskKind, tmp_path: Path) -> None:
    """Killed while it reads its rows, and in the middle of its steps if it tells any."""
    use_case = parcels(kind, model=LEARNERS[name](kind))
    train, validation = (cleaned(use_case, parcel_rows(rows, seed)) for rows, seed in ((400, 0), (200, 1)))
    diary, frames = Killing(), (train.iloc[:150], train.iloc[150:])
    with pytest.raises(Killed):
        first = job(use_case, tmp_path / "a", train, validation, diary=diary)
        use_case.model.fit_rows(replace(first, train=read_to_the_middle(*frames)))
    if name in TELLS_STEPS:
        with pytest.raises(Killed):
            use_case.model.fit_rows(job(use_case, tmp_path / "b", train, validation, diary=diary))
        assert diary.checkpoint is not None
    again = Memory()
    again.checkpoint = diary.checkpoint
    wanted = job(use_case, tmp_path / "c", train, validation, diary=again)
    fitted = use_case.model.fit_rows(replace(wanted, train=rows_of(*frames)))
    assert contents(tmp_path / "c") == contents(made(name, kind).model.folder)
    assert (fitted.chosen, fitted.steps) == (made(name, kind).fitted.chosen, made(name, kind).fitted.steps)


@each
def test_a_seed_decides_what_is_random(name: str, tmp_path: Path) -> None:
    train = parcel_rows(200)
    use_case = parcels(model=LEARNERS[name]("binary"))
    block = cleaned(use_case, train)
    answers = [
        fit(use_case, tmp_path / str(place), block, block, seed=seed)[1].served.outputs(block)
        for place, seed in enumerate((1, 2**63 - 1))
    ]
    assert np.array_equal(*answers) == (name in SEEDLESS or name == "histograms")  # which samples nothing of 200 rows


@each
def test_a_kind_says_where_its_fit_runs(name: str) -> None:
    learner = LEARNERS[name]("binary")
    assert (learner.device_on("cpu"), learner.device_on("cuda")) == ("cpu", "cuda" if name in TELLS_STEPS else "cpu")


@each
def test_a_fit_on_two_threads_repeats_itself(name: str, tmp_path: Path) -> None:
    use_case = parcels(model=LEARNERS[name]("binary"))
    block = cleaned(use_case, parcel_rows(400))
    fits = [tmp_path / "one", tmp_path / "two"]
    for folder in fits:
        use_case.model.fit_rows(job(use_case, folder, block, block, threads=2))
    assert contents(fits[0]) == contents(fits[1])
    models = [package(use_case, use_case.column_rules, folder, 2, block) for folder in (fits[0], fits[0])]
    rows = raw_parcels(300)
    assert models[0].predict(rows).equals(models[1].predict(rows.iloc[::-1]).iloc[::-1])


@case
def test_what_one_fit_chose_is_enough_for_another_without_validation_rows(
    name: str, kind: TaskKind, tmp_path: Path
) -> None:
    before = made(name, kind)
    train = cleaned(before.use_case, parcel_rows(300, 3))
    wanted = job(before.use_case, tmp_path / "fit", train, None, chosen=before.fitted.chosen)
    fitted = before.use_case.model.fit_rows(wanted)
    assert fitted.chosen == before.fitted.chosen
    validation = cleaned(before.use_case, parcel_rows(200, 1))
    model = package(before.use_case, before.use_case.column_rules, tmp_path / "fit", 1, validation)
    assert np.isfinite(model.predict(raw_parcels(20)).select_dtypes("number").to_numpy()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_with_chosen_epochs_keeps_the_last_of_them(kind: TaskKind, tmp_path: Path) -> None:
    """As if it had been declared with so many epochs and without patience."""
    use_case = parcels(kind, model=network(kind).set_params(epochs=9, patience=1))
    train = cleaned(use_case, parcel_rows(300, 3))
    wanted = job(use_case, tmp_path / "fit", train, None, chosen={"epochs": 2})
    fitted = use_case.model.fit_rows(wanted)
    assert (len(fitted.steps), fitted.best, fitted.chosen) == (2, 2, {"epochs": 2})
    overfitted = network(kind).set_params(epochs=4, learning_rate=0.5, batch_size=20)
    unlucky = parcels(kind, model=overfitted)
    wanted = job(unlucky, tmp_path / "unlucky", train, None, chosen={"epochs": 4})
    assert overfitted.fit_rows(wanted).best == 4


# What is too little, and what is too much


@each
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_train_rows_without_a_class_are_refused_in_a_sentence(name: str, kind: TaskKind, tmp_path: Path) -> None:
    use_case = parcels(kind, model=LEARNERS[name](kind))
    block = cleaned(use_case, parcel_rows(200))
    rest = block[block[LABEL] != 0]
    seen = {"binary": "1 of 2", "multiclass": "2 of 3"}[kind]
    with pytest.raises(DataRejected, match=rf"must have every class of \w+, but they have {seen}: add rows, or"):
        use_case.model.fit_rows(job(use_case, tmp_path / "fit", rest, block))


def more_columns(use_case: UseCase, added: dict[str, Any], rows: pd.DataFrame) -> tuple[UseCase, pd.DataFrame]:
    """The use case and its rows with these columns: of numbers, or of texts where the first value is one."""
    texts = {name for name, values in added.items() if isinstance(values[0], str)}
    columns = (Column(name=name, type="text" if name in texts else "number") for name in added)
    values = {name: pd.Series(v, dtype="str" if name in texts else "float64") for name, v in added.items()}
    return replace(use_case, columns=(*use_case.columns, *columns)), pd.concat([rows, pd.DataFrame(values)], axis=1)


@case
def test_constant_and_repeated_columns_do_no_harm(name: str, kind: TaskKind, tmp_path: Path) -> None:
    rows = parcel_rows(300)
    added = {"same": np.full(300, 1e9), "again": rows["weight"].to_numpy(), "word": ["x"] * 300}
    use_case, rows = more_columns(parcels(kind, model=LEARNERS[name](kind)), added, rows)
    block = cleaned(use_case, rows)
    _, model = fit(use_case, tmp_path / "fit", block, block)
    assert np.isfinite(model.served.outputs(block)).all()


@each
def test_a_value_is_learnt_from_a_single_row_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    use_case = parcels("regression", model=LEARNERS[name]("regression"), rare_below=1)
    row = cleaned(use_case, parcel_rows(1))
    try:
        _, model = fit(use_case, tmp_path / "fit", row, row)
    except RetrainError as error:
        assert ", but " in str(error)
    else:
        assert model.predict(raw_parcels(1))["prediction"].notna().all()


@pytest.mark.slow
@each
def test_five_thousand_columns_are_learnt(name: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    added = {f"c{place}": generator.normal(size=60) for place in range(5000)}
    use_case, rows = more_columns(parcels(model=LEARNERS[name]("binary")), added, parcel_rows(60))
    block = cleaned(use_case, rows)
    _, model = fit(use_case, tmp_path / "fit", block, block)
    assert np.isfinite(model.served.outputs(block)).all()


@pytest.mark.slow
@each
def test_a_hundred_thousand_categories_are_learnt(name: str, tmp_path: Path) -> None:
    rows = parcel_rows(100_000)
    rows["carrier"] = pd.Series([f"carrier {place % 99_999}" for place in range(100_000)], dtype="str")
    use_case = parcels(model=LEARNERS[name]("binary"), rare_below=1)
    block = cleaned(use_case, rows)
    _, model = fit(use_case, tmp_path / "fit", block, block)
    assert np.isfinite(model.served.outputs(block.head(300))).all()


# Weights of rows


def outputs_after(name: str, folder: Path, train: pd.DataFrame, counts: Any) -> np.ndarray:
    """The output for 200 other rows, after a fit to train rows of which each counts so much."""
    use_case = parcels(model=SEES_ALL_ROWS.get(name) or LEARNERS[name]("binary"))
    weight = Column(name="counts", minimum=0, feature=False)
    use_case = replace(use_case, columns=(*use_case.columns, weight), weight="counts")
    block, held_out = (
        cleaned(use_case, rows.assign(counts=np.asarray(values, np.float64)))
        for rows, values in ((train, counts), (parcel_rows(200, 1), np.ones(200)))
    )
    _, model = fit(use_case, folder, block, held_out)
    answers: np.ndarray = model.served.outputs(cleaned(parcels(), parcel_rows(200, 5)))[:, 0]
    return answers


@each
def test_a_weight_moves_the_model_as_repeated_rows_do(name: str, tmp_path: Path) -> None:
    """Nearly so: the standard deviation of a column and the bins of histograms count each row once."""
    rows = parcel_rows(300)
    late = (rows["outcome"] == "late").to_numpy()
    several = pd.concat([rows, *[rows[late]] * 4], ignore_index=True)
    weighted = outputs_after(name, tmp_path / "weighted", rows, np.where(late, 5, 1))
    repeated = outputs_after(name, tmp_path / "repeated", several, np.ones(len(several)))
    plain = outputs_after(name, tmp_path / "plain", rows, np.ones(300))
    away, before = (np.median(np.abs(outputs - repeated)) for outputs in (weighted, plain))
    assert away < 0.3 * before


@each
def test_a_row_of_weight_zero_teaches_nothing(name: str, tmp_path: Path) -> None:
    """Two thirds of the rows have the other label. With a weight of 0 they do not turn the answers round."""
    rows = parcel_rows(400)
    wrong = rows.assign(outcome=rows["outcome"].map({"late": "in time", "in time": "late"}))
    both = pd.concat([rows, wrong, wrong], ignore_index=True)
    late = (parcel_rows(200, 5)["outcome"] == "late").to_numpy()
    apart = {}
    for weight in (0.0, 1.0):
        outputs = outputs_after(name, tmp_path / str(weight), both, np.repeat([1.0, weight], [400, 800]))
        apart[weight] = outputs[late].mean() - outputs[~late].mean()
    assert apart[0.0] > max(0.0, 2 * apart[1.0])


@each
def test_weights_that_are_all_zero_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="some rows must have a weight in counts, but each has 0: mend the column"):
        outputs_after(name, tmp_path / "fit", parcel_rows(100), np.zeros(100))
