"""What is kept of each day on which a version served, and what the night that judged the version recorded of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaning import DAY, LABEL
from ml.data.dataset import Dataset
from ml.digests import canonical_json
from ml.evaluation.handles import LearntConstant
from ml.evaluation.promise import Promise, relative_loss
from ml.metrics.day_sums import DaySums, day_sums, of_rows
from ml.metrics.scores import Answers
from ml.storage import paths
from ml.storage.json_form import from_json
from ml.storage.kept import unseal
from ml.storage.ledger import AnyEntry, NightEntry
from ml.storage.records import Identity
from ml.storage.store import Store

NEWEST_DAYS = 98  # older days are not scored, and are not on the curve; 14 weeks
K = TypeVar("K")


@dataclass(frozen=True, kw_only=True)
class DayScore:
    """What is kept of one day: the sums of the version that served on it.

    `judged` is the identity of the version that the gates judged, and `at` the time at which the rows were answered.
    `twin` has the sums of that version if its refit served, and `constant` those of the best constant that was learnt
    with it; None if it could not answer, or is not known.
    """

    day: str
    version: int
    judged: Identity
    at: str
    served: DaySums
    twin: DaySums | None = None
    constant: DaySums | None = None


def sums_by_day(use_case: Dataset, rows: pd.DataFrame, answers: Answers, level: float) -> dict[str, DaySums]:
    """The sums of the answers on each day of the rows."""
    y, target = rows[LABEL].to_numpy(np.float64), use_case.target
    places: dict[str, NDArray[np.int_]] = rows.groupby(DAY, observed=True).indices
    return {
        str(day): day_sums(target.kind, len(target.classes), y[places[day]], of_rows(answers, places[day]), level)
        for day in sorted(places)
    }


def read_days(store: Store, use_case: str) -> dict[str, DayScore]:
    """All that is kept of the newest days that have a result, by the object's key, oldest results first.

    A damaged object is left out.
    """
    keys = store.keys(paths.served_days(use_case))
    days = sorted({_day_of(key) for key in keys})[-2 * NEWEST_DAYS :]
    newest_keys = [key for key in keys if days and _day_of(key) >= days[0]]
    objects = zip(newest_keys, store.get_many(newest_keys), strict=True)
    results = {key: day for key, data in objects if (day := unseal(DayScore, key, data)) is not None}
    return dict(sorted(results.items(), key=lambda item: (item[1].at, item[0])))


def _day_of(key: str) -> str:
    """The day of a result, from the object's key."""
    return key.rpartition("/")[2][: len("2013-09-30")]


def as_they_are(results: Iterable[DayScore]) -> dict[str, DayScore]:
    """The newest result of each day, in the order of the days. `results` are oldest first."""
    return dict(sorted({result.day: result for result in results}.items()))


def as_first_judged(results: Iterable[DayScore]) -> dict[str, DayScore]:
    """The first result of each day, which later changes of its rows leave as it was, in the order of the days."""
    return as_they_are(reversed([*results]))


def losses_when_first_judged(
    results: Iterable[DayScore], entries: Sequence[AnyEntry]
) -> dict[str, tuple[int, float]]:  # fmt: skip
    """Each day's rows, and the loss of a champion on them relative to the best constant's, as they were at first.

    On a day that was served it is the version that served. On an earlier day it is the first champion that was judged
    on it. Days that an operator excluded, and days without such a loss, are left out.
    """
    champions = [entry.champion.identity for entry in entries if entry.champion]
    promises = promises_in(entries, dict.fromkeys(champions))
    losses: dict[str, tuple[int, float | None]] = {}
    for day, result in as_first_judged(results).items():
        losses[day] = result.served.rows, relative_loss([result.served], [result.constant]) if result.constant else None
    for version in dict.fromkeys(champions):
        judged = promises[version].days if version in promises else {}
        for day, of_day in judged.items():
            losses.setdefault(day, (of_day.rows, of_day.relative))
    excluded = entries[-1].excluded if entries else {}
    return {
        day: (rows, relative)
        for day, (rows, relative) in sorted(losses.items())
        if relative is not None and day not in excluded
    }


def promises_in(entries: Sequence[AnyEntry], versions: Iterable[Identity]) -> dict[Identity, Promise]:
    """What the first judgement of each version promised. Versions from before promises were kept are left out."""
    documents = _judgements(entries)
    read = {version: _read(Promise, documents.get(version, {}).get("promise")) for version in versions}
    return {version: promise for version, promise in read.items() if promise is not None}


def constant_in(entries: Sequence[AnyEntry], version: Identity) -> LearntConstant | None:
    """The best constant that was learnt with the version; None for a version from before it was kept."""
    return _read(LearntConstant, _judgements(entries).get(version, {}).get("constant"))


def _judgements(entries: Sequence[AnyEntry]) -> dict[Identity, dict[str, Any]]:
    """The document of the night that first judged each version."""
    nights = [entry for entry in reversed(entries) if isinstance(entry, NightEntry)]
    return {night.candidate.identity: night.result for night in nights if night.candidate}


def _read(kind: type[K], value: Any) -> K | None:
    """The value of a document's field; None if it is null, or if newer code wrote it in another form."""
    try:
        return None if value is None else from_json(kind, canonical_json(value))
    except ValueError:
        return None
