"""The encoder of a table's rows: its constants come from the exact statistics of the train rows."""

from ml.data.dataset import Dataset, Limits
from ml.data.statistics import Counts, Moments, Statistics, categories, category_key, numbers
from ml.serving.columns import Column
from ml.serving.features import CategoryFeature, Encoder, NumberFeature


def fit_encoder(table: Dataset, train: Statistics) -> Encoder:
    """The encoder, whose constants for every feature come from the statistics of train rows."""
    return Encoder(
        tuple(_number_feature(table, column, train.moments[column.name]) for column in numbers(table)),
        fit_categories(table, train),
    )


def fit_categories(table: Dataset, train: Statistics) -> tuple[CategoryFeature, ...]:
    """The category features, each with the values that are not rare in train rows."""
    return tuple(
        CategoryFeature(
            column=column.name, part=part, values=_common(train.texts[category_key(column, part)], table.rare_below)
        )
        for column, part in categories(table)
    )


def _number_feature(limits: Limits, column: Column, moments: Moments) -> NumberFeature:
    return NumberFeature(
        column=column.name, mean=moments.mean, std=moments.std, clip=limits.outlier_std, indicator=column.nullable
    )


def _common(counts: Counts, rare_below: int) -> tuple[str, ...]:
    """The values that are not rare, sorted."""
    return tuple(sorted(text for text, count in counts.items() if count >= rare_below))
