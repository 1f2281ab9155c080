"""All rows of a use case's source at once: cleaned as a night cleans them, in the order of their days.

The rows of a source are kept in memory as one matrix, so that the rows of any part of a split are a slice of it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaned import CleanedReader
from ml.data.cleaning import LABEL
from ml.data.sources.bringing import partition_files
from ml.data.sources.folder import ALL
from ml.data.statistics import Statistics
from ml.data.validation import snapshot_rules
from ml.data.window import last_due_day, newest_day
from ml.digests import digest_value
from ml.errors import UsageError
from ml.models.trees import fit_features
from ml.pipeline.clean import clean_partitions
from ml.pipeline.machine import this_machine
from ml.pipeline.opening import take_snapshot
from ml.pipeline.site import Site
from ml.pipeline.validate import validate_partitions
from ml.storage.records import Night
from ml.use_case.definition import UseCase
from ml.use_case.demo import write_demo_data

Floats = NDArray[np.float64]
WHOLE_SOURCE = 36_500  # days: the longest window that a use case may have


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """The labelled rows of all days of a source, in the order of the days.

    `x` (rows, features) has what trees learn from, float32. `y` and `weights` (rows,) are float64; there are no weights
    if the use case names no column of weights. `starts` (days + 1,) says at which row each of the `days` begins.
    `known_at` (rows,) has when each row became known, where a column says so. `day_digests` tell which rows each day
    has. `due` are the days that `test_days` and `validation_days` count; None if these count every day.
    """

    use_case: UseCase
    days: tuple[str, ...]
    starts: tuple[int, ...]
    x: NDArray[np.float32]
    y: Floats
    weights: Floats | None
    known_at: NDArray[np.datetime64] | None
    numbers: tuple[str, ...]
    category_places: tuple[int, ...]
    day_digests: tuple[str, ...]
    due: tuple[str, ...] | None

    def between(self, first: str, last: str) -> slice:
        """The rows from the day `first` to the day `last`."""
        return slice(self.starts[bisect_left(self.days, first)], self.starts[bisect_right(self.days, last)])

    def days_between(self, first: str, last: str) -> Sequence[str]:
        """The days with rows from `first` to `last`."""
        return self.days[bisect_left(self.days, first) : bisect_right(self.days, last)]

    @cached_property
    def day_numbers(self) -> NDArray[np.int_]:
        """(rows,) the place of each row's day among the days."""
        return np.repeat(np.arange(len(self.days)), np.diff(self.starts))

    @cached_property
    def day_names(self) -> NDArray[np.object_]:
        """(rows,) each row's day."""
        return np.array(self.days, dtype=object)[self.day_numbers]

    def digest(self, first: str, last: str) -> str:
        """A digest of the rows from `first` to `last`."""
        return digest_value(self.day_digests[bisect_left(self.days, first) : bisect_right(self.days, last)])


def read_source(site: Site) -> SourceRows:
    """Takes a snapshot of the whole source, and validates and cleans it as a night does.

    Days that a night would leave out are left out. Raises UsageError for a use case without time, DataRejected if the
    newest day cannot be used.
    """
    if not site.use_case.dated:
        raise UsageError(
            "a use case that is simulated has a time column, since it is trained again for each night",
            f"{site.use_case.name} has none",
            "simulate one that has",
        )
    write_demo_data(site.settings, site.use_case)
    whole = _with_whole_source(site)
    night = _last_night(whole)
    snapshot = take_snapshot(whole, night)
    cleaned = clean_partitions(whole, snapshot, validate_partitions(whole, night, snapshot))
    return source_rows(site.use_case, whole.reader(cleaned), night.as_of)


def _with_whole_source(site: Site) -> Site:
    """The site with a window that holds every day of its source, of which any number may be left out."""
    rules = (rule for rule in site.rules if rule.scope != "snapshot")
    any_number = snapshot_rules(replace(site.use_case, max_missing_days=WHOLE_SOURCE))
    return replace(site, use_case=replace(site.use_case, window_days=WHOLE_SOURCE), rules=(*rules, *any_number))


def _last_night(site: Site) -> Night:
    """The night that may use the newest day of the source."""
    use_case, machine = site.use_case, this_machine(site.settings.home)
    newest = min(newest_day(site.settings, use_case), *_ends_of_side_tables(site))
    return Night(
        use_case=use_case.name,
        as_of=min(newest + timedelta(days=use_case.label_delay_days + 1), use_case.today()),
        seed=use_case.seed,
        use_case_digest=site.training,
        code_digest=site.code,
        judging_digest=site.judging,
        instructions=machine.instructions,
        device="cpu",
        threads=1,
    )


def _ends_of_side_tables(site: Site) -> Iterator[date]:
    """The newest day of each side table that has days: a row without its side table is not used."""
    for table in site.use_case.side_tables:
        days = partition_files(site.settings, site.use_case, table.source).keys() - {ALL}
        if days:
            yield date.fromisoformat(max(days))
    yield date.max


def source_rows(use_case: UseCase, reader: CleanedReader, as_of: date) -> SourceRows:
    """The rows that the reader has, as one matrix. Categories get codes that mean the same on every day."""
    partitions = [p for name in sorted(reader.cleaned.months) for p in reader.cleaned.of_month(name) if p.rows]
    frames = [reader.rows(partition) for partition in partitions]
    statistics = sum((Statistics.of(use_case, frame) for frame in frames), Statistics.none(use_case))
    features = fit_features(use_case, statistics)
    known_at = use_case.known_at_column
    counted = reader.counted(as_of)
    return SourceRows(
        use_case=use_case,
        days=tuple(partition.day for partition in partitions),
        starts=(0, *(int(end) for end in np.cumsum([len(frame) for frame in frames]))),
        x=np.concatenate([features.transform(frame).astype(np.float32) for frame in frames]),
        y=_labels(use_case, _column(frames, LABEL)),
        weights=_column(frames, use_case.weight) if use_case.weight else None,
        known_at=None if known_at is None else pd.concat([f[known_at] for f in frames]).to_numpy("datetime64[ns]"),
        numbers=features.numbers,
        category_places=tuple(features.category_places),
        day_digests=tuple(digest_value(partition.digests) for partition in partitions),
        due=None if counted is None else tuple(day for day in counted if day <= str(last_due_day(use_case, as_of))),
    )


def _column(frames: list[pd.DataFrame], name: str) -> Floats:
    return np.concatenate([frame[name].to_numpy(np.float64) for frame in frames])


def _labels(use_case: UseCase, labels: Floats) -> Floats:
    """The labels as a learner gets them, which is the logarithm where the target says so."""
    return np.log(labels) if use_case.target.log else labels
