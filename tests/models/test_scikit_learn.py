"""The wrapper around scikit-learn: what its estimators get, what it says no to, and how it is kept."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler, TargetEncoder
from sklearn.svm import SVC, LinearSVC

from ml import Column, ScikitLearn, UseCase
from ml.errors import ConfigError
from ml.models.scikit_learn import weight_parameter
from ml.serving.kinds.scikit_learn import BLOCK_ROWS, OF_SHARES, TRUSTED, load
from ml.serving.output import TaskKind
from tests.tiny import cleaned, job, learnt, parcel_rows, parcels, raw_parcels


class Keeping(ClassifierMixin, BaseEstimator):
    """Keeps what it was fitted to."""

    X: Any = None

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Keeping":
        self.classes_ = np.unique(y)
        type(self).X, type(self).y, type(self).weights = X, y, sample_weight
        raise ValueError("the value 'a secret' is refused")

    def predict_proba(self, X: Any) -> Any:
        return np.full((len(X), 2), 0.5)


TRUSTED_HERE = (f"{__name__}.Keeping",)


def kept(tmp_path: Path, **changes: Any) -> Any:
    """What an estimator is fitted to, on 200 rows of parcels."""
    options = {name: changes.pop(name) for name in ("rows", "categories") if name in changes}
    use_case = parcels(model=ScikitLearn(Keeping(), trusted=TRUSTED_HERE, **options), **changes)
    with pytest.raises(ConfigError) as refused:
        use_case.model.fit_rows(job(use_case, tmp_path / "fit", cleaned(use_case, parcel_rows(200)), None))
    assert "secret" not in str(refused.value)
    return Keeping


# What an estimator gets


def test_an_encoded_row_is_standardised_numbers_indicators_and_one_column_for_each_code(tmp_path: Path) -> None:
    """weight; distance and whether it is missing; five codes of carrier; five of zone."""
    X, rows = kept(tmp_path).X, parcel_rows(200)
    assert (X.shape, X.dtype) == ((200, 13), np.float64)
    weight, distance = rows["weight"], rows["distance"]
    assert X[:, 0] == pytest.approx((weight - weight.mean()) / weight.std(ddof=0))
    assert np.array_equal(X[:, 2], distance.isna())
    assert (X[distance.isna(), 1] == 0).all()
    assert X[~distance.isna(), 1].std() == pytest.approx(1)
    assert np.array_equal(
        X[:, 3:8].argmax(axis=1), [{"a": 2, "b": 3, "c": 4}.get(str(c)[0], 1) for c in rows["carrier"]]
    )
    assert (X[:, 3:8].sum(axis=1) == 1).all()
    assert (X[:, 8:].sum(axis=1) == 1).all()


def test_a_frame_has_plain_numbers_and_categoricals_with_the_levels_of_train(tmp_path: Path) -> None:
    X, rows = kept(tmp_path, rows="frame").X, parcel_rows(200)
    assert list(X) == ["weight", "distance", "carrier", "zone"]
    pd.testing.assert_frame_equal(X[["weight", "distance"]], rows[["weight", "distance"]])
    assert list(X["carrier"].cat.categories) == ["other", "ant", "bee", "cat"]
    assert list(X["zone"].cat.categories) == ["other", "1", "2", "3"]
    assert np.array_equal(X["carrier"].isna(), rows["carrier"].isna())
    assert X["carrier"].dropna().astype("str").equals(rows["carrier"].dropna())


def test_only_the_most_frequent_categories_are_known(tmp_path: Path) -> None:
    X = kept(tmp_path, rows="frame", categories=2, rare_below=1).X
    rows = parcel_rows(200)
    most = sorted(rows["carrier"].value_counts().index[:2])
    assert list(X["carrier"].cat.categories) == ["other", *most]
    assert ((X["carrier"] == "other") == (rows["carrier"].notna() & ~rows["carrier"].isin(most))).all()


def test_a_part_of_a_time_is_a_categorical_under_its_own_name(tmp_path: Path) -> None:
    columns = (*parcels().columns, Column(name="at", type="timestamp", parts=("hour", "weekday")))
    use_case = parcels(model=ScikitLearn(Keeping(), rows="frame", trusted=TRUSTED_HERE), columns=columns)
    rows = parcel_rows(200).assign(at=pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(200), unit="h"))
    with pytest.raises(ConfigError):
        use_case.model.fit_rows(job(use_case, tmp_path / "fit", cleaned(use_case, rows), None))
    assert list(Keeping.X)[-2:] == ["at hour", "at weekday"]
    clash = parcels(model=use_case.model, columns=(*columns, Column(name="at hour")))
    with pytest.raises(ConfigError, match="'at hour' is there twice: rename the column"):
        clash.model.fit_rows(job(clash, tmp_path / "b", cleaned(clash, rows.assign(**{"at hour": 1.0})), None))


def test_labels_are_whole_numbers_of_classes_and_weights_come_as_they_are(tmp_path: Path) -> None:
    seen = kept(tmp_path, weight="weight")
    assert seen.y.dtype == np.int64
    assert np.array_equal(seen.weights, parcel_rows(200)["weight"])


def test_the_seed_and_the_threads_reach_every_part(tmp_path: Path) -> None:
    inner = make_pipeline(StandardScaler(), BaggingClassifier(RandomForestClassifier(n_estimators=2), n_estimators=2))
    use_case = parcels(model=ScikitLearn(inner))
    block = cleaned(use_case, parcel_rows(100))
    use_case.model.fit_rows(job(use_case, tmp_path / "fit", block, None, seed=2**40 + 7, threads=2))
    parameters = load(tmp_path / "fit", 1).estimator.get_params(deep=True)
    assert {value for name, value in parameters.items() if name.endswith("random_state")} == {7}
    assert {value for name, value in parameters.items() if name.endswith("n_jobs")} == {2}
    assert inner.get_params()["baggingclassifier__random_state"] is None


# What it answers

FITS: dict[str, tuple[TaskKind, Callable[[], ScikitLearn]]] = {
    "a support vector machine": ("binary", lambda: ScikitLearn(SVC())),
    "one for more classes": ("multiclass", lambda: ScikitLearn(LinearSVC())),
    "neighbours": ("multiclass", lambda: ScikitLearn(KNeighborsClassifier())),
    "Bayes": ("binary", lambda: ScikitLearn(GaussianNB())),
    "a perceptron": ("binary", lambda: ScikitLearn(Perceptron())),
    "several layers": ("binary", lambda: ScikitLearn(MLPClassifier((4,), max_iter=3))),
    "random splits": ("binary", lambda: ScikitLearn(ExtraTreesClassifier(3))),
    "boosting": ("binary", lambda: ScikitLearn(GradientBoostingClassifier(n_estimators=3))),
    "of boosted stumps": ("binary", lambda: ScikitLearn(AdaBoostClassifier(n_estimators=3))),
    "calibrated": ("binary", lambda: ScikitLearn(CalibratedClassifierCV(LinearSVC(), cv=2))),
    "a vote": ("binary", lambda: ScikitLearn(VotingClassifier([("a", GaussianNB())], voting="soft"))),
    "a stack": ("binary", lambda: ScikitLearn(StackingClassifier([("a", GaussianNB())], cv=2))),
    "a search": ("binary", lambda: ScikitLearn(GridSearchCV(LogisticRegression(), {"C": np.array([0.1, 1.0])}, cv=2))),
    "chosen columns": ("binary", lambda: ScikitLearn(make_pipeline(SelectKBest(k=2), LogisticRegression()))),
    "a transformed target": (
        "regression",
        lambda: ScikitLearn(TransformedTargetRegressor(Ridge(), func=np.arcsinh, inverse_func=np.sinh)),
    ),
    "Gaussian processes": ("regression", lambda: ScikitLearn(GaussianProcessRegressor())),
    "native categories": ("binary", lambda: ScikitLearn(HistGradientBoostingClassifier(max_iter=3), rows="frame")),
    "categories by target": (
        "binary",
        lambda: ScikitLearn(
            make_pipeline(
                ColumnTransformer([("c", TargetEncoder(cv=2), ["carrier", "zone"]), ("n", "passthrough", ["weight"])]),
                LogisticRegression(),
            ),
            rows="frame",
        ),
    ),
}


@pytest.mark.parametrize("name", FITS)
def test_it_answers_each_row_by_itself_as_the_estimator_answers_all(name: str, tmp_path: Path) -> None:
    kind, make = FITS[name]
    fitted, model = learnt(kind, tmp_path / "fit", model=make())
    rows = cleaned(parcels(kind), parcel_rows(BLOCK_ROWS + 44, 5))
    served: Any = model.served
    outputs = served.outputs(rows)
    prepared = served.preparation.transform(rows)
    method = "predict" if kind == "regression" else "decision_function"
    if kind != "regression" and hasattr(served.estimator, "predict_proba"):
        p = served.estimator.predict_proba(prepared)
        wide = np.column_stack([np.zeros(len(outputs)), outputs]) if kind == "binary" else outputs
        softmax = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
        assert softmax == pytest.approx(p, abs=OF_SHARES if kind == "binary" else 1e-5)
        assert (
            np.array_equal(np.argsort(wide[:, 1], kind="stable"), np.argsort(p[:, 1], kind="stable"))
            or kind != "binary"
        )
    else:
        expected = getattr(served.estimator, method)(prepared)
        assert outputs == pytest.approx(expected.reshape(outputs.shape), rel=1e-12)
    assert np.array_equal(served.outputs(rows.iloc[::-1])[::-1], outputs)
    assert np.array_equal(served.outputs(rows.iloc[[280]]), outputs[[280]])
    assert served.outputs(rows.iloc[:0]).shape == (0, outputs.shape[1])
    assert fitted.chosen == {}


def test_probabilities_of_zero_and_one_are_finite_logits(tmp_path: Path) -> None:
    """A hundredth of the classes' shares is mixed into them."""
    _, model = learnt("binary", tmp_path / "fit", model=ScikitLearn(KNeighborsClassifier(1)))
    outputs = model.served.outputs(cleaned(parcels(), parcel_rows(50)))
    late = float((parcel_rows()["outcome"] == "late").mean())
    expected = {
        np.log(0.01 * late) - np.log(1 + 0.01 * (1 - late)),
        np.log(1 + 0.01 * late) - np.log(0.01 * (1 - late)),
    }
    assert {round(float(output), 9) for output in outputs[:, 0]} == {round(float(each), 9) for each in expected}


def test_a_logarithm_of_the_target_is_learnt_where_it_says_so(tmp_path: Path) -> None:
    _, model = learnt("regression", tmp_path / "fit", model=ScikitLearn(LinearRegression()))
    rows = parcel_rows(200, 5)
    assert model.predict(raw_parcels(200, 5))["prediction"].to_numpy() == pytest.approx(rows["price"], rel=0.5)


def test_a_fit_that_did_not_converge_says_so_and_no_warning_leaves_it(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted, _ = learnt("binary", tmp_path / "fit", model=ScikitLearn(SGDClassifier(loss="log_loss", max_iter=2)))
    assert fitted.notes == ("The fit did not converge: more iterations, another solver or other parameters may help.",)


# What it says no to


def use(estimator: Any, kind: TaskKind = "binary", **changes: Any) -> UseCase:
    options = {name: changes.pop(name) for name in ("rows", "categories", "trusted") if name in changes}
    return parcels(kind, model=ScikitLearn(estimator, **options), **changes)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a clusterer": (lambda: use(KMeans()), "it is a ScikitLearn of KMeans for binary: take Trees()"),
    "what finds outliers": (lambda: use(IsolationForest()), "a ScikitLearn of IsolationForest for binary"),
    "a transformer": (lambda: use(StandardScaler()), "a ScikitLearn of StandardScaler for binary"),
    "a regressor of classes": (lambda: use(Ridge()), "it is a ScikitLearn of Ridge for binary"),
    "a classifier of values": (lambda: use(GaussianNB(), "regression"), "a ScikitLearn of GaussianNB for regression"),
    "a class": (
        lambda: use(LogisticRegression),
        "must be an instance of BaseEstimator, but it is <class.*: write an unfitted",
    ),
    "another form": (lambda: use(GaussianNB(), rows="sparse"), "must be 'encoded' or 'frame', but it is 'sparse'"),
    "no categories": (lambda: use(GaussianNB(), categories=0), "categories of the model of parcels must be greater"),
    "a parameter": (lambda: use(LogisticRegression(C=-1)), "The 'C' parameter of LogisticRegression must be a float"),
    "of a step": (
        lambda: use(make_pipeline(StandardScaler(), KNeighborsClassifier(0))),
        "The 'n_neighbors' parameter of KNeighborsClassifier must be",
    ),
    "a hard vote": (
        lambda: use(VotingClassifier([("a", GaussianNB())])),
        "with probabilities or with a decision function, but VotingClassifier has none: take another one, or",
    ),
    "pairs of classes": (lambda: use(SVC(decision_function_shape="ovo"), "multiclass"), "but .*_shape is 'ovo': leave"),
    "weights that it does not take": (
        lambda: use(make_pipeline(StandardScaler(), KNeighborsClassifier()), weight="weight"),
        "but the fit of KNeighborsClassifier has no sample_weight: leave `weight` out or take another estimator",
    ),
    "a splitter": (lambda: use(GridSearchCV(GaussianNB(), {}, cv=KFold(2))), "but one is not .*cannot hold a KFold"),
    "a slice": (
        lambda: use(make_pipeline(ColumnTransformer([("a", "passthrough", slice(0, 2))]), GaussianNB())),
        "but one is not .*cannot hold a slice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learnt_is_refused_in_a_sentence_when_it_is_declared(name: str) -> None:
    declare, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words) as refused:
        declare()
    assert str(refused.value).count(", but ") == 1


def add_one(values: Any) -> Any:
    return values + 1


@pytest.mark.parametrize("function", [add_one, lambda values: values], ids=["a function of a file", "a lambda"])
def test_a_type_that_nobody_trusts_is_named_before_the_fit(function: Any, tmp_path: Path) -> None:
    use_case = use(make_pipeline(FunctionTransformer(function), Keeping()), trusted=TRUSTED_HERE)
    Keeping.X = None
    fit_job = job(use_case, tmp_path / "fit", cleaned(use_case, parcel_rows(50)), None)
    for ask in (lambda: use_case.model.try_parameters(use_case), lambda: use_case.model.fit_rows(fit_job)):
        with pytest.raises(ConfigError, match=rf"but it has {__name__}\.\W?{function.__name__}: let `derive` do"):
            ask()
    assert Keeping.X is None


HISTOGRAMS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "itself": (lambda: HistGradientBoostingClassifier(max_iter=2), {"categories": 300}, r"takes 255 .* has 301"),
    "with fewer bins": (lambda: HistGradientBoostingClassifier(max_iter=2, max_bins=20), {}, r"takes 20 .* has 201"),
    "in a search": (
        lambda: GridSearchCV(HistGradientBoostingClassifier(max_iter=2), {}, cv=2), {"categories": 300},
        r"takes 255 .* has 301"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_a_category_with_too_many_values_for_an_estimator_is_named(name: str, tmp_path: Path) -> None:
    make, options, words = HISTOGRAMS[name]
    rows = parcel_rows(700).assign(carrier=pd.Series([f"c{place % 350}" for place in range(700)], dtype="str"))
    use_case = use(make(), rows="frame", rare_below=1, **options)
    block = cleaned(use_case, rows)
    with pytest.raises(
        ConfigError, match=rf"it {words} with that of the others: let `categories` be smaller"
    ) as refused:
        use_case.model.fit_rows(job(use_case, tmp_path / "fit", block, None))
    assert "and carrier has" in str(refused.value)
    fewer = use(make(), rows="frame", rare_below=1, categories=19)
    fewer.model.fit_rows(job(fewer, tmp_path / "fewer", block, None))


def test_a_file_with_another_type_is_not_loaded(tmp_path: Path) -> None:
    from skops.io.exceptions import UntrustedTypesFoundException

    learnt("binary", tmp_path / "fit", model=ScikitLearn(RandomForestClassifier(2)))
    (tmp_path / "fit" / "estimator.skops").write_bytes(__import__("skops.io").io.dumps(Keeping()))
    with pytest.raises(UntrustedTypesFoundException, match="Keeping"):
        load(tmp_path / "fit", 1)


def test_what_scikit_learn_says_about_rows_is_not_repeated(tmp_path: Path) -> None:
    """It quotes them: could not convert string to float: 'ant'."""
    use_case = use(LogisticRegression(), rows="frame")
    rows = cleaned(use_case, parcel_rows(100))
    with pytest.raises(ConfigError) as refused:
        use_case.model.fit_rows(job(use_case, tmp_path / "fit", rows, None))
    assert str(refused.value).startswith(
        "the estimator of parcels must learn from its rows, but LogisticRegression raises ValueError at "
    )
    assert 'or try rows="encoded"' in str(refused.value)
    assert not {value for value in ("ant", "bee", "cat ") if f"'{value}'" in str(refused.value)}
    assert isinstance(refused.value.__cause__, ValueError), "--debug shows it"


@pytest.mark.parametrize(
    ("estimator", "parameter"),
    [
        (Ridge(), "sample_weight"),
        (make_pipeline(StandardScaler(), Ridge()), "ridge__sample_weight"),
        (make_pipeline(make_pipeline(StandardScaler(), Ridge())), "pipeline__ridge__sample_weight"),
        (KNeighborsClassifier(), None),
        (make_pipeline(StandardScaler(), KNeighborsClassifier()), None),
    ],
)
def test_weights_go_to_the_last_step(estimator: Any, parameter: str | None) -> None:
    assert weight_parameter(estimator) == parameter


# Its digest and its bytes

DIFFERENT: list[Any] = [
    LogisticRegression(),
    LogisticRegression(C=2.0),
    LogisticRegression(C=np.inf),
    make_pipeline(StandardScaler(), LogisticRegression()),
    make_pipeline(StandardScaler(with_mean=False), LogisticRegression()),
    make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()),
    make_pipeline(FunctionTransformer(np.sqrt), LogisticRegression()),
    make_pipeline(FunctionTransformer(add_one), LogisticRegression()),
    BaggingClassifier(LogisticRegression()),
    CalibratedClassifierCV(LogisticRegression()),
    BaggingClassifier(LogisticRegression(C=2.0)),
    GridSearchCV(LogisticRegression(), {"C": np.array([1.0, 2.0])}),
    GridSearchCV(LogisticRegression(), {"C": [1.0, 3.0]}),
    make_pipeline(ColumnTransformer([("a", "passthrough", ["weight"])]), LogisticRegression()),
    make_pipeline(ColumnTransformer([("a", "drop", ["weight"])]), LogisticRegression()),
    make_pipeline(ColumnTransformer([("a", "passthrough", ["zone"])]), LogisticRegression()),
    make_pipeline(ColumnTransformer([("a", "drop", make_column_selector("a"))]), LogisticRegression()),
    make_pipeline(ColumnTransformer([("a", "drop", make_column_selector("b"))]), LogisticRegression()),
    make_pipeline(
        ColumnTransformer([("a", "drop", make_column_selector(dtype_include=np.number))]), LogisticRegression()
    ),
]


def test_every_parameter_at_any_depth_is_in_the_digest() -> None:
    digests = [use(estimator).digest for estimator in DIFFERENT]
    assert len(set(digests)) == len(digests)
    assert use(make_pipeline(StandardScaler(), LogisticRegression(C=1.0))).digest == digests[3]
    assert use(LogisticRegression(), rows="frame").digest not in digests
    assert use(LogisticRegression(), categories=100).digest not in digests


def test_declaring_one_imports_neither_skops_nor_torch() -> None:
    code = "import sys; from ml import ScikitLearn; print({'torch', 'skops', 'lightgbm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_it_names_its_libraries_and_those_of_its_parts() -> None:
    from lightgbm import LGBMClassifier

    assert ScikitLearn(GaussianNB()).needs == ("scikit-learn", "skops")
    assert ScikitLearn(make_pipeline(StandardScaler(), LGBMClassifier())).needs == ("scikit-learn", "skops", "lightgbm")
    assert ScikitLearn(GaussianNB(), trusted=("lightgbm.basic.Booster",)).libraries[-1] == "lightgbm"


def test_every_trusted_type_is_there() -> None:
    from importlib import import_module

    places = [name.rpartition(".") for name in TRUSTED]
    assert [name for module, _, name in places if not hasattr(import_module(module), name)] == []


FIT = """
import sys
from pathlib import Path
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from ml import ScikitLearn
from tests.tiny import learnt
columns = make_column_transformer(
    (OneHotEncoder(handle_unknown="ignore"), ["carrier", "zone"]), (SimpleImputer(), ["weight", "distance"]))
learnt("binary", Path(sys.argv[1]), model=ScikitLearn(
    make_pipeline(columns, GradientBoostingClassifier(n_estimators=3)), rows="frame"))
"""


def test_another_process_writes_equal_bytes(tmp_path: Path) -> None:
    """Hashes of texts, places in memory, the clock and what lay in the memory before differ between the two."""
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", FIT, str(tmp_path / "there")], env=environment, check=True)
    exec(FIT.replace("sys.argv[1]", repr(str(tmp_path / "here"))), {})
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / place).iterdir()} for place in ("here", "there")
    )
    assert here == there
    assert set(here) == {"estimator.json", "estimator.skops"}
