"""Whether a column of the newest days is spread as on no day of the weeks before: then its source has changed.

A day is compared with the days of the weeks before it, alone and together with the two and the six days before it. What
counts is by which share of its rows it leaves the range in which all these days (or means of three or seven days) lay:
of a number for the values between any two bounds, of a category for all its values together. The limit of this share
follows from the largest one by which any of these days left the range of the days before it. A column that follows the
clock leaves the range every day, all of it, so that no share is over its limit.

The limits were set on the flights alone (`benchmarks/source_unchanged.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.data.day_counts import BinCounts, Kind, start_of

Shares = NDArray[np.float64]

DAYS_BEFORE = 91  # how many of the days before it a day is compared with: 13 of each weekday
FEWEST_BEFORE = 28  # a day is compared if there are as many days before it, and judged if as many were compared
FEWEST_ROWS = 10  # a day with fewer rows is neither judged nor compared with
SETTLED = 28  # after so many days in one go, what has changed is what is usual
SPANS = (1, 3, 7)  # how many days are compared together
LEVELS = np.array([1 / 128, 1 / 32, *np.arange(1, 12) / 12, 31 / 32, 127 / 128])  # the quantiles that are bounds
SLACK = 0.25  # how far a bound, and then a share, may lie outside, of how far apart it lay on nine in ten days
MARGIN = 0.2  # how much a change must leave the range by, of what no day before left it by
NOISE = 0.5  # what a day with few rows leaves by chance, in shares times the root of its rows


@dataclass(frozen=True, kw_only=True)
class Change:
    """A column that left the range of the weeks before, on `days`.

    `share`: the largest share of a day's rows that left it. `usual`: the largest such share of the weeks before.
    `before` and `after` are its median, or of a share the mean, on the days before and on these days; None of a
    category.
    """

    column: str
    kind: Kind
    days: tuple[str, ...]
    share: float
    usual: float
    before: float | None
    after: float | None

    @property
    def first_day(self) -> str:
        return self.days[0]


@dataclass(frozen=True)
class Groups:
    """(days, groups) the share of each day's rows in each group of values, whose range is compared.

    Of a number a group is all values between two bounds, of anything else it is one value. A bound is not the same on
    all days: `wide` and `narrow` are the shares if it lies as far outside, or inside, as is usual between days.
    """

    exact: Shares
    wide: Shares
    narrow: Shares


def changes_of(kind: Kind, column: str, days: Mapping[str, BinCounts], newest: str) -> list[Change]:
    """Every change of a column, the oldest first.

    `days`: its counts on each day, in order. Days before `newest` decide the bounds of a number.
    """
    judged = {day: counts for day, counts in days.items() if sum(counts.values()) >= FEWEST_ROWS}
    if len(judged) <= FEWEST_BEFORE:
        return []
    known = max(2 * FEWEST_BEFORE, sum(day < newest for day in judged))
    history = _History(kind, list(judged.values()), known)
    names, runs = list(judged), _runs(history, [sum(counts.values()) for counts in judged.values()])
    return [_change(kind, column, judged, {names[position]: moved for position, moved in run.items()}) for run in runs]


def _runs(history: "_History", rows: Sequence[int]) -> list[dict[int, "Moved"]]:
    """The days that moved, by their position, in runs of days without one between them that did not."""
    runs: list[dict[int, Moved]] = [{}]
    for position in range(len(rows)):
        excesses = {span: history.excess(span, position) for span in SPANS}
        moved = history.moved(excesses, rows[position])
        if moved is None:
            runs.append({})
            history.add(position, excesses)
        else:
            runs[-1][position] = moved
            if len(runs[-1]) == SETTLED:
                for settled in runs[-1]:
                    history.add(settled, {})
    return [run for run in runs if run]


Moved = tuple[float, float]  # by which share of the rows a day left the range, and the usual share


class _History:
    """The days of a column, alone and as means of several days, and with which of them later days are compared."""

    def __init__(self, kind: Kind, days: Sequence[BinCounts], known: int) -> None:
        bins = np.array(sorted({number for counts in days for number in counts}), np.int64)
        shares = np.array([_shares(bins, counts) for counts in days])
        self.is_number = kind == "number"
        self.groups = {span: _groups(bins, _means(shares, span), known, is_number=self.is_number) for span in SPANS}
        self.usable = np.zeros(len(days), bool)  # whether later days are compared with it
        self.left: dict[int, list[float]] = {span: [] for span in SPANS}

    def excess(self, span: int, position: int) -> float | None:
        """By which share of the rows the mean of the days up to this one leaves the range; None if too few days are
        compared."""
        before = self._before(span, position)
        if len(before) < FEWEST_BEFORE:
            return None
        groups = self.groups[span]
        over = groups.exact[position] - groups.wide[before].max(axis=0)
        under = groups.narrow[before].min(axis=0) - groups.exact[position]
        return _most(over, under) if self.is_number else float(np.clip(over, 0, None).sum())

    def _before(self, span: int, position: int) -> NDArray[np.int64]:
        """The newest days before, of whose means every day is usable and none is in the mean up to this day."""
        usable = np.flatnonzero(self.usable[: max(0, position + 1 - span)])
        ends, starts = usable[span - 1 :], usable[: max(0, len(usable) + 1 - span)]
        return ends[ends - starts == span - 1][-DAYS_BEFORE:]

    def moved(self, excesses: Mapping[int, float | None], rows: int) -> Moved | None:
        """By which share the day, or the days up to it, left the range, and the usual share; None if under the
        limit."""
        for span, excess in excesses.items():
            left = self.left[span][-DAYS_BEFORE:]
            if excess is not None and len(left) >= FEWEST_BEFORE and excess > limit_of(max(left), rows * span):
                return excess, max(left)
        return None

    def add(self, position: int, excesses: Mapping[int, float | None]) -> None:
        """From now on, later days are compared with this one too."""
        self.usable[position] = True
        for span, excess in excesses.items():
            if excess is not None:
                self.left[span].append(excess)


def _means(shares: Shares, span: int) -> Shares:
    """(days, bins): the mean of each day and the `span` - 1 days before it; of the first days, of fewer."""
    sums = np.cumsum(np.vstack([np.zeros(shares.shape[1]), shares]), axis=0)
    ends = np.arange(1, len(shares) + 1)
    starts = np.maximum(0, ends - span)
    means: Shares = (sums[ends] - sums[starts]) / (ends - starts)[:, None]
    return means


def _most(over: Shares, under: Shares) -> float:
    return float(max(over.max(initial=0.0), under.max(initial=0.0)))


def limit_of(usual: float, rows: int) -> float:
    """The share of its rows that a day must leave the range by, to have changed."""
    return usual + MARGIN * (1 - usual) + NOISE / max(1, rows) ** 0.5


def _groups(bins: NDArray[np.int64], shares: Shares, known: int, *, is_number: bool) -> Groups:
    """The shares of the days in every group. The first `known` days decide what is usual between days."""
    groups = _between_bounds(bins, shares, known) if is_number else Groups(shares, shares, shares)
    slack = SLACK * _nine_in_ten(groups.exact[:known])
    return Groups(groups.exact, groups.wide + slack, groups.narrow - slack)


def _shares(bins: NDArray[np.int64], counts: BinCounts) -> Shares:
    rows = np.zeros(len(bins))
    rows[np.searchsorted(bins, np.fromiter(counts.keys(), np.int64, len(counts)))] = list(counts.values())
    return rows / max(1.0, rows.sum())


def _between_bounds(bins: NDArray[np.int64], shares: Shares, known: int) -> Groups:
    """The shares between any two bounds, from those in each bin."""
    values = np.array([start_of(number) for number in bins.tolist()])
    up_to = np.cumsum(shares, axis=1)
    bounds = values[np.searchsorted(up_to[:known].mean(axis=0), LEVELS - 1e-9)]
    slack = SLACK * _nine_in_ten(_quantiles(values, up_to[:known]))
    exact, below, above = (_at(values, up_to, bounds + shift) for shift in (0, -slack, slack))
    first, last = np.triu_indices(exact.shape[1], 1)
    return Groups(
        exact=exact[:, last] - exact[:, first],
        wide=above[:, last] - below[:, first],
        narrow=below[:, last] - above[:, first],
    )


def _at(values: Shares, up_to: Shares, bounds: Shares) -> Shares:
    """(days, bounds and both ends): the share of each day's rows up to each bound."""
    whole = np.column_stack([np.zeros(len(up_to)), up_to])
    return np.column_stack([whole[:, :1], whole[:, np.searchsorted(values, bounds, side="right")], whole[:, -1:]])


def _quantiles(values: Shares, up_to: Shares) -> Shares:
    """(days, levels): the quantiles of each day."""
    return np.column_stack([values[(up_to >= level - 1e-9).argmax(axis=1)] for level in LEVELS])


def _nine_in_ten(days: Shares) -> Shares:
    """How far apart nine in ten days lie."""
    low, high = np.quantile(days, (0.05, 0.95), axis=0)
    apart: Shares = high - low
    return apart


def _change(kind: Kind, column: str, days: Mapping[str, BinCounts], run: Mapping[str, Moved]) -> Change:
    share, usual = max(run.values())
    before = [counts for day, counts in days.items() if day < min(run)][-DAYS_BEFORE:]
    after = [days[day] for day in run]
    return Change(
        column=column, kind=kind, days=tuple(run), share=share, usual=usual,
        before=middle_of(kind, before), after=middle_of(kind, after),
    )  # fmt: skip


def middle_of(kind: Kind, days: Sequence[BinCounts]) -> float | None:
    """The median of a number over these days, or the mean of a share; None of a category, or without a row."""
    pooled: dict[int, int] = {}
    for counts in days:
        for number, rows in counts.items():
            pooled[number] = pooled.get(number, 0) + rows
    total = sum(pooled.values())
    if kind == "category" or not total:
        return None
    if kind != "number":
        return pooled.get(1, 0) / total
    up_to = np.cumsum([pooled[number] for number in sorted(pooled)])
    return start_of(sorted(pooled)[int(np.searchsorted(up_to, total / 2))])
