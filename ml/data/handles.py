"""What the data stages hand on: small frozen handles, never rows."""

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
    """One source partition as it was seen: the rows of a day, or `all`."""

    day: str
    file: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Month:
    """A snapshot's partitions of one month, and those of each side table that they are joined to."""

    partitions: tuple[Partition, ...]
    side_tables: dict[str, tuple[Partition, ...]]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The snapshot's own content; its digest is the snapshot's. `size`: how many partitions; `excluded`: days that
    operators left out, and why; `accepted`: days whose new vocabulary operators accepted, and why.

    `months`: by name (2013-09, or `all`) and in order, each as the JSON of its Month. A night reads only those that it
    has not met before: what it costs does not grow with the window.
    """

    months: dict[str, str]
    size: int
    excluded: dict[str, str] = dataclasses.field(default_factory=dict)
    accepted: dict[str, str] = dataclasses.field(default_factory=dict)

    def month(self, name: str) -> Month:
        month: Month = parsed(Month, self.months[name])
        return month

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return tuple(partition for name in self.months for partition in self.month(name).partitions)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Something of a source that no partition has: how many rows, columns or other things, and why."""

    source: str
    what: str
    count: int
    why: str

    @property
    def sentence(self) -> str:
        return f"{self.count:,} {self.what}{'s' if self.count != 1 else ''} of {self.source} {self.why}."


@dataclass(frozen=True, kw_only=True)
class Snapshot(Handle):
    """`unusable`: of the missing days those that the source has in a form that cannot be read, each with the reason.
    `left_out`: what no partition has."""

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
    """How often one rule was evaluated, and broken."""

    rule: str
    scope: str
    severity: str
    evaluated: int
    unexpected: int


@dataclass(frozen=True, kw_only=True)
class JoinCounts:
    """How a partition's rows met one side table: rows without a key, and with a key that the table lacks; and how many
    rows of the table have no key."""

    rows: int
    null_keys: int
    unmatched: int
    side_null_keys: int


@dataclass(frozen=True, kw_only=True)
class PartitionCheck:
    """The verdict on one partition, a pure function of its bytes and the rules; `broken` has the broken rules only.

    `unknown_columns` names the first of the `undeclared` columns; `cure` says which declaration would let a rejected
    partition pass. What ml/data/meaning.py compares with other days, without rows that are exact duplicates: `nulls` by
    column and `unmatched` rows by side table, where there are any, and a sample of each column's `categories`.
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
        """Rows to learn from: no duplicates, not set aside, with a label."""
        return self.rows - self.duplicates - self.quarantined - self.unlabelled


@dataclass(frozen=True, kw_only=True)
class Undeclared:
    """Columns that nobody declared: on how many days there were any, the most on one day, and the names that were
    there on most days, with how many."""

    days: int = 0
    most: int = 0
    names: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Move:
    """A share of a day's rows that went further than on any day before; `kind` and `name` are a Signal's."""

    day: str
    kind: str
    name: str
    share: float
    usual: float


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Sums over the partitions that may be used; `broken` counts those that may not, too. `unmatched`: by side table,
    the rows that met nothing in it."""

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
    """What the verdicts on a month's partitions come to, summed over those that may be used.

    `digest` says which rows may be used. `compared` is the key of what decides the comparison with the days before. It
    gives the days that `lost` their meaning, which `rejected` has too, and the shares of `unseen` rows by day and
    column.
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
    """`cleaned_days`: those whose rows were cleaned as they were judged, because they were there."""

    digest: str
    months: dict[str, CheckedMonth]
    left_out: dict[str, str]
    rules: int
    cleaned_days: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CleanedRows:
    """A partition's unique labelled rows, a pure function of its bytes; from the date `whole_from` on all are known."""

    file: FileRef
    whole_from: date


@dataclass(frozen=True, kw_only=True)
class CleanedPartition:
    """A usable partition: its cleaned rows, and which of them its verdict set aside."""

    day: str
    cleaned: CleanedRows
    quarantine: FileRef | None
    rows: int

    @property
    def digests(self) -> tuple[str, str, str]:
        """What decides which rows it gives."""
        return self.day, self.cleaned.file.digest, self.quarantine.digest if self.quarantine else ""


@dataclass(frozen=True, kw_only=True)
class CleanedDays:
    """What a month's usable partitions come to; from the date `whole_from` on all rows are known."""

    digest: str
    partitions: int
    rows: int
    whole_from: date


CleanedMonth = KeptMonth[CleanedDays]  # its results are CleanedPartitions, by the keys of their cleaned rows


@dataclass(frozen=True, kw_only=True)
class Cleaned(Handle):
    """Every usable partition of the snapshot with this manifest."""

    manifest: str
    digest: str
    months: dict[str, CleanedMonth]
    rows: int

    @property
    def partitions(self) -> int:
        return sum(month.sums.partitions for month in self.months.values())

    def of_month(self, name: str) -> tuple[CleanedPartition, ...]:
        return tuple(self.months[name].by_key(CleanedPartition).values())


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """Rows and share of the positive class (two classes) of one part; of test rows by day, also the share whose group
    has train rows too."""

    rows: int
    positive_share: float | None
    first_day: str | None
    last_day: str | None
    group_in_train: float | None = None


@dataclass(frozen=True, kw_only=True)
class Split(Handle):
    """The three parts and the encoder that was fitted on train rows."""

    digest: str
    encoder: FileRef
    train: SplitRows
    validation: SplitRows
    test: SplitRows
    fit_until: str | None
    test_digest: str
