"""The verdict on partitions: which rules their rows break, which rows are set aside, and whether they may be used.

One scan over the rows counts for every rule how many rows break it, and which ones. Great Expectations then judges
these counts in `expectations.suite`. A rule about numbers that meets a column of texts, or the reverse, is refused.
"""

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.data.cleaning import ROW_NUMBER, coded
from ml.data.dataset import Dataset, Limits, Reading, UsedDays
from ml.data.handles import PartitionCheck, RuleCount
from ml.data.meaning import hashes_of, sample_of
from ml.data.partitions import PartitionRows
from ml.errors import ConfigError
from ml.serving.columns import Column
from ml.serving.features import distinct_texts
from ml.serving.rules import Between, Finite, InSet, Mask, Matches, NotNull, Rule, UniqueKey

PARTITION = "partition__"
PARTITION_FACTS = {"read", "rows", "duplicates", "quarantined", "quarantined_fraction", "unlabelled", "unknown_columns"}
SNAPSHOT_FACTS = {"rows", "left_out_days"}
MOST_NAMES = 20  # how many undeclared columns a partition's verdict names
LONGEST = 80  # at most so many letters of a name or value that somebody else wrote are quoted
LONGEST_RULE, LONGEST_REASON = 200, 600
MOST_RULES = 3  # how many rules a rejection names
CURES: dict[type[Rule], str] = {
    NotNull: "declare nullable=True",
    Between: "widen the limits",
    InSet: "declare the new values",
    UniqueKey: "name a longer key than that",
}


@dataclass(frozen=True)
class Batch:
    """The rows of several partitions, one partition after the other, without exact duplicates.

    All else is by day: `places` says where a partition's rows lie, `duplicates` how many of them were dropped, and
    `unmatched` how many rows each side table does not match (which counts duplicates too).
    """

    rows: pd.DataFrame
    places: dict[str, slice]
    duplicates: dict[str, int]
    unknown_columns: dict[str, tuple[str, ...]]
    unmatched: dict[str, dict[str, int]]

    @classmethod
    def of(cls, key: tuple[str, ...], partitions: dict[str, PartitionRows]) -> "Batch":
        """The batch of these partitions, by day. `key`: the columns that tell rows apart."""
        unique = {day: drop_duplicates(read.rows, key) for day, read in partitions.items()}
        ends = np.cumsum([len(rows) for rows in unique.values()])
        places = {
            day: slice(int(end) - len(rows), int(end)) for (day, rows), end in zip(unique.items(), ends, strict=True)
        }
        return cls(
            rows=pd.concat(unique.values(), ignore_index=True),
            places=places,
            duplicates={day: len(read.rows) - len(unique[day]) for day, read in partitions.items()},
            unknown_columns={day: read.unknown_columns for day, read in partitions.items()},
            unmatched={day: read.unmatched for day, read in partitions.items()},
        )

    def of_day(self, day: str) -> pd.DataFrame:
        """The rows of one partition."""
        return self.rows[self.places[day]]

    def counts(self, mask: Mask | None) -> dict[str, int]:
        """How many rows of each partition the mask (rows,) marks; None marks no row."""
        if mask is None:
            return dict.fromkeys(self.places, 0)
        before = np.concatenate([[0], np.cumsum(mask)])
        return {day: int(before[place.stop] - before[place.start]) for day, place in self.places.items()}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What one rule met in a batch.

    `rows`: all rows. `missing`: rows that lack a value, which are not judged. `unexpected`: rows that break the rule.
    """

    rule: Rule
    rows: int
    missing: int
    unexpected: int


@dataclass(frozen=True)
class BatchVerdict:
    """The verdict on a batch.

    `checks`: by day, one for every partition. `quarantine`: by day, the rows that are set aside, each with its row
    number and the rule that it broke. `facts`: one for each row rule, in the order of the rules.
    """

    checks: dict[str, PartitionCheck]
    quarantine: dict[str, pd.DataFrame]
    facts: list[Fact]


def drop_duplicates(rows: pd.DataFrame, key: tuple[str, ...]) -> pd.DataFrame:
    """The rows without exact duplicates, numbered from 0. The row numbers of a quarantine count these rows.

    Equal rows have equal keys, so only rows that share a key are compared. Without a key nobody says that equal rows
    are the same row, so all of them stay.
    """
    if not key:
        return rows.reset_index(drop=True)
    repeated = rows.duplicated(list(key), keep=False).to_numpy(bool, copy=True)
    repeated[repeated] = rows[repeated].duplicated()
    return rows[~repeated].reset_index(drop=True)


def partition_rules(use_case: Limits) -> tuple[Rule, ...]:
    """The rules about a partition as a whole that follow from the use case's own fields."""
    return (
        Between(scope="partition", column="rows", minimum=use_case.min_rows),
        Between(scope="partition", column="quarantined_fraction", maximum=use_case.max_quarantined_fraction),
    )


def snapshot_rules(use_case: UsedDays) -> tuple[Rule, ...]:
    """The rules about all partitions together that follow from the use case's own fields."""
    return (
        Between(scope="snapshot", column="left_out_days", maximum=use_case.max_missing_days),
        Between(scope="snapshot", column="rows", minimum=1),
    )


def claims_of_fields(use_case: Dataset) -> dict[Rule, str]:
    """What the rules of the use case's own fields claim, with the field that can be changed.

    The rule itself knows only the fact, whose name no user has written.
    """
    usable, aside = partition_rules(use_case)
    left_out, rows = snapshot_rules(use_case)
    return {
        usable: f"at least {use_case.min_rows:,} of its rows are usable (min_rows)",
        aside: f"at most {use_case.max_quarantined_fraction:g} of its rows are set aside (max_quarantined_fraction)",
        left_out: f"at most {use_case.max_missing_days:,} days are left out (max_missing_days)",
        rows: "at least 1 row is usable",
    }


class Scan:
    """Looks at each column of a batch once, however many rules read it.

    If the extremes, the distinct texts or the order of a column prove that no row breaks a rule, its rows are not
    visited one by one.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch, self.rows = batch, batch.rows
        self.missing = functools.cache(self._missing)
        self.extremes = functools.cache(self._extremes)
        self.distinct = functools.cache(self._distinct)
        self.never_repeats = functools.cache(self._never_repeats)

    def fact(self, rule: Rule, mask: Mask | None) -> Fact:
        """The fact of a rule whose broken rows are marked by the mask."""
        masks = [lacking for lacking in map(self.missing, rule.columns) if lacking is not None]
        missing = int(np.logical_or.reduce(masks).sum()) if masks else 0
        return Fact(rule=rule, rows=len(self.rows), missing=missing, unexpected=0 if mask is None else int(mask.sum()))

    def unexpected(self, rule: Rule) -> Mask | None:
        """(rows,) True where the row breaks the rule; None if no row does.

        Raises ConfigError if the rule cannot read the column's type.
        """
        if isinstance(rule, NotNull):
            return self.missing(rule.column)
        if isinstance(rule, Between | Finite):
            return self._outside(rule)
        if isinstance(rule, InSet | Matches):
            return self._other_texts(rule)
        if isinstance(rule, UniqueKey):
            return None if any(self.never_repeats(name) for name in rule.key) else self._clashes(rule)
        return _some(rule.unexpected(self.rows))

    def _missing(self, column: str) -> Mask | None:
        return _some(self.rows[column].isna().to_numpy(bool))

    def _extremes(self, column: str) -> tuple[float, float]:
        """The smallest and the largest value; both NaN if there is none."""
        values = self.rows[column].to_numpy(np.float64)
        return float(np.fmin.reduce(values, initial=np.nan)), float(np.fmax.reduce(values, initial=np.nan))

    def _distinct(self, column: str) -> tuple[NDArray[np.int32], pd.DataFrame]:
        """(rows,) the position of each text in the frame of distinct texts, and that frame.

        The position of a missing text is one past the last.
        """
        codes = coded(self.rows[column])
        texts = pd.DataFrame({column: codes.dictionary.to_pandas()})
        return codes.indices.fill_null(len(texts)).to_numpy(), texts

    def _outside(self, rule: Between | Finite) -> Mask | None:
        _require(rule, self.rows[rule.column].dtype == np.float64, "a number", self.rows[rule.column].dtype)
        low, high = self.extremes(rule.column)
        inside = (rule.minimum is None or not low < rule.minimum) and (rule.maximum is None or not high > rule.maximum)
        return None if inside else _some(rule.unexpected(self.rows))

    def _other_texts(self, rule: InSet | Matches) -> Mask | None:
        _require(rule, self.rows[rule.column].dtype == "str", "a text", self.rows[rule.column].dtype)
        positions, texts = self.distinct(rule.column)
        broken = rule.unexpected(texts)
        return np.append(broken, False)[positions] if broken.any() else None

    def categories(self, column: Column) -> dict[str, str]:
        """By day, the stored form of a sample of the column's categories, for each partition that has any."""
        name = column.name
        positions, texts = self.distinct(name) if column.type == "text" else distinct_texts(self.rows[name], None)
        hashes = hashes_of(texts[name].tolist() if isinstance(texts, pd.DataFrame) else texts)
        samples = {day: sample_of(positions[place], hashes) for day, place in self.batch.places.items()}
        return {day: sample.text for day, sample in samples.items() if sample.rows}

    def _never_repeats(self, column: str) -> bool:
        """Whether a quick look proves that no value of a number column repeats.

        It does if the numbers only rise, or if they are whole and lie densely enough to count each of them.
        """
        values = self.rows[column]
        if values.dtype != np.float64 or self.missing(column) is not None:
            return False
        numbers = values.to_numpy()
        if bool((np.diff(numbers) > 0).all()):
            return True
        low, high = self.extremes(column)
        if high - low > 4 * len(numbers) or not bool((numbers % 1 == 0).all()):
            return False
        return int(np.bincount((numbers - low).astype(np.int64)).max()) == 1

    def _clashes(self, rule: UniqueKey) -> Mask | None:
        """(rows,) True where the row shares its key with another row of its partition."""
        masks = [rule.unexpected(self.rows[place]) for place in self.batch.places.values()]
        return _some(np.concatenate(masks))


def _some(mask: Mask) -> Mask | None:
    """The mask; None if it marks no row."""
    return mask if mask.any() else None


def _require(rule: Rule, readable: bool, what: str, seen: object) -> None:
    if not readable:
        raise ConfigError(f"'{rule.sentence}' is a rule about {what}", f"the column is {seen}", "mend the rule")


def within_partition(rule: Rule) -> Rule:
    """The rule in the form that is judged on a batch: a key is unique within a partition, not within the batch."""
    return UniqueKey(key=(PARTITION, *rule.key), severity=rule.severity) if isinstance(rule, UniqueKey) else rule


def check_batch(use_case: Dataset, rules: Sequence[Rule], batch: Batch) -> BatchVerdict:
    """The verdict on every partition of the batch. Each row rule is judged once, over the rows of all partitions."""
    of_row, scan = [rule for rule in rules if rule.scope == "row"], Scan(batch)
    masks = [scan.unexpected(rule) for rule in of_row]
    broken = _first_broken(of_row, masks, len(batch.rows))
    by_day = [(rule, batch.counts(mask)) for rule, mask in zip(of_row, masks, strict=True) if mask is not None]
    facts, counts = _facts(use_case, batch, broken), _counts(use_case, scan)
    refused = [(rule, rule.unexpected(facts)) for rule in rules if rule.scope == "partition"]
    checks, quarantine, claims = {}, {}, claims_of_fields(use_case)
    for position, (day, place) in enumerate(batch.places.items()):
        own_facts = facts.iloc[[position]].reset_index(drop=True)
        of_rows = [(rule, _count(rule, place.stop - place.start, counted[day])) for rule, counted in by_day]
        row_counts = [count for _, count in of_rows]
        partition_counts = [
            replace(_count(rule, 1, int(mask[position])), rule=claims.get(rule, rule.sentence))
            for rule, mask in refused
        ]
        broken_rules = [count for count in (*row_counts, *partition_counts) if count.unexpected]
        compared = {name: of[day] for name, of in counts.items()}
        checks[day] = replace(_check(batch, day, own_facts, broken_rules), **compared)
        if reason := rejection(use_case, [rule for rule, mask in refused if mask[position]], own_facts, row_counts):
            worst = _worst(of_rows)
            reason += _spellings(use_case, worst, batch.rows[place])
            checks[day] = replace(checks[day], rejected=reason, cure=_cure(use_case, own_facts, worst))
        aside = np.flatnonzero(broken[place] >= 0)
        if len(aside):
            sentences = [of_row[rule].sentence for rule in broken[place][aside]]
            quarantine[day] = batch.rows[place].iloc[aside].assign(**{ROW_NUMBER: aside, "broken_rule": sentences})
    return BatchVerdict(checks, quarantine, [scan.fact(*pair) for pair in zip(of_row, masks, strict=True)])


def _counts(use_case: Reading, scan: Scan) -> dict[str, dict[str, Any]]:
    """What ml/data/meaning.py compares with other days: by field of PartitionCheck, then by day."""
    nulls = {name: scan.batch.counts(scan.missing(name)) for name in _counted_nulls(use_case)}
    categories = {column.name: scan.categories(column) for column in use_case.columns if column.is_category}
    days = scan.batch.places
    return {
        "nulls": {day: {name: counts[day] for name, counts in nulls.items() if counts[day]} for day in days},
        "categories": {day: {name: of[day] for name, of in categories.items() if day in of} for day in days},
        "unmatched": {
            day: {name: count for name, count in scan.batch.unmatched.get(day, {}).items() if count} for day in days
        },
    }


def _counted_nulls(use_case: Reading) -> list[str]:
    """The columns whose nulls are counted: all but labels that become known later.

    A day that has no labels yet has lost nothing.
    """
    later = use_case.target.column if use_case.known_at_column is not None else None
    return [column.name for column in use_case.columns if column.name != later]


def _worst(counts: Sequence[tuple[Rule, RuleCount]]) -> list[Rule]:
    """The rules of severity error that most rows break, the worst first."""
    broken = [(count.unexpected, rule) for rule, count in counts if count.unexpected and rule.severity == "error"]
    return [rule for _, rule in sorted(broken, key=lambda pair: -pair[0])[:MOST_RULES]]


def _spellings(use_case: Reading, broken: Sequence[Rule], rows: pd.DataFrame) -> str:
    """For each broken rule that lists allowed values: the commonest other value, and the allowed one most like it.

    Nothing is quoted if any column is sensitive: in a row whose fields are shifted, the value may be that column's.
    """
    if any(column.sensitive for column in use_case.columns):
        return ""
    clauses = []
    for rule in broken:
        if isinstance(rule, InSet):
            commonest = str(rows[rule.column][rule.unexpected(rows)].value_counts().index[0])
            near = _nearest(commonest, rule.values)
            clauses.append(
                f"{rule.column} is {quoted(commonest)}"
                + (f", where {near!r} is the nearest that may be" if near else "")
            )
    return f" ({'; '.join(clauses)})" if clauses else ""


def quoted(value: object) -> str:
    """A value that somebody else wrote, quoted for an error's sentence.

    It loses ': ', which separates an error's parts.
    """
    return repr(str(value)[:LONGEST]).replace(": ", ":")


def _nearest(value: str, known: Sequence[str]) -> str | None:
    by_letters = {name.strip().casefold(): name for name in known}
    matches = difflib.get_close_matches(value.strip().casefold(), by_letters, n=1)
    return by_letters[matches[0]] if matches else None


def _cure(use_case: Limits, facts: pd.DataFrame, broken: Sequence[Rule]) -> str:
    """The declaration that would let the partition pass, if its rows are right."""
    if facts["read"][0] < use_case.min_rows:
        return "lower min_rows"
    if not facts["quarantined"][0]:
        return "mend the suite's rule"
    cures = [f"{CURES[type(rule)]} for {rule.columns[0]}" for rule in broken if type(rule) in CURES]
    return ", ".join([*dict.fromkeys(cures), "or raise max_quarantined_fraction"])


def _first_broken(rules: Sequence[Rule], masks: Sequence[Mask | None], rows: int) -> NDArray[np.int_]:
    """(rows,) the position of the first rule of severity error that the row breaks; -1 if it breaks none."""
    broken = np.full(rows, -1)
    for position, (rule, mask) in enumerate(zip(rules, masks, strict=True)):
        if rule.severity == "error" and mask is not None:
            broken[mask & (broken < 0)] = position
    return broken


def _facts(use_case: Reading, batch: Batch, broken: NDArray[np.int_]) -> pd.DataFrame:
    """The facts that partition rules read: one row per day, one column per fact."""
    aside = broken >= 0
    no_label = np.isnan(use_case.target.labels(batch.rows[use_case.target.column])) & ~aside
    columns = {
        "read": {day: place.stop - place.start for day, place in batch.places.items()},
        "quarantined": batch.counts(aside),
        "unlabelled": batch.counts(no_label),
        "duplicates": batch.duplicates,
        "unknown_columns": {day: len(names) for day, names in batch.unknown_columns.items()},
    }
    facts = pd.DataFrame(columns, index=list(batch.places), dtype="float64")
    return facts.assign(
        rows=facts["read"] - facts["quarantined"],
        quarantined_fraction=facts["quarantined"] / facts["read"].clip(lower=1),
    )


def _check(batch: Batch, day: str, facts: pd.DataFrame, broken: Sequence[RuleCount]) -> PartitionCheck:
    unknown = batch.unknown_columns[day]
    return PartitionCheck(
        day=day,
        rows=int(facts["read"][0]) + batch.duplicates[day],
        duplicates=batch.duplicates[day],
        quarantined=int(facts["quarantined"][0]),
        unlabelled=int(facts["unlabelled"][0]),
        unknown_columns=tuple(name[:LONGEST] for name in unknown[:MOST_NAMES]),
        undeclared=len(unknown),
        rejected=None,
        broken=tuple(broken),
        quarantine=None,
    )


def rejected_check(day: str, reason: str) -> PartitionCheck:
    """The verdict on a partition that could not be read as declared."""
    return PartitionCheck(
        day=day, rows=0, duplicates=0, quarantined=0, unlabelled=0, unknown_columns=(), broken=(),
        rejected=reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}...",
        quarantine=None,
    )  # fmt: skip


def rejection(use_case: Dataset, rules: Sequence[Rule], facts: pd.DataFrame, counts: Sequence[RuleCount]) -> str | None:
    """Why the facts break a rule of severity error, and the row rules that most rows break; None if they break none."""
    broken = [r for r in rules if r.severity == "error" and r.unexpected(facts)[0]]
    if not broken:
        return None
    claims, sentences = claims_of_fields(use_case), []
    for rule in broken:
        value = float(facts[rule.columns[0]][0])
        fact = f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"
        sentences.append(f"{claims[rule]}, and {fact} are" if rule in claims else f"{rule.sentence} (it is {fact})")
    worst = sorted((count for count in counts if count.unexpected), key=lambda count: -count.unexpected)[:MOST_RULES]
    rows = "; ".join(
        f"{count.unexpected:,} {'row breaks' if count.unexpected == 1 else 'rows break'} '{count.rule[:LONGEST_RULE]}'"
        for count in worst
    )
    return f"the rule is that {', and that '.join(sentences)}" + (f"; {rows}" if rows else "")


def _count(rule: Rule, evaluated: int, unexpected: int) -> RuleCount:
    """How often the rule was evaluated and broken, in the form that is stored."""
    return RuleCount(
        rule=rule.sentence, scope=rule.scope, severity=rule.severity, evaluated=evaluated, unexpected=unexpected
    )
