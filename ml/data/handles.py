"""What the stages of data hand on to each other: small frozen handles. None of them holds rows."""

import dataclasses
from dataclasses import dataclass
from datetime import date
from typing import Literal

from ml.storage.json_form import parsed
from ml.storage.kept import KeptMonth
from ml.storage.records import FileRef, Handle

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition of a source: the rows of a day, or of `all`.

    `file`: its name in the source. `digest`: that of its bytes when the snapshot was taken.
    """

    day: str
    file: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Month:
    """A snapshot's partitions of one month, and the partitions of each side table that they are joined to."""

    partitions: tuple[Partition, ...]
    side_tables: dict[str, tuple[Partition, ...]]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a snapshot uses. The manifest's digest is the digest of the snapshot.

    `months`: the JSON of each Month by its name (2013-09, or `all`), in order. A night parses only months that it has
    not met before, so its cost does not grow with the window. `size`: how many partitions there are. `excluded`: days
    that operators left out, with the reasons. `accepted`: days whose new vocabulary operators accepted, with the
    reasons.
    """

    months: dict[str, str]
    size: int
    excluded: dict[str, str] = dataclasses.field(default_factory=dict)
    accepted: dict[str, str] = dataclasses.field(default_factory=dict)

    def month(self, name: str) -> Month:
        """The month of this name. Raises KeyError if the snapshot has no such month."""
        month: Month = parsed(Month, self.months[name])
        return month

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """The source's partitions of all months, in date order."""
        return tuple(partition for name in self.months for partition in self.month(name).partitions)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Something that a source has and no partition uses: `count` rows, columns or other things (`what`), and why."""

    source: str
    what: str
    count: int
    why: str

    @property
    def sentence(self) -> str:
        return f"{self.count:,} {self.what}{'s' if self.count != 1 else ''} of {self.source} {self.why}."


@dataclass(frozen=True, kw_only=True)
class Snapshot(Handle):
    """What a run uses: the digest and the key of its manifest, and what is to be said of its days.

    `missing_days`: due days that the manifest lacks. `unusable`: those of them that the source has in a form that
    cannot be read, each with the reason. `changed_days`: days whose bytes differ from those of the snapshot before.
    `left_out`: what the sources have and no partition uses.
    """

    digest: str
    manifest: str
    partitions: int
    first_day: str
    last_day: str
    missing_days: tuple[str, ...]
    excluded: dict[str, str]
    changed_days: tuple[str, ...]
    unusable: dict[str, str] = dataclasses.field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RuleCount:
    """How often one rule was evaluated, and how often it was broken (`unexpected`)."""

    rule: str
    scope: str
    severity: str
    evaluated: int
    unexpected: int


@dataclass(frozen=True, kw_only=True)
class JoinCounts:
    """How a partition's rows met one side table.

    `null_keys`: rows without a key. `unmatched`: rows whose key the table lacks. `side_null_keys`: rows of the table
    without a key.
    """

    rows: int
    null_keys: int
    unmatched: int
    side_null_keys: int


@dataclass(frozen=True, kw_only=True)
class PartitionCheck:
    """The verdict on one partition, which follows from its bytes, the rules and our code alone.

    `rejected`: why it cannot be used; None if it can. `broken`: the rules that some rows break, and no others.
    `undeclared`: how many columns nobody declared; `unknown_columns` names the first of them. `cure`: the declaration
    that would let a rejected partition pass.

    ml/data/meaning.py compares three fields with other days: `nulls` by column and `unmatched` by side table, both
    without zeros, and a sample of each column's `categories`. Exact duplicates are not counted in `nulls` and
    `categories`.
    """

    day: str
    rows: int
    duplicates: int
    quarantined: int
    unlabelled: int
    unknown_columns: tuple[str, ...]
    rejected: str | None
    broken: tuple[RuleCount, ...]
    quarantine: FileRef | None
    undeclared: int = 0
    cure: str = ""
    nulls: dict[str, int] = dataclasses.field(default_factory=dict)
    unmatched: dict[str, int] = dataclasses.field(default_factory=dict)
    categories: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def labelled(self) -> int:
        """How many rows are learnt from: those with a label that are neither duplicates nor in quarantine."""
        return self.rows - self.duplicates - self.quarantined - self.unlabelled


@dataclass(frozen=True, kw_only=True)
class Undeclared:
    """Columns that nobody declared.

    `days`: on how many days there were any. `most`: how many there were at most on one day. `names`: on how many days
    each of the most frequent ones was there.
    """

    days: int = 0
    most: int = 0
    names: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Move:
    """A share of a day's rows that was larger than on any day before. `usual` is the largest share until then.

    `kind` and `name` are those of a Signal (ml/data/meaning.py).
    """

    day: str
    kind: str
    name: str
    share: float
    usual: float


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Sums over the partitions that may be used; `broken` alone also counts the partitions that may not be used.

    `quarantined_days`: rows in quarantine by day. `unmatched`: by side table, the rows that it does not match.
    """

    rows: int
    duplicates: int
    quarantined: int
    unlabelled: int
    broken: tuple[RuleCount, ...]
    quarantined_days: dict[str, int]
    undeclared: Undeclared = Undeclared()
    moves: tuple[Move, ...] = ()
    unmatched: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CheckedDays(Counts):
    """Sums over the verdicts on a month's partitions.

    `digest`: says which rows may be used. `rejected`: why partitions cannot be used, by day. `compared`: the key of all
    that decides the comparison with the days before. That comparison gives `lost`, the days that lost their meaning
    (they are in `rejected` too), and `unseen`, the shares of unseen rows by day and column.
    """

    digest: str
    partitions: int
    rejected: dict[str, str]
    compared: str = ""
    lost: dict[str, str] = dataclasses.field(default_factory=dict)
    unseen: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


CheckedMonth = KeptMonth[CheckedDays]  # its results are PartitionChecks


@dataclass(frozen=True, kw_only=True)
class Checks(Handle, Counts):
    """The verdicts on all partitions of a snapshot.

    `left_out`: why days are not used. `cleaned_days`: days that were cleaned together with their verdict, because their
    rows were in memory then.
    """

    digest: str
    months: dict[str, CheckedMonth]
    left_out: dict[str, str]
    rules: int
    cleaned_days: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CleanedRows:
    """A partition's unique labelled rows, which follow from its bytes alone.

    From `whole_from` on, all of them are known.
    """

    file: FileRef
    whole_from: date


@dataclass(frozen=True, kw_only=True)
class CleanedPartition:
    """A usable partition: its cleaned rows, and the quarantine with those of them that its verdict set aside.

    `rows`: how many rows remain.
    """

    day: str
    cleaned: CleanedRows
    quarantine: FileRef | None
    rows: int

    @property
    def digests(self) -> tuple[str, str, str]:
        """The day, and the digests of the files that decide which rows are read."""
        return self.day, self.cleaned.file.digest, self.quarantine.digest if self.quarantine else ""


@dataclass(frozen=True, kw_only=True)
class CleanedDays:
    """Sums over a month's usable partitions. From the date `whole_from` on, all of their rows are known."""

    digest: str
    partitions: int
    rows: int
    whole_from: date


CleanedMonth = KeptMonth[CleanedDays]  # its results are CleanedPartitions, by the keys of their cleaned rows


@dataclass(frozen=True, kw_only=True)
class Cleaned(Handle):
    """All usable partitions of the snapshot with this manifest, by month. `rows`: how many rows they have."""

    manifest: str
    digest: str
    months: dict[str, CleanedMonth]
    rows: int

    @property
    def partitions(self) -> int:
        return sum(month.sums.partitions for month in self.months.values())

    def of_month(self, name: str) -> tuple[CleanedPartition, ...]:
        """The month's partitions in date order."""
        return tuple(self.months[name].by_key(CleanedPartition).values())


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """One part of the split.

    `positive_share`: of rows of the positive class; None unless there are two classes. `group_in_train`: the share of
    test rows whose group has train rows too; None for other parts, and where no group is cut.
    """

    rows: int
    positive_share: float | None
    first_day: str | None
    last_day: str | None
    group_in_train: float | None = None


@dataclass(frozen=True, kw_only=True)
class Split(Handle):
    """The three parts, and the stored statistics of the train rows.

    `fit_until`: the last day that a model of this run may have seen; None without time.
    """

    digest: str
    statistics: FileRef
    train: SplitRows
    validation: SplitRows
    test: SplitRows
    fit_until: str | None
    test_digest: str
