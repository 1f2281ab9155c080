"""What embeddings start from: scales and knots of numbers from the train rows, and categories that are not rare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd

from ml.data.statistics import categories, numbers
from ml.models.encoding import fit_categories
from ml.models.protocol import Floats, Job, Rows

if TYPE_CHECKING:
    from ml.serving.features import CategoryFeature
    from ml.serving.kinds.embedded import Codes, Features, Located, NumberFeature, TargetScale

Scaling: TypeAlias = Literal["standard", "robust", "quantile"]
SCORES = 256  # quantiles by which numbers or targets get a normal distribution
QUARTILES = 1.349  # between the quartiles of a normal distribution, in standard deviations


def embedding_width(values: int) -> int:
    """How wide the vector of a category with so many values is (fastai's rule, at most 16)."""
    return min(16, int(np.ceil(1.6 * values**0.56)))


@dataclass(frozen=True)
class Columns:
    """Where numbers and categories come from. Parts of a time are numbers if they are `cyclic`: their sine and cosine.

    Categories stand in the order of the widths of their vectors, so that those of one width share a table.
    """

    numbers: tuple[tuple[str, str], ...]
    categories: tuple[CategoryFeature, ...]

    @classmethod
    def of(cls, job: Job, *, cyclic: bool) -> Columns:
        """The columns of the job's table, with the categories that are not rare in its train rows."""
        waves = [
            (column.name, f"{part} {wave}")
            for column, part in categories(job.table)
            if part is not None and cyclic
            for wave in ("sin", "cos")
        ]
        plain = [(column.name, "") for column in numbers(job.table)]
        kept = [f for f in fit_categories(job.table, job.statistics) if f.part is None or not cyclic]
        return cls((*plain, *waves), tuple(sorted(kept, key=lambda feature: embedding_width(feature.size))))

    def read(self, frame: pd.DataFrame) -> tuple[Floats, Codes]:
        """(rows, numbers) as they are, and (rows, categories) codes."""
        from ml.serving.kinds.embedded import read_number, stack

        read = [read_number(frame, column, part) for column, part in self.numbers]
        codes = [category.transform(frame) for category in self.categories]
        return stack(read, len(frame)), stack(codes, len(frame)).astype(np.int32)


@dataclass(frozen=True)
class Learnable:
    """Rows that a network learns from or is judged by: located features, what is to be learnt (rows,) and the weight of
    each row (rows,), if it has one. `scaled` are the numbers (rows, numbers) before they were located."""

    located: Located
    scaled: Floats
    labels: Floats
    weights: Floats | None


def read_all(job: Job, rows: Rows, columns: Columns) -> tuple[Floats, Codes, Floats, Floats | None]:
    """All rows: numbers, codes, labels and weights."""
    parts, labels, weights = job.read(rows, columns.read)
    read, codes = (np.concatenate(of_frames) for of_frames in zip(*parts, strict=True))
    return read, codes, labels, weights


def fit_features(columns: Columns, read: Floats, *, scaling: Scaling, bins: int, clip: float) -> Features:
    """The features: scales and knots are those of the numbers (rows, numbers) of train rows."""
    from ml.serving.kinds.embedded import Features

    found = [
        _fit_number(*name, values, scaling, bins, clip) for name, values in zip(columns.numbers, read.T, strict=True)
    ]
    return Features(numbers=tuple(found), categories=columns.categories)


def scaled_numbers(features: Features, read: Floats) -> Floats:
    """(rows, numbers) scaled, and 0 where one is missing."""
    from ml.serving.kinds.embedded import stack

    columns = [feature.scaled(values) for feature, values in zip(features.numbers, read.T, strict=True)]
    return np.nan_to_num(stack(columns, len(read)))


def _fit_number(column: str, part: str, values: Floats, scaling: Scaling, bins: int, clip: float) -> NumberFeature:
    from ml.serving.kinds.embedded import NumberFeature

    present = values[np.isfinite(values)]
    quantiles, scores = normal_scores(present) if scaling == "quantile" and not part else ((), ())
    center, scale = (0.0, 1.0) if quantiles or part else _center_and_scale(present, scaling)
    feature = NumberFeature(
        column=column,
        part=part,
        quantiles=quantiles,
        scores=scores,
        center=center,
        scale=scale,
        clip=clip,
        knots=(-clip, clip),
        missing=bool(np.isnan(values).any()),
    )
    shares = np.linspace(0, 1, bins + 1)
    inner = np.quantile(feature.scaled(present), shares) if len(present) else present
    return replace(feature, knots=tuple(np.union1d(inner, feature.knots).tolist()))


def _center_and_scale(present: Floats, scaling: Scaling) -> tuple[float, float]:
    """Mean and standard deviation; or, if `robust`, the median and the distance of the quartiles, if that is not 0."""
    if not len(present):
        return 0.0, 1.0
    mean, std = float(present.mean()), float(present.std())
    if not std > 1e-12 * abs(mean):  # what rounding leaves of equal values
        return mean, 1.0
    if scaling == "robust":
        low, middle, high = np.quantile(present, (0.25, 0.5, 0.75))
        return float(middle), float(high - low) / QUARTILES or std
    return mean, std


def normal_scores(values: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Quantiles of the values, and the normal distribution's at the same shares; equal quantiles get their mean share.
    Nothing for no values."""
    if not len(values):
        return (), ()
    shares = np.linspace(0, 1, min(SCORES, len(values)) + 1)
    quantiles, places = np.unique(np.quantile(values, shares), return_inverse=True)
    mean_shares = np.bincount(places, shares) / np.bincount(places)
    edge = 1 / (2 * len(shares))
    scores = map(NormalDist().inv_cdf, np.clip(mean_shares, edge, 1 - edge).tolist())
    return tuple(quantiles.tolist()), tuple(scores)


def fit_target(labels: Floats, scaling: Literal["standard", "quantile"]) -> TargetScale:
    """How a regression's labels are scaled: by mean and standard deviation, or to a normal distribution."""
    from ml.serving.kinds.embedded import TargetScale

    if scaling == "quantile":
        values, scores = normal_scores(labels)
        return TargetScale(values=values, scores=scores)
    center, scale = _center_and_scale(labels, "standard")
    return TargetScale(center=center, scale=scale)
