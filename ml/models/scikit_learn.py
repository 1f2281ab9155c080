"""Any classifier or regressor of scikit-learn as a learner, pipelines and searches among them.

Fitted estimators are saved with skops, which loads no type that nobody trusts by name. The bytes of the file are the
same for equal fits.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from pydantic import PositiveInt
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import get_tags
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import has_fit_parameter

from ml.code import distributions_of
from ml.data.dataset import Dataset
from ml.data.statistics import categories, category_key
from ml.declarations import Broken, twice
from ml.errors import ConfigError, what_and_where
from ml.models.encoding import fit_encoder
from ml.models.protocol import Fitted, Floats, Job, Learner
from ml.serving.features import CategoryFeature, Encoder
from ml.serving.output import TaskKind

SEEDS = 2**32  # scikit-learn takes no larger random_state
NEVER = (1980, 1, 1, 0, 0, 0)  # the time of every file in a zip: the clock is no part of a model
OWN_PACKAGES = ("sklearn", "numpy", "scipy", "functools", "builtins")


class ScikitLearn(Learner):
    """A classifier or a regressor of scikit-learn: `estimator` is unfitted, and may be a pipeline.

    With `rows="encoded"` it gets a matrix of standardised numbers, indicators of missing ones, and a column for each
    known category. With `rows="frame"` it gets a DataFrame of the feature columns: numbers with NaN, and categoricals.
    Of each column the `categories` most frequent values are known, and the others count as one. `trusted` names the
    types of other libraries that skops may load, such as "category_encoders.woe.WOEEncoder".

    In a fit each `random_state` is the night's seed and each `n_jobs` its number of threads.
    """

    served = ("scikit_learn",)
    code = ("ml/models/scikit_learn.py", "ml/models/encoding.py")
    uses_gpu = False

    def __init__(
        self,
        estimator: BaseEstimator,
        rows: Literal["encoded", "frame"] = "encoded",
        categories: PositiveInt = 200,
        trusted: tuple[str, ...] = (),
    ) -> None:
        self.estimator = estimator
        self.rows = rows
        self.categories = categories
        self.trusted = trusted

    @property
    def learns(self) -> tuple[TaskKind, ...]:  # type: ignore[override]  # it depends on the estimator
        if is_regressor(self.estimator):
            return ("regression",)
        if not is_classifier(self.estimator):
            return ()
        return ("binary", "multiclass") if get_tags(self.estimator).classifier_tags.multi_class else ("binary",)

    @property
    def title(self) -> str:
        return f"{type(self).__name__} of {type(_last_step(self.estimator)).__name__}"

    @property
    def gives_probabilities(self) -> bool:
        weighted = any(getattr(part, "class_weight", None) is not None for part in _parts(self.estimator))
        return not weighted and hasattr(_last_step(self.estimator), "predict_proba")

    @property
    def libraries(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("scikit-learn", "skops", "scipy", "joblib", "threadpoolctl", *self._distributions())

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("scikit-learn", "skops", *self._distributions())

    def _distributions(self) -> tuple[str, ...]:
        """The installed libraries besides scikit-learn's own that its parts and trusted types are of."""
        names = [*(type(part).__module__ for part in _parts(self.estimator)), *self.trusted]
        packages = {name.partition(".")[0] for name in names} - set(OWN_PACKAGES)
        return tuple(sorted({name for package in packages for name in distributions_of(package)}))

    def fit_rows(self, job: Job) -> Fitted:
        """Prepares the job's rows, fits a clone with its seed and threads, and writes it with what prepares rows.

        Raises ConfigError if skops would not load the estimator, or if scikit-learn refuses the rows, and DataRejected
        if the train rows lack a class or have no weight.
        """
        from ml.serving.kinds.scikit_learn import Preparation, name_of, save

        job.require_every_class()
        self.try_parameters(job.table)
        estimator = _configured(self.estimator, job)
        encoder = fit_encoder(job.table, job.statistics)
        preparation = Preparation(rows=self.rows, numbers=encoder.numbers, categories=self._most_frequent(job, encoder))
        if repeated := twice([*(n.column for n in encoder.numbers), *map(name_of, encoder.categories)]):
            rule = f"the columns of {job.table.name} and the parts of its times must have names of their own"
            raise ConfigError(rule, str(repeated), "rename the column")
        X, y, weights = _together(job, preparation)
        notes = self._fit(estimator, X, y, weights, job)
        save(
            job.folder,
            preparation,
            self._saved(estimator, job.table.name),
            method=_method(estimator),
            shares=_shares(job),
            trusted=self.trusted,
        )
        return Fitted(chosen={}, notes=notes)

    def try_parameters(self, table: Dataset) -> None:
        """Raises ConfigError if skops would not load the estimator: what cannot be saved is not fitted."""
        self._saved(self.estimator, table.name)

    def _most_frequent(self, job: Job, encoder: Encoder) -> tuple[CategoryFeature, ...]:
        """The encoder's category features, each with its most frequent values alone."""
        keys = [category_key(column, part) for column, part in categories(job.table)]
        return tuple(
            replace(feature, values=_largest(feature.values, job.statistics.texts[key], self.categories))
            for feature, key in zip(encoder.categories, keys, strict=True)
        )

    def _fit(self, estimator: BaseEstimator, X: Any, y: Floats, weights: Floats | None, job: Job) -> tuple[str, ...]:
        """Fits the estimator in place and returns, in our words, what scikit-learn warned of."""
        from joblib import parallel_config
        from threadpoolctl import threadpool_limits

        options = {} if weights is None else {cast(str, weight_parameter(estimator)): weights}
        try:
            with (
                warnings.catch_warnings(record=True) as warned,
                threadpool_limits(job.threads),
                parallel_config(backend="threading"),  # other processes would import for seconds
            ):
                warnings.simplefilter("always")
                estimator.fit(X, y, **options)
        except (ValueError, TypeError) as error:
            rule = f"the estimator of {job.table.name} must learn from its rows"
            if many := _too_many_values(self.estimator, X):
                raise ConfigError(rule, many, "let `categories` be smaller") from error
            value = f"{type(_last_step(self.estimator)).__name__} raises {what_and_where(error)}"
            raise ConfigError(rule, value, f'read it with --debug, or try rows="{self._other_rows}"') from error
        return tuple(sorted({_in_our_words(warning) for warning in warned} - {""}))

    @property
    def _other_rows(self) -> str:
        return "frame" if self.rows == "encoded" else "encoded"

    def _saved(self, estimator: BaseEstimator, name: str) -> bytes:
        """The bytes of the estimator's file. Raises ConfigError if it has types that nobody trusts."""
        import skops.io
        from skops.io.exceptions import UnsupportedTypeException

        from ml.serving.kinds.scikit_learn import TRUSTED

        rule = f"the estimator of {name} must be made of types that are trusted by name"
        try:
            data = skops.io.dumps(estimator)
        except UnsupportedTypeException as error:
            raise ConfigError(rule, f"skops cannot save it ({error})", "take another one") from error
        untrusted = sorted({*skops.io.get_untrusted_types(data=data)} - {*TRUSTED, *self.trusted})
        if untrusted:
            next_step = "let `derive` do what is your own, and name types of an installed library in `trusted`"
            raise ConfigError(rule, f"it has {', '.join(untrusted)}", next_step)
        return with_equal_bytes(data)


def _too_many_values(estimator: BaseEstimator, X: Any) -> str | None:
    """The category with more values than a part of the estimator takes, in words; None if there is none.

    HistGradientBoosting takes `max_bins` of them, where the value for all others counts as one.
    """
    limits = [part.max_bins for part in _parts(estimator) if hasattr(part, "max_bins")]
    levels = {name: X[name].nunique() for name in X.select_dtypes("category")} if isinstance(X, pd.DataFrame) else {}
    most = max(levels, key=lambda name: levels[name], default=None)
    if not limits or most is None or levels[most] <= min(limits):
        return None
    taken = f"it takes {min(limits)} values of a category (max_bins)"
    return f"{taken}, and {most} has {levels[most]} with that of the others"


def _shares(job: Job) -> tuple[float, ...]:
    """The share of each class among the train rows; none for a regression."""
    return tuple(
        job.statistics.labels[str(code)] / job.statistics.rows for code in range(len(job.table.target.classes))
    )


def _largest(values: tuple[str, ...], counts: dict[str, int], number: int) -> tuple[str, ...]:
    """The most frequent of the values, sorted; of equally frequent ones the first."""
    return tuple(sorted(sorted(values, key=lambda value: (-counts[value], value))[:number]))


def _together(job: Job, preparation: Any) -> tuple[Any, Floats, Floats | None]:
    """All train rows as the estimator wants them, with their labels (rows,) and their weights, if they have any."""
    X, labels, weights = job.read(job.train, preparation.transform)
    return (
        np.concatenate(X) if preparation.rows == "encoded" else pd.concat(X, ignore_index=True),
        labels if job.table.target.kind == "regression" else labels.astype(np.int64),
        weights,
    )


def _configured(estimator: BaseEstimator, job: Job) -> BaseEstimator:
    """A clone whose parts have the night's seed and number of threads."""
    copy = clone(estimator)
    settings = {"random_state": job.seed % SEEDS, "n_jobs": job.threads}
    names = [name for name in copy.get_params(deep=True) if name.rpartition("__")[2] in settings]
    copy.set_params(**{name: settings[name.rpartition("__")[2]] for name in names})
    return copy


def _method(fitted: BaseEstimator) -> Any:
    """The method whose answers say most: probabilities, else a decision function, else values."""
    if is_regressor(fitted):
        return "predict"
    return "predict_proba" if hasattr(fitted, "predict_proba") else "decision_function"


def _last_step(estimator: Any) -> Any:
    """What learns the target at the end of a pipeline, or the estimator itself."""
    steps = getattr(estimator, "steps", None)
    return _last_step(steps[-1][1]) if steps else estimator


def _parts(estimator: Any) -> Iterator[Any]:
    """The estimator and all estimators inside it."""
    yield estimator
    yield from (value for value in estimator.get_params(deep=True).values() if hasattr(value, "get_params"))


def weight_parameter(estimator: Any) -> str | None:
    """The parameter of `fit` that takes the weights of the rows; None if there is none."""
    steps = getattr(estimator, "steps", None)
    if steps:
        name, last = steps[-1]
        inner = weight_parameter(last)
        return inner and f"{name}__{inner}"
    return "sample_weight" if has_fit_parameter(estimator, "sample_weight") else None


def _in_our_words(warning: warnings.WarningMessage) -> str:
    """A note about a warning, without its words, which may quote rows; empty if it is only about the library."""
    if issubclass(warning.category, FutureWarning | DeprecationWarning | PendingDeprecationWarning):
        return ""
    if issubclass(warning.category, ConvergenceWarning):
        return "The fit did not converge: more iterations, another solver or other parameters may help."
    place = f"{warning.category.__name__} at {warning.filename.rpartition('/')[2]}:{warning.lineno}"
    return f"scikit-learn warned while it fitted: {place}."


def with_equal_bytes(data: bytes) -> bytes:
    """The same file of skops, in bytes that are equal for equal estimators.

    skops names objects by their places in memory and its files by the clock, and NumPy writes what lies between the
    fields of a record.
    """
    source, made = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    schema = json.loads(source.read("schema.json"))
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}
    for node in _nodes(schema):
        if "__id__" in node:
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
        if isinstance(node.get("file"), str):
            ending = node["file"].rpartition(".")[2]
            node["file"] = files.setdefault(node["file"], f"{len(files)}.{ending}")
    with zipfile.ZipFile(made, "w") as target:
        for name, new_name in files.items():
            _write(target, new_name, _without_gaps(source.read(name)))
        _write(target, "schema.json", json.dumps(schema).encode())
    return made.getvalue()


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings in the schema, in its order."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _nodes(item)


def _without_gaps(data: bytes) -> bytes:
    """The array with zeros between the fields of its records, if it has records."""
    if not data.startswith(np.lib.format.MAGIC_PREFIX):
        return data
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype.names is None:
        return data
    clean, made = np.zeros(array.shape, array.dtype), io.BytesIO()
    for name in array.dtype.names:
        clean[name] = array[name]
    np.save(made, clean, allow_pickle=False)
    return made.getvalue()


def _write(target: zipfile.ZipFile, name: str, data: bytes) -> None:
    target.writestr(zipfile.ZipInfo(name, NEVER), data, zipfile.ZIP_DEFLATED)


def _refused_parameter(learner: ScikitLearn) -> Broken:
    """What scikit-learn says of a parameter that it does not take; False if it takes all of them."""
    for part in _parts(learner.estimator):
        if hasattr(part, "_parameter_constraints"):
            try:
                part._validate_params()
            except InvalidParameterError as error:
                return f"scikit-learn says: {error}".rstrip(".")
    return False


def _gives_classes_alone(learner: ScikitLearn) -> Broken:
    """Whether a classifier has neither probabilities nor a decision function, before its fit as after it."""
    last = _last_step(learner.estimator)
    answers = ("predict_proba", "decision_function")
    decides_later = hasattr(last, "final_estimator")  # a stack without a final estimator takes one that has both
    if is_regressor(last) or decides_later or any(hasattr(last, answer) for answer in answers):
        return False
    return f"{type(last).__name__} has none"


def _votes_between_pairs(learner: ScikitLearn, kind: TaskKind) -> Broken:
    if kind != "multiclass" or hasattr(learner.estimator, "predict_proba"):
        return False
    parameters = learner.estimator.get_params(deep=True)
    pairs = [name for name, value in parameters.items() if name.endswith("decision_function_shape") and value == "ovo"]
    return bool(pairs) and f"{pairs[0]} is 'ovo'"


ScikitLearn.demands = (
    (
        "estimator",
        "have parameters that scikit-learn takes",
        lambda m, _: _refused_parameter(m),
        "change the parameter",
    ),
    (
        "estimator",
        "answer with probabilities or with a decision function",
        lambda m, _: _gives_classes_alone(m),
        "take another one, or one that votes softly",
    ),
    (
        "estimator",
        "have one number for each class",
        lambda m, u: _votes_between_pairs(m, u.target.kind),
        "leave decision_function_shape out",
    ),
    (
        "estimator",
        "take the weights of the rows",
        lambda m, u: (
            u.weight is not None
            and weight_parameter(m.estimator) is None
            and f"the fit of {type(_last_step(m.estimator)).__name__} has no sample_weight"
        ),
        "leave `weight` out or take another estimator",
    ),
)
