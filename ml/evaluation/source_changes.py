"""Whether a column of the newest days is spread as on no day of the weeks before: then its source has changed.

A day is compared with the days of the weeks before it, alone and together with the two and the six days before it. What
counts is by which share of its rows it leaves the range in which all these days (or means of three or seven days) lay:
of a number for the values between any two bounds, of a category for all its values together. The limit of this share
follows from the largest one by which any of these days left the range of the days before it. Where that was more than
half of the rows, the column follows the clock, and only a jump far beyond what is usual between days is a change.

The limits were set on the flights alone (`benchmarks/source_unchanged.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ml.data.day_counts import BinCounts, DayCounts, Kind, start_of
from ml.evaluation.source_evidence import DayLoss

Shares = NDArray[np.float64]
N = TypeVar("N", float, Shares)

DAYS_BEFORE = 91  # how many of the days before it a day is compared with: 13 of each weekday
FEWEST_BEFORE = 28  # a day is compared if there are as many days before it, and judged if as many were compared
FEWEST_ROWS = 10  # a day with fewer rows is neither judged nor compared with
SETTLED = 28  # after so many days in one go, what has changed is what is usual
LEVELS = np.array([1 / 128, 1 / 32, *np.arange(1, 12) / 12, 31 / 32, 127 / 128])  # the quantiles that are bounds
SLACK = 0.25  # how far a bound, and then a share, may lie outside, of how far apart it lay on nine in ten days
FAR = 2.0  # how far outside of all bounds a value is far outside, of how far apart the outermost lay
ENDS = [0, -1]  # the outermost bounds
CLOCK = 0.5  # a column of which so much left the range before follows the clock, and is not judged
MARGIN = 0.2  # how much a change must leave the range by, of what no day before left it by
REDELIVERED = 0.2  # the share of its rows that may be in another bin after a day was delivered again
LOSS_SLACK = 0.5  # how far a day's loss may lie outside, of how far apart it lay on nine in ten days
LOSS_NOISE = 2.0  # what chance does to the logarithm of a loss, times the root of a day's rows
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


class View(NamedTuple):
    """One way to compare: how many days together, and whether only values far outside of all bounds are looked at."""

    days: int
    far: bool = False


# The last one finds what jumps far in a column whose days differ so much that the others do not judge it.
VIEWS = (View(1), View(3), View(7), View(1, far=True))


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
    rows = [sum(counts.values()) for counts in judged.values()]
    if history.is_unmoved(rows):
        return []
    names, runs = list(judged), _runs(history, rows)
    return [_change(kind, column, judged, {names[position]: moved for position, moved in run.items()}) for run in runs]


def _runs(history: "_History", rows: Sequence[int]) -> list[dict[int, "Moved"]]:
    """The days that moved, by their position, in runs of days without one between them that did not."""
    runs: list[dict[int, Moved]] = [{}]
    for position in range(len(rows)):
        excesses = {view: history.excess(view, position) for view in VIEWS}
        moved = history.moved(position, excesses, rows[position])
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
    """The days of a column in every view, and with which of them later days are compared."""

    def __init__(self, kind: Kind, days: Sequence[BinCounts], known: int) -> None:
        bins = np.array(sorted({number for counts in days for number in counts}), np.int64)
        shares = np.array([_shares(bins, counts) for counts in days])
        self.is_number = kind == "number"
        self.groups = {view: self._groups(bins, _means(shares, view.days), known, view) for view in VIEWS}
        self.usable = np.zeros(len(days), bool)  # whether later days are compared with it
        self.alone = np.zeros(len(days), bool)  # whether it moved without the days before it
        self.left: dict[View, list[float]] = {view: [] for view in VIEWS}

    def _groups(self, bins: NDArray[np.int64], shares: Shares, known: int, view: "View") -> Groups:
        """The shares of the days in every group. The first `known` days decide what is usual between days."""
        groups = (
            _between_bounds(bins, shares, known, far=view.far) if self.is_number else Groups(shares, shares, shares)
        )
        slack = SLACK * _nine_in_ten(groups.exact[:known])
        return Groups(groups.exact, groups.wide + slack, groups.narrow - slack)

    def is_unmoved(self, rows: Sequence[int]) -> bool:
        """Whether no day moved. It is looked at in one go, as if later days were compared with every day: then they
        are, and most columns need no second look."""
        return not any(self._moves(view, np.array(rows)) for view in VIEWS)

    def _moves(self, view: "View", rows: NDArray[np.int64]) -> bool:
        excesses = self._excesses(view)
        if len(excesses) <= FEWEST_BEFORE:
            return False
        usual = _last_most(excesses)[FEWEST_BEFORE - 1 : -1]
        excess, of_rows = excesses[FEWEST_BEFORE:], rows[len(rows) - len(excesses) + FEWEST_BEFORE :]
        return bool(((excess > limit_of(usual, of_rows * view.days)) & (usual <= CLOCK)).any())

    def _excesses(self, view: "View") -> Shares:
        """The excess of every day that has one, if later days are compared with every day."""
        groups, first = self.groups[view], view.days - 1
        wide, narrow = _last_most(groups.wide[first:]), -_last_most(-groups.narrow[first:])
        before, day = slice(FEWEST_BEFORE - 1, -view.days), groups.exact[first + FEWEST_BEFORE - 1 + view.days :]
        over, under = day - wide[before], narrow[before] - day
        if self.is_number:
            return np.maximum(over.max(axis=1, initial=0.0), under.max(axis=1, initial=0.0))
        summed: Shares = np.clip(over, 0, None).sum(axis=1)
        return summed

    def excess(self, view: "View", position: int) -> float | None:
        """By which share of the rows the mean of the days up to this one leaves the range.

        None if too few days are compared, or if the mean has a day that moved alone, so that a single odd day does not
        make those behind it odd.
        """
        before = self._before(view.days, position)
        if len(before) < FEWEST_BEFORE or self.alone[max(0, position + 1 - view.days) : position].any():
            return None
        groups = self.groups[view]
        over = groups.exact[position] - groups.wide[before].max(axis=0)
        under = groups.narrow[before].min(axis=0) - groups.exact[position]
        return _most(over, under) if self.is_number else float(np.clip(over, 0, None).sum())

    def _before(self, span: int, position: int) -> NDArray[np.int64]:
        """The newest days before, of whose means every day is usable and none is in the mean up to this day."""
        usable = np.flatnonzero(self.usable[: max(0, position + 1 - span)])
        ends, starts = usable[span - 1 :], usable[: max(0, len(usable) + 1 - span)]
        return ends[ends - starts == span - 1][-DAYS_BEFORE:]

    def moved(self, position: int, excesses: Mapping["View", float | None], rows: int) -> Moved | None:
        """By which share the day, or the days up to it, left the range, and the usual share; None if under the limit,
        or if the column follows the clock."""
        for view, excess in excesses.items():
            left = self.left[view][-DAYS_BEFORE:]
            if excess is None or len(left) < FEWEST_BEFORE or max(left) > CLOCK:
                continue
            if excess > limit_of(max(left), rows * view.days):
                self.alone[position] = view.days == 1
                return excess, max(left)
        return None

    def add(self, position: int, excesses: Mapping["View", float | None]) -> None:
        """From now on, later days are compared with this one too."""
        self.usable[position] = True
        for view, excess in excesses.items():
            if excess is not None:
                self.left[view].append(excess)


def _last_most(days: Shares) -> Shares:
    """Row by row, the largest of each column among the last `DAYS_BEFORE` rows."""
    whole = np.concatenate([np.repeat(days[:1], DAYS_BEFORE - 1, axis=0), days])
    most: Shares = sliding_window_view(whole, DAYS_BEFORE, axis=0).max(axis=-1)
    return most


def _means(shares: Shares, span: int) -> Shares:
    """(days, bins): the mean of each day and the `span` - 1 days before it; of the first days, of fewer."""
    sums = np.cumsum(np.vstack([np.zeros(shares.shape[1]), shares]), axis=0)
    ends = np.arange(1, len(shares) + 1)
    starts = np.maximum(0, ends - span)
    means: Shares = (sums[ends] - sums[starts]) / (ends - starts)[:, None]
    return means


def _most(over: Shares, under: Shares) -> float:
    return float(max(over.max(initial=0.0), under.max(initial=0.0)))


def limit_of(usual: N, rows: Any) -> N:
    """The share of its rows that a day must leave the range by, to have changed."""
    limit: N = usual + MARGIN * (1 - usual) + NOISE / np.sqrt(rows)
    return limit


def _shares(bins: NDArray[np.int64], counts: BinCounts) -> Shares:
    rows = np.zeros(len(bins))
    rows[np.searchsorted(bins, np.fromiter(counts.keys(), np.int64, len(counts)))] = list(counts.values())
    return rows / max(1.0, rows.sum())


def _between_bounds(bins: NDArray[np.int64], shares: Shares, known: int, *, far: bool) -> Groups:
    """The shares between any two bounds, from those in each bin. With `far`, only two bounds are far outside."""
    values = np.array([start_of(number) for number in bins.tolist()])
    up_to = np.cumsum(shares, axis=1)
    bounds = values[np.searchsorted(up_to[:known].mean(axis=0), LEVELS - 1e-9)]
    apart = _nine_in_ten(_quantiles(values, up_to[:known]))
    if far:
        bounds, apart = bounds[ENDS] + FAR * np.array([-1, 1]) * apart[ENDS], apart[ENDS]
    exact, below, above = (_at(values, up_to, bounds + shift) for shift in (0, -SLACK * apart, SLACK * apart))
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


@dataclass(frozen=True, kw_only=True)
class LossChange:
    """The champion did otherwise on `days` than on any day of the weeks before, for the better or the worse.

    `relative`: its loss as a multiple of the constant's on the first of these days; `low` and `high`: the range of the
    weeks before.
    """

    days: tuple[str, ...]
    relative: float
    low: float
    high: float


def loss_changes(losses: Mapping[str, DayLoss], newest: str) -> list[LossChange]:
    """The new days on which the champion's loss, relative to the constant's, left the range of the weeks before.

    Like a column's, the range is wider by what is usual between days and by what chance does to a day with few rows.
    """
    before = [day for day in sorted(losses) if day < newest and losses[day].rows >= FEWEST_ROWS][-DAYS_BEFORE:]
    if len(before) < FEWEST_BEFORE:
        return []
    usual = np.log([losses[day].relative for day in before])
    slack = LOSS_SLACK * float(_nine_in_ten(usual))
    low, high = float(usual.min()) - slack, float(usual.max()) + slack
    runs: list[list[str]] = [[]]
    for day in (day for day in sorted(losses) if day >= newest and losses[day].rows >= FEWEST_ROWS):
        noise = LOSS_NOISE / losses[day].rows ** 0.5
        if low - noise <= np.log(losses[day].relative) <= high + noise:
            runs.append([])
        else:
            runs[-1].append(day)
    return [
        LossChange(
            days=tuple(run), relative=losses[run[0]].relative, low=float(np.exp(usual.min())),
            high=float(np.exp(usual.max())),
        )
        for run in runs if run
    ]  # fmt: skip


def delivered_otherwise(days: Mapping[str, tuple[DayCounts, DayCounts]]) -> list[Change]:
    """The columns that are spread otherwise on days whose bytes came anew. `days`: each with its counts before and
    after.

    A day is compared with itself, so that nothing of what differs between days hides a change.
    """
    changes = []
    for kind, column in _counted(days):
        pairs = {day: (one.counts[kind][column], other.counts[kind][column]) for day, (one, other) in days.items()}
        moved = {day: _moved_share(*pair) for day, pair in pairs.items()}
        share = sum(moved.values()) / max(1, len(moved))
        if share > REDELIVERED:
            before, after = ([pair[place] for pair in pairs.values()] for place in (0, 1))
            middles = {"before": middle_of(kind, before), "after": middle_of(kind, after)}
            changes.append(Change(column=column, kind=kind, days=tuple(moved), share=share, usual=0.0, **middles))
    return changes


def _counted(days: Mapping[str, tuple[DayCounts, DayCounts]]) -> list[tuple[Kind, str]]:
    """Every kind of counts and column that all of these days have."""
    of_each = [
        {(kind, column) for kind, columns in counts.counts.items() for column in columns}
        for pair in days.values()
        for counts in pair
    ]
    return sorted(set.intersection(*of_each)) if of_each else []


def _moved_share(one: BinCounts, other: BinCounts) -> float:
    """The share of a day's rows that are in another bin than before."""
    bins = np.array(sorted({*one, *other}), np.int64)
    return float(np.clip(_shares(bins, other) - _shares(bins, one), 0, None).sum())


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
