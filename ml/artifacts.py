"""The values that stages hand to each other: small frozen handles, strict JSON, never data.

What a handle points to lies in the store under a key that `ml.paths` spells.
"""

import base64
import dataclasses
import functools
import zlib
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, TypeVar, cast

from pydantic import TypeAdapter

from ml.digests import canonical_json, digest_value

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
DecisionName = Literal["FIRST", "PROMOTE", "KEEP", "REJECT", "NOTHING_NEW"]
VerdictName = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT_JUDGED", "NOT_APPLICABLE"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one stage cost (`peak_mb`: the process, until its end), and how much of it had been done before."""

    stage: str
    seconds: float = 0.0
    reused: int = 0
    computed: int = 0
    peak_mb: int = 0


@dataclass(frozen=True, kw_only=True)
class Handle:
    work: Work = Work(stage="")


@dataclass(frozen=True, kw_only=True)
class Night:
    """One run to be made: which use case, as of which date, with which seed, and why again if again."""

    use_case: str
    as_of: date
    seed: int
    again: str | None = None
    use_case_digest: str
    code_digest: str
    lock_digest: str
    device: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """One stored file: its key in the store, size in bytes and SHA-256."""

    key: str
    size: int
    digest: str


def digest_of_files(files: tuple[FileRef, ...]) -> str:
    """Of a whole model: MLflow shows it as the version's tag `model_digest`."""
    return digest_value([[file.key, file.digest] for file in files])


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
    partition pass. What ml/meaning.py compares with other days, without rows that are exact duplicates: `nulls` by
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
    """A share of a day's rows that went further than on any day before; `kind` and `name` as in `ml.meaning.Signal`."""

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
class CheckedMonth(Counts):
    """The verdicts on a month's partitions, and their sums over those that may be used.

    `key` follows from all that decides them; `states` has the PartitionChecks by their own keys, packed; `digest`
    says which rows may be used. `compared` is the key of what decides the comparison with the days before; it gives the
    days that `lost` their meaning, which `rejected` has too, and the shares of `unseen` rows by day and column.
    """

    key: str
    states: str
    digest: str
    partitions: int
    rejected: dict[str, str]
    compared: str = ""
    lost: dict[str, str] = dataclasses.field(default_factory=dict)
    unseen: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checks(Handle, Counts):
    digest: str
    months: dict[str, CheckedMonth]
    left_out: dict[str, str]
    rules: int


@dataclass(frozen=True, kw_only=True)
class CleanedRows:
    """A partition's unique labelled rows, a pure function of its bytes; from the date `whole_from` on all are known."""

    file: FileRef
    whole_from: date


@dataclass(frozen=True, kw_only=True)
class Block:
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
class CleanedMonth:
    """A month's usable partitions: `states` has their Blocks by the keys of their cleaned rows, packed, and `key`
    follows from all that decides them."""

    key: str
    states: str
    digest: str
    partitions: int
    rows: int
    whole_from: date


@dataclass(frozen=True, kw_only=True)
class Blocks(Handle):
    """Every usable partition of the snapshot with this manifest."""

    manifest: str
    digest: str
    months: dict[str, CleanedMonth]
    rows: int

    def of_month(self, name: str) -> tuple[Block, ...]:
        return tuple(parsed(dict[str, Block], self.months[name].states).values())


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


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch's mean training loss, validation loss (log loss or RMSE) and validation score (F1 or R2).

    A class weight weighs both losses.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_score: float | None


@dataclass(frozen=True, kw_only=True)
class Fit(Handle):
    """`device` is where the fit ended; `notes` says what else than planned was done, for want of memory or of
    numbers, and whether the loss rose."""

    weights: FileRef
    best_epoch: int
    epochs: tuple[Epoch, ...]
    target_mean: float
    target_std: float
    device: str
    threads: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Upload(Handle):
    """A packaged model where it will stay: every file of it, and the answers it must give."""

    run_id: str
    folder: str
    files: tuple[FileRef, ...]
    digest: str
    threshold: float | None
    proof: FileRef


@dataclass(frozen=True, kw_only=True)
class Verified(Handle):
    files: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A registered version that the ledger names, with what decides whether it can be compared."""

    version: int
    run_id: str
    as_of: date
    fit_until: str | None
    target_digest: str
    split_digest: str
    folder: str
    files: tuple[FileRef, ...]

    @property
    def identity(self) -> "Identity":
        """Its run and its model's digest. MLflow's number is none: it begins again in a registry that was emptied."""
        return self.run_id, digest_of_files(self.files)

    @property
    def dated(self) -> bool:
        return self.fit_until is not None

    def dated_before(self, as_of: date) -> bool:
        """Whether a night of that date knows more days than this version's night did."""
        return self.dated and as_of > self.as_of


Identity = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A point estimate with its 90 % percentile interval; None, with a reason, where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """One predictor's scores on the test digest: candidate, champion, reference, best constant or one-column rule."""

    who: str
    description: str
    scores: dict[str, Interval]
    confusion: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True, kw_only=True)
class Evaluations(Handle):
    test_digest: str
    rows: int
    units: int
    unit: str
    models: dict[str, ModelScores]
    not_comparable: dict[str, str]
    evidence: FileRef
    answers: FileRef


@dataclass(frozen=True, kw_only=True)
class Verdict:
    gate: str
    verdict: VerdictName
    reason: str
    figures: dict[str, float | int | str | None]


@dataclass(frozen=True, kw_only=True)
class Judgement(Handle):
    verdicts: tuple[Verdict, ...]
    decision: DecisionName
    reason: str
    proved_better: bool
    blocked: str | None = None
    asks: bool = False
    against_rule: Verdict | None


@dataclass(frozen=True, kw_only=True)
class Trail:
    """Every handle of a night, in the order of its stages: what the record is written from."""

    snapshot: Snapshot
    checks: Checks
    blocks: Blocks
    split: Split
    fit: Fit
    upload: Upload
    verified: Verified
    evaluations: Evaluations
    judgement: Judgement

    @property
    def work(self) -> tuple[Work, ...]:
        return tuple(getattr(self, field.name).work for field in dataclasses.fields(self))


H = TypeVar("H")


@functools.cache
def adapter(kind: Hashable) -> TypeAdapter[Any]:
    """What reads and writes values of that type; building one takes a millisecond."""
    return TypeAdapter[Any](cast(Any, kind))


def to_json(value: Any) -> bytes:
    """Strict JSON of a handle: a NaN raises ValueError."""
    return canonical_json(
        adapter(cast(Hashable, type(value))).dump_python(value)
    )  # mode="json" makes a NaN in an Any null


def from_json(kind: type[H], data: bytes) -> H:
    """Inverse of `to_json`. Raises pydantic.ValidationError (a ValueError) for anything else."""
    return adapter(cast(Hashable, kind)).validate_json(data)


@functools.lru_cache(maxsize=512)
def parsed(kind: Hashable, text: str) -> Any:
    """A value that a handle holds as JSON, plain or `packed`; it is shared, so nobody changes it."""
    return adapter(kind).validate_json(unpacked(text))


def unpacked(text: str) -> str:
    """The JSON that a handle holds, plain, as all were in older stores, or `packed`."""
    return text if text.startswith(("{", "[")) else zlib.decompress(base64.b64decode(text)).decode()


def packed(kind: Hashable, value: Any) -> str:
    """Its JSON as a text that every night reads and few nights parse: a month's states are alike, and shrink by 7."""
    return base64.b64encode(zlib.compress(adapter(kind).dump_json(value))).decode()


def with_work(handle: Any, work: Work) -> Any:
    return dataclasses.replace(handle, work=work)
