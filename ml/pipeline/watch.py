"""The stage that watches the source: what changed on the days since the champion was judged, and on older days.

Each night keeps how the columns of its newest days were spread. A later night compares its own days with those that the
champion's night kept: the newest days with the weeks before, and days that both have with themselves. So a change is
found as long as no champion has seen it, even if new code or a new delivery changed the weeks before too.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ml.data.code import COUNTED
from ml.data.day_counts import DayCounts, Kind, count_day
from ml.data.handles import Checks, Cleaned, CleanedPartition, PartitionCheck, Snapshot
from ml.data.partitions import inputs_by_day
from ml.data.snapshots import read_manifest
from ml.digests import digest_value
from ml.evaluation.handles import SourceWatch
from ml.evaluation.source_changes import DAYS_BEFORE, changes_of
from ml.evaluation.source_evidence import DayLoss, SourceEvidence
from ml.evaluation.source_unchanged import SourceUnchanged
from ml.evaluation.source_words import told
from ml.pipeline.site import Site, kept_results
from ml.storage.json_form import packed, parsed
from ml.storage.ledger import AnyEntry, NightEntry, is_same
from ml.storage.records import FileRef, Handle, Night, SourceChange, Work

log = logging.getLogger("retrain.source")
KEPT_DAYS = 2 * DAYS_BEFORE + 28  # the newest days that a night keeps: those judged, and those they are compared with
FIRST_LOOK = 7  # days that are judged if there is no champion
STAGE = "watched"


@dataclass(frozen=True, kw_only=True)
class WatchedDay:
    """A day as a night saw it.

    `inputs`: a digest of the bytes that it was read from. `set_aside`: that of its quarantine. `counts` is None if the
    use case had no gate that looks at them.
    """

    inputs: str
    cleaned: FileRef
    set_aside: str
    rows: int
    counts: DayCounts | None


Days = dict[str, WatchedDay]


@dataclass(frozen=True, kw_only=True)
class WatchedDays(Handle):
    """The newest days of a night. `days` is packed JSON: day to WatchedDay, in order."""

    days: str

    @property
    def by_day(self) -> Days:
        days: Days = parsed(Days, self.days)
        return days


def watch_source(
    site: Site, night: Night, training_key: str, snapshot: Snapshot, checks: Checks, cleaned: Cleaned,
    head: AnyEntry | None,
) -> SourceWatch:  # fmt: skip
    """What changed in the source since the champion was judged. Keeps tonight's days for later nights."""
    nights = [entry for entry in site.ledger.nights() if head and entry.seq <= head.seq and entry.candidate]
    last_night, champions = _days_of(site, nights[-1:]), _days_of(site, _nights_of_champion(nights, head))
    tonight, counted = _tonight(site, training_key, snapshot, checks, cleaned, last_night)
    return SourceWatch(
        work=Work(stage="", reused=len(tonight) - counted, computed=counted),
        evidence=_evidence(site, night, cleaned, head, champions, tonight) if _is_watched(site) else None,
    )


def _is_watched(site: Site) -> bool:
    return any(isinstance(gate, SourceUnchanged) for gate in site.use_case.gates)


def _nights_of_champion(nights: Sequence[NightEntry], head: AnyEntry | None) -> list[NightEntry]:
    """The newest night that judged the champion, as a list of one or none."""
    champion = head.champion if head else None
    return [entry for entry in nights if champion and is_same(entry.candidate, champion)][-1:]


def _days_of(site: Site, nights: Sequence[NightEntry]) -> Days:
    """The days that the night kept; none if there is no night, or it kept none that can be read."""
    keys = [_key(entry.model_key) for entry in nights]
    kept = kept_results(site, WatchedDays, STAGE).find(keys)
    return {day: watched for days in kept.values() for day, watched in days.by_day.items()}


def _key(training_key: str) -> str:
    return digest_value([training_key, COUNTED.digest])


def _tonight(
    site: Site, training_key: str, snapshot: Snapshot, checks: Checks, cleaned: Cleaned, known: Days
) -> tuple[Days, int]:
    """Tonight's newest days, which are kept, and how many of them were counted now. `known` are those of an earlier
    night, which need not be counted again."""
    counted = 0

    def make() -> WatchedDays:
        nonlocal counted
        days: Days = {}
        reader = site.reader(cleaned)
        for partition, check, inputs in _newest_partitions(site, snapshot, checks, cleaned):
            same = known.get(partition.day)
            if same is None or not _is_as(same, partition, inputs) or (same.counts is None and _is_watched(site)):
                counts = count_day(site.use_case, reader.rows(partition), check) if _is_watched(site) else None
                counted += counts is not None
                same = _watched(partition, inputs, counts)
            days[partition.day] = same
        return WatchedDays(days=packed(Days, days))

    kept, _ = kept_results(site, WatchedDays, STAGE).resume_or_make(_key(training_key), make)
    return kept.by_day, counted


def _watched(partition: CleanedPartition, inputs: str, counts: DayCounts | None) -> WatchedDay:
    set_aside = partition.quarantine.digest if partition.quarantine else ""
    return WatchedDay(
        inputs=inputs, cleaned=partition.cleaned.file, set_aside=set_aside, rows=partition.rows, counts=counts
    )


def _is_as(watched: WatchedDay, partition: CleanedPartition, inputs: str) -> bool:
    return watched == _watched(partition, inputs, watched.counts)


def _newest_partitions(
    site: Site, snapshot: Snapshot, checks: Checks, cleaned: Cleaned
) -> Iterator[tuple[CleanedPartition, PartitionCheck, str]]:
    """The newest usable partitions in order, each with its verdict and a digest of the bytes that it was read from."""
    manifest = read_manifest(site.store, snapshot.manifest)
    partitions = [(name, partition) for name in cleaned.months for partition in cleaned.of_month(name)]
    for name, partition in partitions[-KEPT_DAYS:]:
        check = next(c for c in checks.months[name].by_key(PartitionCheck).values() if c.day == partition.day)
        yield partition, check, digest_value(inputs_by_day(site.use_case, manifest.month(name))[partition.day])


def _evidence(
    site: Site, night: Night, cleaned: Cleaned, head: AnyEntry | None, champions: Days, tonight: Days
) -> SourceEvidence:
    """What the gate looks at. Days that the champion's night has not seen are compared with those that it has."""
    newest = _first_new_day(site, night, head)
    days = {day: champions.get(day, watched) if day < newest else watched for day, watched in tonight.items()}
    counts = {day: watched.counts for day, watched in days.items() if watched.counts}
    return SourceEvidence(
        days=tuple(days),
        changes=tuple(_changes(site, counts, newest)),
        answers=head.source_answers if head else (),
        losses=losses_of(site, night, cleaned, head),
    )


def _first_new_day(site: Site, night: Night, head: AnyEntry | None) -> str:
    """The first day that the champion's night has not seen. Without a champion, a week is new."""
    champion = head.champion if head else None
    known_until = champion.as_of if champion else night.as_of - timedelta(days=FIRST_LOOK)
    return str(known_until - timedelta(days=site.use_case.label_delay_days))


def _changes(site: Site, days: Mapping[str, DayCounts], newest: str) -> list[SourceChange]:
    """The changes that began on the new days, by every column and kind of counts that all these days have."""
    sensitive = {column.name for column in site.use_case.columns if column.sensitive}
    kinds: dict[Kind, dict[str, None]] = {}
    for counts in list(days.values())[-1:]:
        kinds = {kind: dict.fromkeys(columns) for kind, columns in counts.counts.items()}
    return [
        told(change, sensitive=column in sensitive)
        for kind, columns in kinds.items()
        for column in columns
        for change in changes_of(kind, column, _of_column(days, kind, column), newest)
        if change.first_day >= newest
    ]


def _of_column(days: Mapping[str, DayCounts], kind: Kind, column: str) -> dict[str, dict[int, int]]:
    return {day: counts.counts[kind][column] for day, counts in days.items() if column in counts.counts.get(kind, {})}


def losses_of(site: Site, night: Night, cleaned: Cleaned, head: AnyEntry | None) -> dict[str, DayLoss]:
    """How the model that served each day did on it. No night keeps this yet."""
    del site, night, cleaned, head
    return {}
