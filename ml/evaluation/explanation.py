"""Which columns a model's answers rest on: permutation importance on test rows (Breiman 2001; Fisher et al. 2019).

A column's values are shuffled among rows, so that they say nothing of their row any more, and the model answers again.
By how much its score falls is the importance of the column. The columns are those that the model is given, after
derive and joins. Two that stand for each other hide each other, so they are named, and are also shuffled together.
What is random is seeded from the test digest, and the number of rows follows from a fixed table, never from the clock.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaning import LABEL
from ml.data.split import units_of
from ml.evaluation.handles import Interval
from ml.metrics.intervals import Estimate, Pair, make_pair, unit_numbers
from ml.metrics.scores import Answers, Floats, loss_of
from ml.models.recipe import Recipe
from ml.serving.columns import Column
from ml.storage.records import Handle

# How many answers a model of each kind is asked for, so that the stage costs about 10 CPU seconds on two dozen columns.
ANSWERS = {"trees": 240_000, "network": 240_000, "embedded": 60_000}
ANSWERS_OF_OTHERS = 24_000  # of kinds that may be slow, like a forest, neighbours or an ensemble
MOST_COLUMNS = 100  # of a wider table those are measured that go most with the model's answers
LEAST_ROWS, SHUFFLES, MOST_SHUFFLES = 200, 3, 10
MOST_CELLS = 20_000_000  # of the sums from which the scores of one column follow
ALIKE = 0.9  # the rank correlation of two numbers, or the share of one category's errors that the other one saves
ALIKE_ROWS, ALIKE_VALUES, BINS = 2_000, 500, 10
AnswersOf = Callable[[pd.DataFrame], Answers]
Ints = NDArray[np.int_]


@dataclass(frozen=True, kw_only=True)
class Importance:
    """What shuffling these columns in the same way costs the model, by metric.

    It is how much of a score is lost. Of a loss it is by which fraction of the model's own the loss rises.
    """

    columns: tuple[str, ...]
    costs: dict[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Explanation(Handle):
    """The importance of columns, the largest first, then that of columns that stand for each other.

    It was measured on `rows` of the `test_rows`, each shuffled so many times; `unit` is what intervals count.
    `unmeasured` columns of a wide table were left out. If there is a `reason`, nothing could be measured.
    """

    metrics: tuple[str, ...] = ()
    importances: tuple[Importance, ...] = ()
    rows: int = 0
    test_rows: int = 0
    shuffles: int = 0
    unit: str = ""
    units: int = 0
    unmeasured: int = 0
    reason: str | None = None

    @property
    def singles(self) -> tuple[Importance, ...]:
        """The importance of each column alone, the largest first."""
        return tuple(one for one in self.importances if len(one.columns) == 1)

    @property
    def groups(self) -> tuple[Importance, ...]:
        """The importance of columns that stand for each other, shuffled together."""
        return tuple(one for one in self.importances if len(one.columns) > 1)


def explain(use_case: Recipe, answers_of: AnswersOf, test: pd.DataFrame, kind: str, digest: str) -> Explanation:
    """The importance of every column that a model of this kind is given; `digest` is that of the test rows.

    `answers_of` must answer all rows, also those that break a rule once they are shuffled.
    """
    generator = np.random.default_rng(int(digest[:16], 16))
    names = [column.name for column in use_case.features]
    size = sizes(kind, min(len(names), MOST_COLUMNS), len(test), len(use_case.target.classes))
    rows = test.iloc[np.sort(generator.permutation(len(test))[: size.rows])].reset_index(drop=True)
    own = answers_of(rows)
    measured = nearest_to_answers(use_case.features, rows, own)[:MOST_COLUMNS]
    orders = [generator.permutation(len(rows)) for _ in range(size.shuffles)]
    shuffling = Shuffling(use_case, rows, own, orders)
    singles = [shuffling.importance(answers_of, (name,)) for name in measured]
    alike = alike_columns([column for column in use_case.features if column.name in measured], rows)
    first = shuffling.metrics[0]
    ranked = sorted(singles, key=lambda one: (-(one.costs[first].value or 0.0), names.index(one.columns[0])))
    return Explanation(
        metrics=shuffling.metrics,
        importances=(*ranked, *(shuffling.importance(answers_of, group) for group in alike)),
        rows=len(rows),
        test_rows=len(test),
        shuffles=size.shuffles,
        unit=shuffling.unit,
        units=len(np.unique(shuffling.units)),
        unmeasured=len(names) - len(measured),
    )


@dataclass(frozen=True)
class Size:
    """How many rows are shuffled, and how many times."""

    rows: int
    shuffles: int


def sizes(kind: str, columns: int, rows: int, classes: int) -> Size:
    """Fewer rows where the columns or the classes are many, and more shuffles where the rows are few."""
    answers = ANSWERS.get(kind, ANSWERS_OF_OTHERS) // max(columns, 1)
    answers = max(min(answers, MOST_CELLS // max(classes, 1) ** 3), LEAST_ROWS * SHUFFLES)
    used = min(rows, answers // SHUFFLES)
    return Size(used, min(max(answers // max(used, 1), SHUFFLES), MOST_SHUFFLES))


class Shuffling:
    """Rows, a model's own answers to them, and the orders in which values are shuffled: the same for every column."""

    def __init__(self, use_case: Recipe, rows: pd.DataFrame, own: Answers, orders: Sequence[Ints]) -> None:
        self.target, self.dated, times = use_case.target, use_case.dated, len(orders)
        self.rows = pd.concat([rows] * times, ignore_index=True)
        self.order = np.concatenate(orders)
        self.own = Answers(np.tile(own.chosen, times), _tiled(own.probability, times))
        of_rows, self.unit = units_of(use_case, rows)
        numbers = unit_numbers(of_rows, len(rows), in_order=self.dated)
        self.units = np.tile(numbers, times)
        self.metrics = tuple(dict.fromkeys((use_case.metric, loss_of(self.target.kind))))

    def importance(self, answers_of: AnswersOf, columns: tuple[str, ...]) -> Importance:
        """What it costs that these columns, in the same order, say nothing any more."""
        shuffled = {name: self.rows[name].take(self.order).set_axis(self.rows.index) for name in columns}
        y = self.rows[LABEL].to_numpy(np.float64)
        pair = make_pair(
            self.target.kind, len(self.target.classes), y, answers_of(self.rows.assign(**shuffled)), self.own,
            self.units.astype(object), self.metrics, in_order=self.dated,
        )  # fmt: skip
        return Importance(columns=columns, costs={name: _cost(pair, name) for name in self.metrics})


def _tiled(probability: Floats | None, times: int) -> Floats | None:
    return None if probability is None else np.tile(probability, (times, 1))


def _cost(pair: Pair, name: str) -> Interval:
    """By how much the model with shuffled values, the pair's candidate, is worse than the model itself."""
    better = Estimate.of(pair, name, "candidate", "other")
    if not np.isfinite(better.value):
        return Interval(value=None, reason="the score is undefined on these rows")
    if not np.isfinite(better.low):
        return Interval(value=-better.value, reason="too few units for an interval")
    return Interval(value=-better.value, low=-better.high, high=-better.low)


# Columns that stand for each other


def alike_columns(features: Sequence[Column], rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """Groups of columns that stand for each other, in their declared order; a column is in one group at most."""
    if len(rows) < 2:
        return []
    some = rows.iloc[:: -(-len(rows) // ALIKE_ROWS)]
    group = {column.name: column.name for column in features}
    for one, other in _alike_pairs(features, some):
        into, gone = group[one], group[other]
        group = {name: into if first == gone else first for name, first in group.items()}
    groups = {first: tuple(name for name in group if group[name] == first) for first in group.values()}
    return [names for names in groups.values() if len(names) > 1]


def _alike_pairs(features: Sequence[Column], rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    numbers = [column.name for column in features if not column.is_category]
    correlation = rows[numbers].rank(na_option="top").astype(np.float64).corr()  # NaN for a constant column
    for one, other in combinations(numbers, 2):
        if abs(correlation.loc[one, other]) >= ALIKE:
            yield one, other
    codes = {column.name: pd.factorize(rows[column.name], use_na_sentinel=False)[0] for column in features}
    few = [column for column in features if 1 < codes[column.name].max() + 1 <= ALIKE_VALUES]
    for one_of, other_of in combinations(few, 2):
        pair = codes[one_of.name], codes[other_of.name]
        if (one_of.is_category or other_of.is_category) and min(_saved(*pair), _saved(*pair[::-1])) >= ALIKE:
            yield one_of.name, other_of.name


def _saved(known: Ints, guessed: Ints) -> float:
    """The share of errors in guessing the second that the first saves: Goodman and Kruskal's lambda (1954).

    Where a value of the first occurs once, it would tell anything, so that row counts as an error.
    """
    cells = np.bincount(known * (guessed.max() + 1) + guessed, minlength=(known.max() + 1) * (guessed.max() + 1))
    by_known = cells.reshape(known.max() + 1, -1)
    told = by_known.max(axis=1)[by_known.sum(axis=1) > 1].sum()
    most = int(np.bincount(guessed).max())
    return float((told - most) / (len(guessed) - most)) if most < len(guessed) else 0.0


# Wide tables


def nearest_to_answers(features: Sequence[Column], rows: pd.DataFrame, own: Answers) -> list[str]:
    """The names of the columns, in their order; of a wide table those come first that go most with the answers."""
    names = [column.name for column in features]
    if len(names) <= MOST_COLUMNS:
        return names
    answers = own.chosen[:, None] if own.probability is None else own.probability
    near = {column.name: _explained(column, rows[column.name], answers) for column in features}
    return sorted(names, key=lambda name: -near[name])


def _explained(column: Column, values: pd.Series, answers: Floats) -> float:
    """The share of the answers' variance between the column's values, less what chance would give (adjusted R2)."""
    bins: Any = values if column.is_category else (values.rank(pct=True) * BINS).round()
    groups = pd.factorize(bins, use_na_sentinel=False)[0]
    count = int(groups.max()) + 1
    total = ((answers - answers.mean(axis=0)) ** 2).sum(axis=0)
    if count >= len(answers) or not total.any():
        return 0.0
    means = pd.DataFrame(answers).groupby(groups).transform("mean").to_numpy()
    inside = ((answers - means) ** 2).sum(axis=0)[total > 0] / total[total > 0]
    return float((1 - inside * (len(answers) - 1) / (len(answers) - count)).max())
