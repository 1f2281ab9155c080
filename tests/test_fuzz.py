"""Whatever comes in from outside (suites, tables, words, forms) is taken or refused by a sentence: no crash, no hang.

The quick profile repeats the same examples; `make test-all` draws thousands of new ones.
"""

import gzip
import io
import json
import os
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import deployments.commands.backfill
import deployments.commands.demo_data
import deployments.commands.doctor
import deployments.commands.gc
import deployments.commands.moves
import deployments.prefect.night
import deployments.prefect.up
from deployments.cli import main
from expectations import suite
from expectations.suite import from_gx, load_rules, to_gx
from ml import Source, UseCase, errors
from ml.data.dataset import SideTable
from ml.data.derived import derived
from ml.data.handles import Manifest, Month, Partition
from ml.data.partitions import read_partition
from ml.data.reading import Declared, UnusablePartition, read_table
from ml.data.side_tables import join
from ml.days import month_of
from ml.digests import digest_bytes
from ml.errors import ConfigError, DataRejected, RetrainError
from ml.operations import scoring
from ml.operations.scoring import score_file
from ml.serving.derived import ROW
from ml.serving.rules import Rule
from ml.storage import registry
from ml.storage.json_form import to_json
from tests.operations.test_scoring import predict_raw
from tests.tiny import packaged, parcels, raw_parcels, sales, site, tills

QUICK = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
THOROUGH = settings(QUICK, max_examples=EXAMPLES, derandomize=False, print_blob=True)
PROFILES = pytest.mark.parametrize("profile", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow)], ids=["", "all"])
HANG_SECONDS = 60


@contextmanager
def no_hang() -> Iterator[None]:
    """Ends what does not end; what pandas or numpy warn of is no error outside of tests."""

    def end(*_: object) -> None:
        raise AssertionError(f"it took longer than {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(HANG_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_a_sentence(error: BaseException) -> bool:
    return str(error).isprintable() and len(str(error)) > 10


# Bytes


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with some of them changed, cut out, doubled or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 8, 100]))
        match draw(st.sampled_from(["change", "cut", "double", "insert", "end"])):
            case "change":
                data[at : at + length] = draw(st.binary(min_size=1, max_size=length))
            case "cut":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "insert":
                data[at:at] = draw(
                    st.one_of(st.binary(max_size=8), st.sampled_from([b"\0", b'"', b"\n", b"\xff", b","]))
                )
            case "end":
                del data[at:]
    return bytes(data)


# Suites

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["column", "amount", "critical", "row", "snapshot", "(", "[a", "(?:a+)+$", "\ud800", 10**400]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip
REAL = json.loads((Path(suite.__file__).parent / "flights.json").read_text("utf-8"))


@st.composite
def mutated_suites(draw: st.DrawFn) -> Any:
    """A real suite with something anywhere in it replaced, removed or added."""
    whole = json.loads(json.dumps(REAL))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = whole
        while isinstance(place, dict | list) and place and draw(st.booleans() if place is not whole else st.just(True)):
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            if not isinstance(place[key], dict | list) or draw(st.integers(0, 3)) == 0:
                if draw(st.booleans()):
                    place[key] = draw(JSON)
                else:
                    del place[key]
                break
            place = place[key]
        else:
            if isinstance(place, dict):
                place[draw(st.sampled_from(["meta", "kwargs", "scope", "regex", "min_value", "x"]))] = draw(JSON)
    return whole


def as_text(value: Any) -> bytes:
    return json.dumps(value).encode()


SUITES = st.one_of(
    st.binary(max_size=60),
    JSON.map(as_text),
    mutated_suites().map(as_text),
    mutated(as_text(REAL)),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"", b"\xff\xfe{}", b"1" * 5000, b'{"name": 1e999}']),
)


@PROFILES
def test_a_suite_is_read_or_refused(profile: settings) -> None:
    @profile
    @given(SUITES)
    def holds(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder, no_hang():
            path = Path(folder) / "flights.json"
            path.write_bytes(data)
            try:
                rules = load_rules(path)
            except ConfigError as error:
                assert is_a_sentence(error)
            else:
                assert rules
                assert all(isinstance(rule, Rule) and from_gx(to_gx(rule)) == rule for rule in rules)

    holds()


# Tables

CELLS = [
    "", "1", "-1", "1.5", "1e400", "-1e400", "inf", "-Infinity", "nan", "NaT", "None", "0x10", "1_000", "1,5", "\u0663",
    "9007199254740993", "1" * 400, "true", "2024-01-03 12:00:00", "2024-01-03T12:00:00+01:00", "9999-12-31",
    "10000-01-01", "0001-01-01", "0000-00-00", "2024-02-30", "1e9", '"', '""', '"a\nb"', "\0", "\r", "x" * 200_000, " ",
    "north", "\ufeff", "\U0001f600", "-0", "5e-324",
]  # fmt: skip
DAY = date(2024, 1, 3)


@cache
def real_rows() -> pd.DataFrame:
    return sales(DAY)


@st.composite
def csv_texts(draw: st.DrawFn) -> bytes:
    names = list(real_rows().columns)
    header = draw(
        st.one_of(st.just(names), st.permutations(names), st.lists(st.sampled_from([*names, "", "x"]), max_size=9))
    )
    rows = draw(st.lists(st.lists(st.sampled_from(CELLS), min_size=len(header), max_size=len(header) + 1), max_size=3))
    proper = real_rows().head(3).to_csv(index=False, header=False).splitlines() if header == names else []
    text = "\n".join([",".join(header), *proper, *(",".join(row) for row in rows)])
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1", "utf-7"]))
    return text.encode(encoding, errors="replace")


TIMES = [0, 1, -(2**52), 2**52, 253_402_300_800, 1_704_276_000, 1_704_276_000_000]
ARROW = {
    pa.int8(): [1, -1], pa.uint64(): [2**64 - 1, 1], pa.int64(): [2**53 + 1, 0], pa.float16(): [np.float16(1)],
    pa.float32(): [1.5, float("inf")], pa.float64(): [float("nan"), float("-inf"), 1e308], pa.bool_(): [True],
    pa.string(): ["1", "", "\0", "x" * 100_000], pa.large_string(): ["north"], pa.binary(): [b"\xff", b"1"],
    pa.dictionary(pa.int8(), pa.string()): ["north", "south"], pa.dictionary(pa.int8(), pa.int64()): [1, 2],
    pa.decimal128(38, 2): [Decimal("1.50")], pa.date32(): [date(2024, 1, 3), date(9999, 12, 31)],
    pa.timestamp("s"): TIMES, pa.timestamp("ms"): TIMES, pa.timestamp("us"): TIMES, pa.timestamp("ns"): TIMES,
    pa.timestamp("us", tz="Europe/Berlin"): TIMES[:2], pa.time64("us"): [1], pa.duration("s"): [1, 2**60],
    pa.list_(pa.int64()): [[1, 2], []], pa.struct([("a", pa.int64())]): [{"a": 1}],
    pa.map_(pa.string(), pa.int64()): [[("a", 1)]], pa.null(): [None],
}  # fmt: skip


@st.composite
def parquet_files(draw: st.DrawFn) -> bytes:
    """The declared columns, some with another type, some twice, some not there."""
    real = pa.Table.from_pandas(real_rows().head(4), preserve_index=draw(st.booleans()))
    names, arrays = list(real.column_names), list(real.columns)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(names) - 1))
        match draw(st.sampled_from(["type", "type", "type", "twice", "gone", "name"])):
            case "type":
                kind = draw(st.sampled_from(list(ARROW)))
                values = draw(st.lists(st.sampled_from([*ARROW[kind], None]), min_size=4, max_size=4))
                arrays[at] = pa.chunked_array([pa.array(values, kind)])
            case "twice":
                names.append(names[at])
                arrays.append(arrays[at])
            case "gone" if len(names) > 1:
                del names[at], arrays[at]
            case _:
                names[at] = draw(st.sampled_from(["", "index", "__index_level_0__", "x\n", names[at].upper()]))
    table = pa.table(arrays, names=names)
    if draw(st.booleans()):
        table = table.replace_schema_metadata(real.schema.metadata)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def bytes_of(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def files() -> st.SearchStrategy[tuple[str, bytes]]:
    csv = real_rows().to_csv(index=False).encode()
    parquet = bytes_of(lambda buffer: real_rows().to_parquet(buffer))
    texts = st.one_of(csv_texts(), csv_texts(), mutated(csv), st.binary(max_size=200))
    return st.one_of(
        st.tuples(st.just("csv"), texts),
        st.tuples(st.just("csv.gz"), st.one_of(texts.map(gzip.compress), mutated(gzip.compress(csv)), st.binary())),
        st.tuples(st.just("parquet"), parquet_files()),
        st.tuples(st.just("parquet"), st.one_of(mutated(parquet), st.binary())),
    )


def partition(folder: Path, ending: str, data: bytes) -> tuple[Any, UseCase, Manifest]:
    place, name = site(folder), f"{DAY}.{ending}"
    (place.data / "tills").mkdir(parents=True)
    (place.data / "tills" / name).write_bytes(data)
    seen = Partition(day=str(DAY), file=name, digest=digest_bytes(data))
    month = to_json(Month(partitions=(seen,), side_tables={})).decode()
    return place, tills(), Manifest(months={month_of(str(DAY)): month}, size=1)


DTYPES = {"number": "float64", "integer": "float64", "text": "str", "timestamp": "datetime64[us]"}


def without_times() -> tuple[str, bytes]:
    """Null is of every type, and has no day."""
    return "parquet", bytes_of(lambda buffer: real_rows().assign(at=None).to_parquet(buffer))


@PROFILES
def test_a_partition_is_read_as_declared_or_unusable(profile: settings) -> None:
    @profile
    @given(files())
    @example(without_times())
    def holds(file: tuple[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as folder, no_hang():
            place, use_case, manifest = partition(Path(folder), *file)
            try:
                read_table(place.data / "tills" / f"{DAY}.{file[0]}", Declared.of(use_case, use_case.source))
                found = read_partition(place, use_case, manifest, str(DAY))
                rows, unknown = found.rows, found.unknown_columns
            except UnusablePartition as error:
                assert "\n" not in str(error)
                return
        assert [str(rows[column.name].dtype) for column in use_case.columns] == [
            DTYPES[c.type] for c in use_case.columns
        ]
        assert all(name.isprintable() for name in unknown)
        assert rows["at"].isna().all() or set(rows["at"].dropna().dt.date) == {DAY}

    holds()


@PROFILES
def test_a_file_to_score_is_answered_row_by_row_or_refused(
    profile: settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = packaged()
    model.save(tmp_path / "data" / "model")
    monkeypatch.setattr(registry, "load_model", lambda folder: model)
    monkeypatch.setattr(scoring, "predict_raw", predict_raw)
    csv = raw_parcels(20).to_csv(index=False).encode()
    parquet = bytes_of(lambda buffer: raw_parcels(20).to_parquet(buffer))
    header = csv.splitlines()[0]
    cells = st.lists(st.sampled_from(CELLS), min_size=4, max_size=4).map(lambda row: ",".join(row).encode())
    written = st.lists(cells, max_size=4).map(lambda rows: b"\n".join([header, *rows]))
    given_files = st.one_of(
        st.tuples(st.sampled_from(["csv", "txt", "pkl"]), st.one_of(written, mutated(csv), st.binary(max_size=99))),
        st.tuples(st.just("parquet"), st.one_of(mutated(parquet), parquet_files(), st.binary(max_size=99))),
    )

    @profile
    @given(given_files)
    def holds(file: tuple[str, bytes]) -> None:
        path = tmp_path / f"rows.{file[0]}"
        path.write_bytes(file[1])
        with no_hang():
            try:
                scored = score_file(site(tmp_path), parcels(), tmp_path, path)
            except DataRejected as error:
                assert is_a_sentence(error)
                return
        assert list(scored.answers) == ["prediction", "probability", "broken_rule"]
        assert ((scored.answers["prediction"].isna()) == (scored.answers["broken_rule"].notna())).all()
        assert all(name.isprintable() for name in scored.ignored_columns)

    holds()


# Rows and joins

NO_KEYS = [None, float("nan"), pd.NA, pd.NaT, "", "  "]
ODD_KEYS = [
    "a", "A", "a ", "1", "1.0", "nan", "None", 0, 1, 2**53 + 1, 2**63, -1, 0.0, -0.0, 1.0, 0.1, float("inf"), True,
    False, Decimal("1"), Decimal("NaN"), date(2024, 1, 1), pd.Timestamp("2024-01-01"),
    pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("9999-12-31"),
    pd.Timedelta("1s"), b"a", np.float32(0.1), np.int8(1), [1], {"a": 1},
]  # fmt: skip
KEY_TYPES = ["object", None, "category", "str", "float64", "Int64", "float32"]


@st.composite
def key_columns(draw: st.DrawFn, values: list[Any]) -> pd.Series:
    """Some of the values, in a type that can hold them."""
    drawn = draw(st.lists(st.sampled_from([*values, *NO_KEYS]), min_size=1, max_size=6))
    try:
        return pd.Series(drawn, dtype=draw(st.sampled_from(KEY_TYPES)))
    except (TypeError, ValueError, ArithmeticError):
        return pd.Series(drawn, dtype="object")


@st.composite
def sides(draw: st.DrawFn) -> tuple[pd.Series, pd.Series]:
    of_few = draw(st.lists(st.sampled_from(ODD_KEYS), min_size=1, max_size=3))
    values = draw(st.sampled_from([of_few, of_few, ODD_KEYS]))
    return draw(key_columns(values)), draw(key_columns(values))


def is_no_key(value: Any) -> bool:
    return (not isinstance(value, list | dict) and bool(pd.isna(value))) or (
        isinstance(value, str) and not value.strip()
    )


@PROFILES
def test_two_columns_of_keys_are_joined_as_equal_values_say_or_refused(profile: settings) -> None:
    table = SideTable(name="stock", source=Source(folder="stock"), on=("code",), take=("left",))

    @profile
    @given(sides())
    def holds(keys: tuple[pd.Series, pd.Series]) -> None:
        rows = pd.DataFrame({"code": keys[0], "number": range(len(keys[0]))})
        side = pd.DataFrame({"code": keys[1], "left": np.arange(len(keys[1]), dtype=np.float64)})
        with no_hang():
            try:
                whole, counts = join(rows, table, side)
            except UnusablePartition as error:
                assert str(error).startswith("stock cannot be joined on code") and is_a_sentence(error)
                return
        assert whole["number"].tolist() == rows["number"].tolist()
        assert counts.null_keys == sum(map(is_no_key, keys[0]))
        assert counts.side_null_keys == sum(map(is_no_key, keys[1]))
        for own, place in zip(keys[0], whole["left"], strict=True):
            equal = [] if is_no_key(own) else [n for n, key in enumerate(keys[1]) if not is_no_key(key) and key == own]
            assert place in equal if equal else np.isnan(place)

    holds()


@PROFILES
def test_whatever_row_numbers_derive_returns_each_row_is_its_own_or_the_day_is_refused(profile: settings) -> None:
    rows = sales(DAY, 6)
    numbers = st.one_of(
        st.permutations(range(6)),
        st.lists(
            st.one_of(st.integers(-1, 7), st.sampled_from([None, 0.5, "0", True, float("inf"), 2**70])), max_size=8
        ),
    )

    @profile
    @given(numbers, st.permutations(range(6)))
    def holds(given_numbers: list[Any], order: list[int]) -> None:
        def derive(table: pd.DataFrame) -> pd.DataFrame:
            some = table.iloc[(order * 2)[: len(given_numbers)]]
            return some.assign(
                **{ROW: pd.Series(given_numbers, some.index if len(some.index) else None, dtype="object")}
            )

        with no_hang():
            try:
                found = derived(tills(derive=derive), rows)
            except UnusablePartition as error:
                assert str(error).startswith("derive of tills") and is_a_sentence(error)
                return
        assert found["sale"].equals(rows["sale"])

    holds()


# Words

COMMANDS = [
    "run",
    "status",
    "ledger",
    "score",
    "demo-data",
    "up",
    "promote",
    "rollback",
    "hold",
    "release",
    "data",
    "doctor",
    "gc",
    "backfill",
]
OPTIONS = [
    "--json", "--js", "--quiet", "--as-of", "--dry-run", "--seed", "--again", "--no-wait", "-o", "--output", "--yes",
    "--reason", "--version", "--to", "--mend", "--prefect-port", "--mlflow-port", "--help", "-h", "--", "-", "exclude",
    "plan", "apply", "resume", "pause", "--from", "--every", "--max-active", "--newest-first",
]  # fmt: skip
VALUES = [
    "exam_pass", "exam_pas", "flights", "nothing", "2024-03-01", "2024-13-01", "0001-01-01", "9999-12-31", "20240301",
    "2024-W01-1", "0", "-1", "1", "2147483648", "9" * 5000, "1e9", "nan", "", " ", "a\nb", "\x1b[31m", "\0", "\udcff",
    "\u0663", "x" * 300, "rows.csv", "missing.csv", "/", ".", "out.csv", "no/such/out.parquet", "out.txt", "=", "--x=y",
]  # fmt: skip
command, option, value = (st.sampled_from(kind) for kind in (COMMANDS, OPTIONS, VALUES))
WORDS = st.one_of(
    st.tuples(command, st.lists(st.one_of(option, value, st.text(max_size=6)), max_size=6)).map(
        lambda w: [w[0], *w[1]]
    ),
    st.tuples(command, value, option, value).map(list),
    st.builds(
        lambda name, first, last, every: [
            "backfill",
            "plan",
            name,
            f"--from={first}",
            f"--to={last}",
            f"--every={every}",
        ],
        st.sampled_from(["exam_pass", "flights"]),
        value,
        value,
        st.sampled_from(["1d", "0d", "2w", "9" * 30 + "d", "-1d", "* * * * *", "0 0 31 2 *", "0 3 * * mon", ""]),
    ),
    st.lists(st.text(max_size=8), max_size=3),
)
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RetrainError)}


class NoRegistry:
    """An MLflow in which nothing is."""

    def __init__(self, *_: object) -> None:
        pass

    def alias(self, name: str) -> None:
        return None


def never_run(_: object, name: str, request: dict[str, Any]) -> dict[str, Any]:
    from flows.retrain import RetrainRequest

    if name == "retrain":
        RetrainRequest.model_validate(request)
    raise errors.Busy("a use case runs once at a time", "another run is active", "wait for it to end")


@pytest.fixture
def bare_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any night, where what would start servers or write data does not."""
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr(deployments.prefect.night, "run_flow_here_or_there", never_run)
    monkeypatch.setattr(deployments.commands.backfill, "run_flow_here_or_there", never_run)
    monkeypatch.setattr(deployments.commands.demo_data, "write_demo_data", lambda *_: None)
    monkeypatch.setattr(deployments.prefect.up, "run_up", lambda *_, **ports: 0)
    monkeypatch.setattr(deployments.commands.moves, "Registry", NoRegistry)
    monkeypatch.setattr(deployments.commands.gc, "_collected", lambda *_, **options: [])
    monkeypatch.setattr(deployments.commands.doctor, "found_in", lambda *_, **options: [])
    return tmp_path


def said_by(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as ended:  # --help
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


@PROFILES
def test_any_words_end_in_an_exit_code_and_one_sentence(profile: settings, bare_home: Path) -> None:
    @profile
    @given(WORDS)
    def holds(words: list[str]) -> None:
        with no_hang():
            code, out, err = said_by(words)
        assert code in {0, 1, 2, 3}, words
        assert "Traceback" not in err
        assert "a command ends without an error" not in out + err, (words, out, err)
        if code == 0:
            assert err == ""
        elif code == 1 and "doctor" in words and not err:  # what it finds wrong is no error of the command
            assert "there is no folder" in out
        elif "--json" in words:
            document = json.loads(out)
            assert (document["exit_code"], document["error"] in ERRORS, err) == (code, True, "")
        else:
            kind, _, sentence = err.partition(": ")
            assert kind in ERRORS, (words, err)
            assert ", but " in sentence
            assert err.endswith("\n")
            assert err[:-1].isprintable(), (words, err)

    holds()


# Forms

FIELDS = ["use_case", "as_of", "seed", "again", "dry_run", "wait", "use_cases"]
ANYTHING = st.one_of(
    JSON,
    st.sampled_from(VALUES),
    st.dates(),
    st.decimals(),
    st.binary(max_size=4),
    st.sampled_from([2**31, 10**400, -1]),
)


@PROFILES
def test_a_form_is_taken_or_refused_by_the_name_of_its_field(profile: settings) -> None:
    from flows.retrain import RetrainRequest

    @profile
    @given(
        st.one_of(
            ANYTHING, st.dictionaries(st.sampled_from(FIELDS), ANYTHING), st.text().map(lambda t: {"use_case": t})
        )
    )
    def holds(form: Any) -> None:
        with no_hang():
            try:
                request = RetrainRequest.model_validate(form)
            except ValidationError as error:
                named = {str(each["loc"][0]) for each in error.errors() if each["loc"]}
                assert named <= {*FIELDS, *map(str, form if isinstance(form, dict) else ())}
                assert named or not isinstance(form, dict)
                return
        assert request.seed is None or 0 <= request.seed < 2**31
        assert request.again is None or len(request.again) <= 200
        assert request.as_of is None or type(request.as_of) is date

    holds()
