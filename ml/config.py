"""What a use case is: one typed object that says what to learn, from which rows, and what a model must prove.

A use case is a file `ml/use_cases/<name>.py`, or `<RETRAIN_PROJECT>/use_cases/<name>.py`, that defines `USE_CASE`.
"""

import dataclasses
import functools
import inspect
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, StringConstraints

from ml.calendars import Calendar
from ml.declaration import NUMBERS, refuse_impossible
from ml.digests import digest_value
from ml.errors import ConfigError, UsageError, did_you_mean
from ml.gates import Gate
from ml.models.estimators import NetworkEstimator
from ml.own_modules import OwnModules, digest_of_sources
from ml.serving.columns import Column
from ml.serving.output import TaskKind
from ml.serving.rules import LARGEST, LAST_YEAR, Between, Finite, InSet, InYears, NotNull, Rule, UniqueKey

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Days = Annotated[int, Field(ge=1, le=36_500)]
Fraction = Annotated[float, Field(ge=0, le=1)]

OPERATIONAL = {  # decide no result
    "schedule", "replay_from", "missed_nights", "missed_within_days", "retention", "on_inconclusive",
}  # fmt: skip
ROW = "row__"  # the column by which `derive` tells rows apart
UNKNOWN_FIELD = re.compile(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is predicted, by constants that no window changes.

    Binary: the second of `classes` holds where the column is over `above`, or equals `positive`. Multiclass: the column
    holds a class name. Regression: the column's value in `unit`; `log=True` learns its logarithm.
    """

    column: str
    kind: TaskKind = "binary"
    above: float | None = None
    positive: str | None = None
    classes: tuple[str, ...] = ()
    log: bool = False
    unit: str = ""

    def labels(self, series: pd.Series) -> NDArray[np.float64]:
        """(rows,) float64: class index or value; NaN where the row has no label."""
        if self.kind == "regression":
            return series.to_numpy(np.float64)
        if self.kind == "multiclass":
            codes = pd.Index(self.classes).get_indexer(pd.Index(series.astype("object"))).astype(np.float64)
            return np.where(codes < 0, np.nan, codes)
        holds = series > self.above if self.above is not None else series == self.positive
        return np.where(series.isna(), np.nan, holds.astype(np.float64))

    @property
    def digest(self) -> str:
        return digest_value(_fields(self))


@dataclass(frozen=True, kw_only=True)
class CsvForm:
    """How the CSV files of a source are written: what parts fields, fractions and thousands, and the text's encoding.

    The names of encodings are Python's, like "cp1252" or "utf-16".
    """

    separator: str = ","
    decimal: str = "."
    thousands: str = ""
    encoding: str = "utf-8"


@dataclass(frozen=True, kw_only=True)
class Source(CsvForm):
    """A folder of partitions: `YYYY-MM-DD.parquet` (or .csv, .csv.gz) a day, or a folder of such files a day, named
    like `day=2013-09-30` or `2013-09-30.parquet`; or, without days, `all.parquet` or the one table that is there.

    `folder` is absolute, below RETRAIN_HOME/data, or `s3://bucket/prefix` with the standard AWS variables.
    """

    folder: Text


@dataclass(frozen=True, kw_only=True)
class FileSource(CsvForm):
    """One Parquet or CSV (.csv.gz) file of all days, told apart by `time_column`.

    `file` is absolute or below RETRAIN_HOME/data.
    """

    file: str
    time_column: str


@dataclass(frozen=True, kw_only=True)
class DatabaseSource:
    """The rows of a query, read a day at a time by `time_column`, which holds times, dates or texts in ISO 8601.

    `database` names the environment variable with the address, as SQLAlchemy writes it. A day is read again where the
    number of its rows or the last `changed_column` changed; without one, every night.
    """

    database: str
    query: str
    time_column: str
    changed_column: str | None = None


@dataclass(frozen=True, kw_only=True)
class SideTable:
    """A table joined to the rows on `on`, `take` being added to them; a dated one is joined day by day."""

    name: str
    source: Source | FileSource | DatabaseSource
    on: tuple[str, ...]
    take: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What `retrain gc` leaves: the newest `versions` beside all that ever served; resumable stages and partition
    states for `state_days` after they were written; quarantined rows for `quarantine_days`."""

    versions: PositiveInt = 10
    state_days: PositiveInt = 30
    quarantine_days: PositiveInt = 90


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """One thing to learn.

    Days: `window_days` back from the last due day (as_of - label_delay_days - 1) are used, the last `test_days` as
    test, the `validation_days` before as validation; up to `max_missing_days` may be missing or unusable. `calendar`
    says which days have data (ml/calendars.py): only those are due, and test and validation count them. Rows: a day
    has at least `min_rows` after at most `max_quarantined_fraction` were set aside, and at most `max_unseen_fraction`
    of a column's categories are ones that no day before had (ml/meaning.py; 1 judges none); a number is clipped at
    `outlier_std` standard deviations; a category seen on fewer than `rare_below` train rows is unknown. `derive`
    turns a partition's source rows into rows with more columns: each has a number in `row__`, and must come back with
    it once. `key` names the columns that tell rows apart; where it is empty, equal rows are different ones. `group`
    names what rows depend on together: without time, a group lies in one part of the split. `replay_from` makes
    scheduled nights walk through old data, from that date on. `missed_nights` says which of the nights are made up for
    that came while the machine was down, `missed_within_days` how old they may be. `on_inconclusive` says whether the
    champion just stays where gates cannot tell, or an operator is asked. `question` is the title of reports; `demo`
    writes example data.
    """

    name: str
    question: Text
    source: Source | FileSource | DatabaseSource
    columns: tuple[Column, ...]
    target: Target
    key: tuple[str, ...]
    model: NetworkEstimator
    gates: tuple[Gate, ...]
    metric: str
    group: str | None = None
    side_tables: tuple[SideTable, ...] = ()
    derive: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    time_column: str | None = None
    time_zone: str = "UTC"
    known_at_column: str | None = None
    window_days: Days = 365
    label_delay_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    test_days: Days = 28
    validation_days: Days = 14
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    outlier_std: PositiveFloat = 8.0
    rare_below: NonNegativeInt = 10
    max_quarantined_fraction: Fraction = 0.05
    max_unseen_fraction: Fraction = 0.5
    max_missing_days: NonNegativeInt = 3
    calendar: Calendar = "daily"
    min_rows: PositiveInt = 1
    schedule: str | None = None
    replay_from: date | None = None
    missed_nights: Literal["latest", "skip", "all"] = "latest"
    missed_within_days: PositiveInt = 7
    on_inconclusive: Literal["keep", "ask"] = "keep"
    retention: Retention = Retention()
    demo: Callable[[Path], None] | None = None

    def __post_init__(self) -> None:
        refuse_impossible(self)

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns of a raw row that the model is given."""
        return tuple(column for column in self.columns if column.feature)

    @property
    def dated(self) -> bool:
        return self.time_column is not None

    @property
    def column_rules(self) -> tuple[Rule, ...]:
        """The row rules that the declared columns and the key imply."""
        rules = [rule for column in self.columns for rule in _rules_of(column, self.target)]
        unique = (UniqueKey(key=self.key),) if self.key else ()
        return (*rules, *self._time_rules, *unique)

    @property
    def _time_rules(self) -> Iterator[Rule]:
        """A time of known_at_column in the far future means that the row is not known yet."""
        for column in self.columns:
            if column.type == "timestamp":
                last = date.max.year if column.name == self.known_at_column else LAST_YEAR
                yield InYears(column=column.name, last=last)

    @property
    def reading_digest(self) -> str:
        """Digest of what decides how a partition's bytes become rows and labels, but for the rules."""
        names = ("source", "target", "time_column", "time_zone", "known_at_column", "derive", "side_tables")
        types = [[c.name, c.type, *_unit_of_time(c), *_newer(c)] for c in self.columns]
        return digest_value([types, {name: _plain(getattr(self, name)) for name in names}])

    @property
    def statistics_digest(self) -> str:
        """Digest of what decides which statistics are taken of rows."""
        fields = [[c.name, c.type, c.is_category, list(c.parts)] for c in self.features]
        return digest_value([fields, self.target.kind])

    @functools.cached_property
    def digest(self) -> str:
        """Digest of all that decides a result: functions count by their source, the estimator by its parameters."""
        return digest_value({name: value for name, value in _fields(self).items() if name not in OPERATIONAL})

    def today(self) -> date:
        return datetime.now(ZoneInfo(self.time_zone)).date()


def _rules_of(column: Column, target: Target) -> list[Rule]:
    rules: list[Rule] = []
    if not column.nullable and column.name != target.column:
        rules.append(NotNull(column=column.name))
    if column.minimum is not None or column.maximum is not None:
        rules.append(Between(column=column.name, minimum=column.minimum, maximum=column.maximum))
    if column.type in NUMBERS and not _is_bounded(column):
        rules.append(Finite(column=column.name))
    if values := _values_of(column, target):
        rules.append(InSet(column=column.name, values=values))
    return rules


def _is_bounded(column: Column) -> bool:
    """Whether its limits alone refuse what is not finite."""
    limits = (column.minimum, column.maximum)
    return all(limit is not None and abs(limit) <= LARGEST for limit in limits)


def _values_of(column: Column, target: Target) -> tuple[str, ...]:
    """What a text may be. A label of no declared class is not a missing one: it breaks the rule."""
    return target.classes if column.name == target.column and target.kind == "multiclass" else column.values


# What digests have always held, whatever its value. A field that came later is left out where it has its default, so
# that models which were judged before it came stay comparable.
ALWAYS = {
    "UseCase": "name question source columns target key model gates metric group side_tables derive time_column "
    "time_zone known_at_column window_days label_delay_days test_days validation_days seed outlier_std rare_below "
    "max_quarantined_fraction max_missing_days min_rows schedule replay_from missed_nights missed_within_days "
    "on_inconclusive retention demo",
    "Column": "name type nullable minimum maximum values feature category parts sensitive unit example",
    "Target": "column kind above positive classes log unit",
    "Source": "folder",
    "FileSource": "file time_column",
    "DatabaseSource": "database query time_column changed_column",
    "SideTable": "name source on take",
    "Retention": "versions state_days quarantine_days",
    "Gate": "metric why",
    "MinMetric": "floor",
    "NotWorse": "max_drop",
    "NetworkEstimator": "hidden activation loss optimizer learning_rate weight_decay batch_size epochs patience "
    "class_weight noise_std seed device",
}


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a part of a use case, in JSON's types, without later ones that have their default."""
    defaults = _defaults(type(value))
    fields = {name: _plain(getattr(value, name)) for name in defaults}
    newer = {name for name in fields if not _stood_always(type(value), name)}
    return {name: field for name, field in fields.items() if name not in newer or field != _plain(defaults[name])}


def _unit_of_time(column: Column) -> list[str]:
    """It decides how numbers are read as times; of a number it is a word for people."""
    return [column.unit] if column.unit and column.type == "timestamp" else []


def _newer(column: Column) -> list[Any]:
    """What a column says by later fields: each may decide how its values are read."""
    found = {name: field for name, field in _fields(column).items() if not _stood_always(type(column), name)}
    return [found] if found else []


def _defaults(kind: type) -> dict[str, Any]:
    """Every field or parameter with its default; None where it has none."""
    if not dataclasses.is_dataclass(kind):
        return {name: each.default for name, each in inspect.signature(kind).parameters.items()}
    made = {f.name: f.default_factory() for f in dataclasses.fields(kind) if callable(f.default_factory)}
    plain = {f.name: None if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(kind)}
    return plain | made


def _stood_always(kind: type, name: str) -> bool:
    """A field of a company's own class stands in every digest."""
    for owner in kind.__mro__:
        if name in ALWAYS.get(owner.__name__, "").split():
            return True
        if name in vars(owner).get("__annotations__", {}) or name in _parameters(owner):
            return owner.__module__.partition(".")[0] != "ml"
    return True


def _parameters(kind: type) -> list[str]:
    """Those of an estimator's own __init__."""
    own = vars(kind).get("__init__") if issubclass(kind, NetworkEstimator) else None
    return list(inspect.signature(own).parameters) if own else []


def _plain(value: Any) -> Any:
    """A JSON form of any field of a use case."""
    if isinstance(value, NetworkEstimator):
        return {"estimator": type(value).__name__, **_fields(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **_fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if callable(value):
        return inspect.getsource(value)
    return value


def use_case_files(project: Path | None) -> dict[str, Path]:
    """Every known use case by name, the project's own in place of ours; nothing is imported.

    Raises ConfigError for a folder that cannot be read.
    """
    folders = [Path(__file__).parent / "use_cases", *([project / "use_cases"] if project else [])]
    files = (path for folder in folders for path in _python_files(folder))
    return {path.stem: path for path in files if not path.stem.startswith("_")}


def _python_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".py")
    except OSError as error:
        raise ConfigError(
            f"the use cases' folder {folder} must be one that can be read",
            f"the system says '{error.strerror}'",
            "make it, or unset RETRAIN_PROJECT",
        ) from error


def require_known(name: str, project: Path | None) -> Path:
    """The use case's file. Raises UsageError with the known names and the nearest one."""
    files = use_case_files(project)
    if name in files:
        return files[name]
    raise UsageError(
        f"USE_CASE must be one of {', '.join(sorted(files))}",
        f"it is {name!r}",
        did_you_mean(name, files, _where_to_add(project)),
    )


def _where_to_add(project: Path | None) -> str:
    if project is None:
        return "choose one of them, or set RETRAIN_PROJECT to the folder that has use_cases/"
    return f"choose one of them, or add {project / 'use_cases'}/<name>.py"


@dataclass(frozen=True)
class Loaded:
    """A use case, and the sources that it was made of."""

    use_case: UseCase
    own: OwnModules

    @property
    def sources(self) -> str:
        """Digest of its file with every module of its own, as they run."""
        return digest_of_sources(self.own.main.source, self.own.digests)


_LOADED: dict[Path, Loaded] = {}
_LOADING = threading.RLock()


def load_use_case(name: str, project: Path | None) -> UseCase:
    """The USE_CASE object of the file. Raises UsageError for an unknown name, ConfigError for an unusable file."""
    return load(name, project).use_case


def load(name: str, project: Path | None) -> Loaded:
    """The use case as its file and modules are now; the same object as long as none of them changes."""
    path = require_known(name, project)
    with _LOADING:  # every stage of a night asks for it, and dates of a backfill side by side
        kept = _LOADED.get(path)
        if kept is None or not kept.own.is_as_read():
            kept = _LOADED[path] = _loaded(name, path, project)
        return kept


def _loaded(name: str, path: Path, project: Path | None) -> Loaded:
    own = OwnModules(name, path, _bytes_of(path), project)
    use_case = getattr(_module(own, path), "USE_CASE", None)
    if not isinstance(use_case, UseCase):
        seen = "it has none" if use_case is None else f"that is of type {type(use_case).__name__}"
        raise ConfigError(f"{path.name} must define USE_CASE, a UseCase", seen, "define it")
    if use_case.name != name:
        seen = f"it is {use_case.name!r}"
        raise ConfigError(f"name of USE_CASE in {path.name} must be that of its file", seen, f"write {name!r}")
    return Loaded(use_case, own)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        seen = f"the system says '{error.strerror}'"
        raise ConfigError(f"{path.name} must be a file that can be read", seen, "mend it") from error


def _module(own: OwnModules, path: Path) -> ModuleType:
    try:
        return own.run()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # what the file does of its own
        _refuse_unknown_field(error, path)
        says = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"{path.name} must be importable", f"{says}{_line_of(error, path)}", "mend the file"
        ) from error


def _refuse_unknown_field(error: BaseException, path: Path) -> None:
    """Raises ConfigError, with the nearest field, where the error is that of a mistyped one."""
    typed = UNKNOWN_FIELD.match(str(error)) if isinstance(error, TypeError) else None
    owner = _known_where_it_happened(error, typed[1]) if typed else None
    if typed is None or owner is None:
        return
    try:
        fields = list(inspect.signature(owner).parameters)
    except (TypeError, ValueError):
        return
    if not fields or typed[2] in fields:  # another thing of the same name
        return
    raise ConfigError(
        f"a field of {typed[1]} in {path.name} must be one that it has",
        f"{typed[2]!r} is none{_line_of(error, path)}",
        did_you_mean(typed[2], fields, f"write one of {', '.join(fields)}"),
    ) from error


def _known_where_it_happened(error: BaseException, name: str) -> Callable[..., Any] | None:
    """What has this name there, or a class that inherits from it: that may be a function which the file calls."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    classes = [each for each in frame.f_globals.values() if isinstance(each, type)]
    heirs = (each for each in classes if name in [base.__name__ for base in each.__mro__])
    found = frame.f_globals.get(name) or next(heirs, None)
    return found if callable(found) else None


def _line_of(error: BaseException, path: Path) -> str:
    """Where in the file it happened; a SyntaxError says so itself."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""
