"""The stage that watches the source: what changed on the days since the champion was judged, and on older days.

Each night keeps how the columns of its newest days were spread. A later night compares its own days with those that the
champion's night kept: the newest days with the weeks before, and days that both have with themselves. So a change is
found as long as no champion has seen it, even if new code or a new delivery changed the weeks before too.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from operator import itemgetter

from ml.data.cleaning import ROW_NUMBER
from ml.data.day_counts import DayCounts, Kind, count_day
from ml.data.handles import Checks, Cleaned, CleanedPartition, PartitionCheck, Snapshot
from ml.data.partitions import inputs_by_day
from ml.data.rewritten import Rewritten, cleaned_rows, rewritten_columns, together
from ml.data.snapshots import read_manifest
from ml.digests import digest_value
from ml.errors import Corrupt
from ml.evaluation.day_scores import losses_when_first_judged, read_days
from ml.evaluation.handles import SourceWatch
from ml.evaluation.source_changes import DAYS_BEFORE, REDELIVERED, changes_of, delivered_otherwise, loss_changes
from ml.evaluation.source_evidence import WATCHED, DayLoss, SourceEvidence, watched_key
from ml.evaluation.source_unchanged import SourceUnchanged
from ml.evaluation.source_words import span_of, told, told_delivered, told_loss, told_rewritten, words_of_rewritten
from ml.pipeline.site import Site, kept_results
from ml.storage.json_form import packed, parsed
from ml.storage.ledger import AnyEntry, NightEntry, is_same
from ml.storage.records import FileRef, Handle, Night, SourceChange, Work
from ml.storage.store import get_file

log = logging.getLogger("retrain.source")
KEPT_DAYS = 2 * DAYS_BEFORE + 28  # the newest days that a night keeps: those judged, and those they are compared with
FIRST_LOOK = 7  # days that are judged if there is no champion
COMPARED_DAYS = 28  # the newest days that are compared with what they were before
MOST_REWRITTEN = 0.05  # the share of rows that other code may change in a column without a question


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
        evidence=_evidence(site, night, head, champions, tonight) if _is_watched(site) else None,
        sentences=tuple(_since_last_night(site, last_night, tonight)),
    )


def _is_watched(site: Site) -> bool:
    return any(isinstance(gate, SourceUnchanged) for gate in site.use_case.gates)


def _nights_of_champion(nights: Sequence[NightEntry], head: AnyEntry | None) -> list[NightEntry]:
    """The newest night that judged the champion, as a list of one or none."""
    champion = head.champion if head else None
    return [entry for entry in nights if champion and is_same(entry.candidate, champion)][-1:]


def _days_of(site: Site, nights: Sequence[NightEntry]) -> Days:
    """The days that the night kept; none if there is no night, or it kept none that can be read."""
    keys = [watched_key(entry.model_key) for entry in nights]
    kept = kept_results(site, WatchedDays, WATCHED).find(keys)
    return {day: watched for days in kept.values() for day, watched in days.by_day.items()}


def _tonight(
    site: Site, training_key: str, snapshot: Snapshot, checks: Checks, cleaned: Cleaned, known: Days
) -> tuple[Days, int]:
    """Tonight's newest days, which are kept, and how many of them are new. `known` are those of an earlier night, which
    need not be counted again."""
    counted = 0

    def make() -> WatchedDays:
        nonlocal counted
        days: Days = {}
        reader = site.reader(cleaned)
        for partition, check, inputs in _newest_partitions(site, snapshot, checks, cleaned):
            same = known.get(partition.day)
            if same is None or not _is_as(same, partition, inputs) or (same.counts is None and _is_watched(site)):
                counts = count_day(site.use_case, reader.rows(partition), check) if _is_watched(site) else None
                counted += 1
                same = _watched(partition, inputs, counts)
            days[partition.day] = same
        return WatchedDays(days=packed(Days, days))

    kept, _ = kept_results(site, WatchedDays, WATCHED).resume_or_make(watched_key(training_key), make)
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
    for name, of_month in groupby(partitions[-KEPT_DAYS:], itemgetter(0)):
        check_of = {check.day: check for check in checks.months[name].by_key(PartitionCheck).values()}
        inputs = inputs_by_day(site.use_case, manifest.month(name))
        for _, partition in of_month:
            yield partition, check_of[partition.day], digest_value(inputs[partition.day])


def _evidence(site: Site, night: Night, head: AnyEntry | None, champions: Days, tonight: Days) -> SourceEvidence:
    """What the gate looks at. Days that the champion's night has not seen are compared with those that it has."""
    newest = _first_new_day(site, night, head)
    seen = {day: champions[day] for day in tonight if day < newest and day in champions}
    changes = _made_otherwise(site, seen, tonight)
    known = {change.column for change in changes}
    counts = {day: seen.get(day, watched).counts for day, watched in tonight.items()}
    spread = _changes(site, {day: counted for day, counted in counts.items() if counted}, newest)
    losses = losses_of(site, night, head)
    return SourceEvidence(
        days=tuple(tonight),
        changes=(
            *changes,
            *(change for change in spread if change.column not in known),
            *map(told_loss, loss_changes({day: loss for day, loss in losses.items() if day in tonight}, newest)),
        ),
        answers=head.source_answers if head else (),
        losses=losses,
    )


def _made_otherwise(site: Site, before: Days, after: Days) -> list[SourceChange]:
    """The columns that are others on days that the champion's night has seen: by other code, or by a new delivery."""
    by_code, anew = rewritten(site, before, after), rewritten(site, before, after, anew=True)
    changes = [
        told_rewritten(name, compared.days, column, sensitive=name in _sensitive(site), anew=compared is anew)
        for compared, most in ((by_code, MOST_REWRITTEN), (anew, REDELIVERED))
        for name, column in compared.columns.items()
        if column.share > most
    ]
    pairs = {day: (before[day].counts, after[day].counts) for day in sorted({*by_code.lost, *anew.lost})}
    changes += [
        told_delivered(change, sensitive=change.column in _sensitive(site))
        for change in delivered_otherwise({day: (one, other) for day, (one, other) in pairs.items() if one and other})
    ]
    return changes


@dataclass(frozen=True)
class Compared:
    """Days whose rows are not what they were: the columns that differ, and how many rows are used.

    `lost`: days that cannot be compared row by row, because older rows are gone, or no key says which row is which.
    """

    days: tuple[str, ...]
    lost: tuple[str, ...]
    columns: dict[str, Rewritten]
    rows_before: int
    rows_after: int


def rewritten(site: Site, before: Days, after: Days, *, anew: bool = False) -> Compared:
    """Compares the newest days whose rows are not what they were: those of the same bytes, or, `anew`, of other bytes.

    The rows of the same bytes have the same row numbers. Rows that were delivered anew are known by the key.
    """
    days = [day for day, watched in before.items() if day in after and _is_rewritten(watched, after[day], anew=anew)]
    days, by = days[-COMPARED_DAYS:], site.use_case.key if anew else (ROW_NUMBER,)
    compared: dict[str, dict[str, Rewritten]] = {}
    for day in days if by else []:
        try:
            one, other = (cleaned_rows(get_file(site.store, kept[day].cleaned), by) for kept in (before, after))
        except Corrupt as error:
            log.warning("%s It is not compared with what it was before.", error)
            continue
        compared[day] = rewritten_columns(one, other, site.use_case.target.column)
    lost = tuple(day for day in days if day not in compared)
    rows = [sum(kept[day].rows for day in compared) for kept in (before, after)]
    return Compared(tuple(compared), lost, together(compared.values()), *rows)


def _is_rewritten(one: WatchedDay, other: WatchedDay, *, anew: bool) -> bool:
    same_rows = (one.cleaned.digest, one.set_aside) == (other.cleaned.digest, other.set_aside)
    return (one.inputs != other.inputs) is anew and not same_rows


def _since_last_night(site: Site, before: Days, after: Days) -> Iterator[str]:
    """What other code made of the same bytes since the last night, as sentences for the report."""
    by_code = rewritten(site, before, after)
    for name, column in by_code.columns.items():
        yield f"{words_of_rewritten(name, by_code.days, column, sensitive=name in _sensitive(site))}."
    if by_code.rows_before != by_code.rows_after:
        yield (
            f"Of the same bytes of {span_of(by_code.days)}, {by_code.rows_after:,} rows are used, before "
            f"{by_code.rows_before:,}: a rule has changed, or the code that reads or cleans."
        )


def _sensitive(site: Site) -> set[str]:
    return {column.name for column in site.use_case.columns if column.sensitive}


def _first_new_day(site: Site, night: Night, head: AnyEntry | None) -> str:
    """The first day that the champion's night has not seen. Without a champion, a week is new."""
    champion = head.champion if head else None
    known_until = champion.as_of if champion else night.as_of - timedelta(days=FIRST_LOOK)
    return str(known_until - timedelta(days=site.use_case.label_delay_days))


def _changes(site: Site, days: Mapping[str, DayCounts], newest: str) -> list[SourceChange]:
    """The changes that began on the new days, by every column and kind of counts that all these days have."""
    kinds: dict[Kind, dict[str, None]] = {}
    for counts in list(days.values())[-1:]:
        kinds = {kind: dict.fromkeys(columns) for kind, columns in counts.counts.items()}
    return [
        told(change, sensitive=column in _sensitive(site))
        for kind, columns in kinds.items()
        for column in columns
        for change in changes_of(kind, column, _of_column(days, kind, column), newest)
        if change.first_day >= newest
    ]


def _of_column(days: Mapping[str, DayCounts], kind: Kind, column: str) -> dict[str, dict[int, int]]:
    return {day: counts.counts[kind][column] for day, counts in days.items() if column in counts.counts.get(kind, {})}


def losses_of(site: Site, night: Night, head: AnyEntry | None) -> dict[str, DayLoss]:
    """How the model that served each day did on it, as it was when the day was first judged.

    Days before anything served are those on which champions were judged.
    """
    entries = [entry for entry in site.ledger.entries() if head and entry.seq <= head.seq]
    losses = losses_when_first_judged(read_days(site.store, night.use_case).values(), entries)
    return {day: DayLoss(rows=rows, relative=relative) for day, (rows, relative) in losses.items() if relative > 0}
