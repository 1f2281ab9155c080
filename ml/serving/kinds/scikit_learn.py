"""How an estimator or a pipeline of scikit-learn answers: its rows, its blocks of rows, and its file without pickle."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import skops.io
from joblib import parallel_config
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..columns import with_tuples
from ..features import MISSING, UNKNOWN, CategoryFeature, NumberFeature, vocabulary

Floats = NDArray[np.float64]
RowForm = Literal["encoded", "frame"]
Method = Literal["predict_proba", "decision_function", "predict"]
BLOCK_ROWS = 256
# How much of the classes' shares is mixed into probabilities: forests and neighbours answer 0 and 1, whose logits are
# infinite. Two classes are calibrated afterwards; there a hundredth gave neighbours a log loss of 0.36 instead of 0.42
# with a millionth, and did no other estimator harm.
OF_SHARES, OF_SHARES_OF_MANY = 1e-2, 1e-6
DESCRIPTION, ESTIMATOR = "estimator.json", "estimator.skops"

# The types that skops does not trust by itself, and that hold numbers or call functions of scikit-learn alone.
_MODULES = {
    "numpy": "dtype number",
    "functools": "partial",
    "scipy.interpolate._bsplines": "BSpline",
    "scipy._lib.array_api_compat.numpy._aliases": "asarray",
    "sklearn._loss.link": "HalfLogitLink IdentityLink Interval LogLink LogitLink MultinomialLogit",
    "sklearn._loss.loss": "AbsoluteError ExponentialLoss HalfBinomialLoss HalfGammaLoss HalfMultinomialLoss "
    "HalfPoissonLoss HalfSquaredError HalfTweedieLoss HalfTweedieLossIdentity HuberLoss PinballLoss",
    "sklearn.calibration": "_CalibratedClassifier _SigmoidCalibration _TemperatureScaling",
    "sklearn.compose._column_transformer": "make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor": "TreePredictor",
    "sklearn.feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
    "sklearn.feature_selection._univariate_selection": "chi2 f_classif f_regression r_regression",
    "sklearn.gaussian_process._gpc": "_BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels": "CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation "
    "Hyperparameter Matern PairwiseKernel Product RBF RationalQuadratic Sum WhiteKernel",
    "sklearn.metrics._dist_metrics": "BrayCurtisDistance64 CanberraDistance64 ChebyshevDistance64 DistanceMetric64 "
    "EuclideanDistance64 HammingDistance64 ManhattanDistance64 MinkowskiDistance64 SEuclideanDistance64",
    "sklearn.metrics._scorer": "_PassthroughScorer _Scorer",
    "sklearn.model_selection._split": "KFold StratifiedKFold",
    "sklearn.neighbors._ball_tree": "BallTree",
    "sklearn.neighbors._kd_tree": "KDTree",
    "sklearn.neural_network._stochastic_optimizers": "AdamOptimizer SGDOptimizer",
    "sklearn.tree._tree": "Tree",
    "sklearn.utils._bunch": "Bunch",
    "sklearn.utils.validation": "check_array",
}
TRUSTED = tuple(f"{module}.{name}" for module, names in _MODULES.items() for name in names.split())


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Typed rows as the estimator wants them, in the fit and in every answer.

    "encoded" is a matrix of float64: standardised numbers with an indicator where one may be missing, then one column
    for each code of each category. "frame" is a DataFrame with numbers as they are, and pandas' categoricals.
    """

    rows: RowForm
    numbers: tuple[NumberFeature, ...]
    categories: tuple[CategoryFeature, ...]

    def transform(self, typed: pd.DataFrame) -> Any:
        """(rows, width) as a matrix or a DataFrame."""
        return self._matrix(typed) if self.rows == "encoded" else self._frame(typed)

    def _matrix(self, typed: pd.DataFrame) -> Floats:
        matrix, place = np.zeros((len(typed), self.width)), 0
        for number in self.numbers:
            number.write(typed[number.column].to_numpy(np.float64), matrix[:, place : place + number.width])
            place += number.width
        for category in self.categories:
            matrix[np.arange(len(typed)), place + category.transform(typed).astype(np.intp)] = 1.0
            place += category.size
        return matrix

    def _frame(self, typed: pd.DataFrame) -> pd.DataFrame:
        columns: dict[str, Any] = {number.column: typed[number.column].to_numpy(np.float64) for number in self.numbers}
        for category in self.categories:
            columns[name_of(category)] = _categorical(category, typed)
        return pd.DataFrame(columns)

    @property
    def width(self) -> int:
        """How many columns the encoded matrix has."""
        return sum(number.width for number in self.numbers) + sum(category.size for category in self.categories)


def name_of(category: CategoryFeature) -> str:
    """The name of its column in a frame: that of the declared column, or like 'departure hour' for a part of a time."""
    return category.column if category.part is None else f"{category.column} {category.part}"


def _categorical(category: CategoryFeature, typed: pd.DataFrame) -> pd.Categorical:
    """The first level is for unknown and rare values; a missing value is missing."""
    codes = category.transform(typed).astype(np.intp)
    levels = np.where(codes == MISSING, -1, np.where(codes == UNKNOWN, 0, codes - 1))
    return pd.Categorical.from_codes(levels, categories=[_other(category.values), *category.values])


def _other(values: tuple[str, ...]) -> str:
    """A name for unknown and rare values that no known value has."""
    name = "other"
    while name in values:
        name = f"({name})"
    return name


@dataclass(frozen=True, kw_only=True)
class ServedEstimator:
    """A fitted estimator with the preparation of its rows. `method` of it gives the answers; `shares` are those of the
    classes among the train rows, none for a regression."""

    preparation: Preparation
    estimator: Any
    method: Method
    shares: tuple[float, ...]
    threads: int

    def outputs(self, typed: pd.DataFrame) -> Floats:
        """(rows, outputs): a logit of the second class, a logit of each class, or the value that was learnt."""
        outputs = [np.empty((0, len(self.shares) if len(self.shares) > 2 else 1))]
        with threadpool_limits(self.threads), parallel_config(backend="sequential"):
            for start in range(0, len(typed), BLOCK_ROWS):
                outputs.append(self._of_block(typed.iloc[start : start + BLOCK_ROWS]))
        return np.concatenate(outputs)

    def _of_block(self, typed: pd.DataFrame) -> Floats:
        """Blocks have one shape: the last bits of a matrix product depend on it, and not on a row's place in the block.

        The last row fills a block that is short.
        """
        filled = typed.iloc[np.minimum(np.arange(BLOCK_ROWS), len(typed) - 1)]
        answers = np.asarray(getattr(self.estimator, self.method)(self.preparation.transform(filled)), np.float64)
        if self.method == "predict_proba":
            answers = _logits(answers, self.shares)
        return answers.reshape(BLOCK_ROWS, -1)[: len(typed)]

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The values that were learnt, by category column."""
        return vocabulary(self.preparation.categories)


def _logits(probabilities: Floats, shares: tuple[float, ...]) -> Floats:
    """(rows, 1) logits of the second of two classes, or (rows, classes) logarithms of the probabilities of more.

    They are finite and keep the order of the probabilities.
    """
    part = OF_SHARES if len(shares) == 2 else OF_SHARES_OF_MANY
    logarithms: Floats = np.log(probabilities + part * np.array(shares))
    return logarithms[:, 1:] - logarithms[:, :1] if len(shares) == 2 else logarithms


def save(
    folder: Path,
    preparation: Preparation,
    estimator: bytes,
    *,
    method: Method,
    shares: tuple[float, ...],
    trusted: tuple[str, ...],
) -> None:
    """Writes estimator.json and estimator.skops. `trusted` are the types that were trusted by name besides TRUSTED."""
    contents = {**asdict(preparation), "method": method, "shares": shares, "trusted": trusted}
    (folder / DESCRIPTION).write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")
    (folder / ESTIMATOR).write_bytes(estimator)


def load(folder: Path, threads: int) -> ServedEstimator:
    """The estimator that `save` wrote into the folder."""
    contents = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    preparation = Preparation(
        rows=contents["rows"],
        numbers=tuple(NumberFeature(**fields) for fields in contents["numbers"]),
        categories=tuple(CategoryFeature(**with_tuples(fields)) for fields in contents["categories"]),
    )
    estimator = skops.io.load(folder / ESTIMATOR, trusted=[*TRUSTED, *contents["trusted"]])
    method, shares = contents["method"], tuple(contents["shares"])
    return ServedEstimator(preparation=preparation, estimator=estimator, method=method, shares=shares, threads=threads)
