"""Boosted trees by LightGBM: numbers as they are, categories by their code, and the trees in LightGBM's own text."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..columns import with_tuples
from ..features import CategoryFeature, on_all_cores, vocabulary

DESCRIPTION, TREES = "trees.json", "trees.txt"


@dataclass(frozen=True, kw_only=True)
class PlainFeatures:
    """All features of a use case: numbers as they are, a missing one as NaN, and then category codes."""

    numbers: tuple[str, ...]
    categories: tuple[CategoryFeature, ...]

    def transform(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """(rows, features) float64."""
        x = np.empty((len(frame), len(self.columns)))
        for place, name in enumerate(self.numbers):
            x[:, place] = frame[name].to_numpy(np.float64)
        codes = on_all_cores(lambda feature: feature.transform(frame), self.categories, len(frame))
        for place, values in zip(self.category_places, codes, strict=True):
            x[:, place] = values
        return x

    @property
    def columns(self) -> list[str]:
        """The raw column that each feature is made of."""
        return [*self.numbers, *(category.column for category in self.categories)]

    @property
    def category_places(self) -> list[int]:
        """Where the category codes stand among the features."""
        return list(range(len(self.numbers), len(self.columns)))


@dataclass(frozen=True, kw_only=True)
class ServedTrees:
    """Fitted trees with the features that they split."""

    features: PlainFeatures
    booster: lightgbm.Booster
    threads: int

    def outputs(self, typed: pd.DataFrame) -> NDArray[np.float64]:
        """(rows, outputs): a logit of the second class, a logit of each class, or the value that was learnt."""
        width = self.booster.num_model_per_iteration()
        if not len(typed):  # which LightGBM refuses
            return np.empty((0, width))
        x = self.features.transform(typed)
        raw = self.booster.predict(x, raw_score=True, num_threads=self.threads, pred_early_stop=False, verbosity=-1)
        return np.asarray(raw, np.float64).reshape(len(x), width)

    def contributions(self, typed: pd.DataFrame, output: int = 0) -> pd.DataFrame:
        """What each raw column adds to one of the outputs of each row (Lundberg et al. 2020, TreeSHAP).

        They add up to the output less its base value. The parts of a time are added up in its column.
        """
        of_features = self._of_features(self.features.transform(typed))[:, output, :-1]
        parts = pd.DataFrame(of_features.T, index=self.features.columns, columns=typed.index)
        return parts.groupby(level=0, sort=False).sum().T

    @property
    def base_values(self) -> NDArray[np.float64]:
        """(outputs,) each output's mean over the train rows, to which contributions are added."""
        return self._of_features(np.zeros((1, len(self.features.columns))))[0, :, -1]

    def _of_features(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rows, outputs, features + 1) the contributions of each feature, and the base value behind them."""
        width = self.booster.num_model_per_iteration()
        if not len(x):
            return np.empty((0, width, x.shape[1] + 1))
        told = self.booster.predict(x, pred_contrib=True, num_threads=self.threads, verbosity=-1)
        return np.asarray(told, np.float64).reshape(len(x), width, x.shape[1] + 1)

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The values that were learnt, by category column."""
        return vocabulary(self.features.categories)


def save(folder: Path, features: PlainFeatures, trees: str) -> None:
    """Writes trees.json and trees.txt, which is the text that LightGBM made of the trees."""
    (folder / DESCRIPTION).write_text(json.dumps(asdict(features), indent=1, allow_nan=False), encoding="utf-8")
    (folder / TREES).write_text(trees, encoding="utf-8")


def load(folder: Path, threads: int) -> ServedTrees:
    """The trees that `save` wrote into the folder."""
    contents = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    features = PlainFeatures(
        numbers=tuple(contents["numbers"]),
        categories=tuple(CategoryFeature(**with_tuples(fields)) for fields in contents["categories"]),
    )
    booster = lightgbm.Booster(model_str=(folder / TREES).read_text(encoding="utf-8"))
    return ServedTrees(features=features, booster=booster, threads=threads)
