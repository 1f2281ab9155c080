"""What must never happen, tried: a pickle is loaded, a secret or a sensitive value is told, a name leaves its place.

That servers listen on loopback only is held by `tests/deployments/test_servers.py`.
"""

import ast
import gzip
import io
import logging
import os
import pickle
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.cli import main
from deployments.prefect import night, up
from deployments.prefect.announcement import announce, running_servers
from expectations.suite import load_rules
from ml import DatabaseSource, FileSource, SideTable, Source
from ml.data.cleaning import from_arrow
from ml.data.handles import CleanedRows
from ml.data.reading import Declared, UnusablePartition, read_table
from ml.data.sources import bringing
from ml.data.sources.folder import source_folder
from ml.errors import ConfigError, Corrupt, DataRejected, RetrainError, StoreUnavailable, UsageError
from ml.models import packaging
from ml.serving.model import PackagedModel
from ml.settings import Settings
from ml.storage import kept, paths
from ml.storage.ledger import Ledger
from ml.storage.s3_errors import in_words
from ml.storage.store import open_store, put_file
from tests import tiny
from tests.damage import FILES, judged_night, spoil_all
from tests.story import SHOP, Shop
from tests.tiny import cleaned, packaged, parcel_rows, parcels, site, tills

SOURCES = ("ml", "expectations", "tasks", "flows", "deployments")
LOADERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"read_pickle", "to_pickle", "unsafe_load", "full_load"}
READS_NOTHING = {("joblib", "parallel_config")}  # of a module that also has a pickler


def loads_code(source: str) -> list[str]:
    """What in a source runs bytes that are read: imports of picklers, eval, torch.load, allow_pickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            if all((module, alias.name) in READS_NOTHING for alias in node.names):
                continue
            names = [alias.name for alias in node.names] + [module]
            found += [name for name in names if name.partition(".")[0] in LOADERS]
            found += ["torch.load"] if getattr(node, "module", "") == "torch" and "load" in names else []
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in CALLS | {"torch.load"} or called.rpartition(".")[2] in METHODS else []
            refused = ("allow_pickle", "False")
            words = [(word.arg, ast.unparse(word.value)) for word in node.keywords]
            found += [called for word in words if word[0] in {"allow_pickle", "weights_only"} and word != refused]
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import joblib.numpy_pickle as j",
        "from joblib import load, parallel_config",
        "def f():\n    from cloudpickle import loads",
        "import torch\ntorch.load(f)",
        "from torch import load",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "pd.read_pickle(f)",
        "eval('1')",
        "exec(code)",
    ],
)
def test_what_runs_read_bytes_is_seen(source: str) -> None:
    assert loads_code(source)


def test_our_sources_run_no_read_bytes() -> None:
    root = Path(paths.__file__).parents[2]
    files = [file for folder in SOURCES for file in (root / folder).rglob("*.py")]
    assert len(files) > 50
    assert {file: found for file in files if (found := loads_code(file.read_text("utf-8")))} == {}
    assert loads_code("network.eval()\nspec.loader.exec_module(module)") == []


class Trap:
    """Unpickled, it makes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[bytes]:
    """A pickle that makes a marker if it is loaded; at the end there is none."""
    marker = tmp_path / "unpickled"
    pickled = pickle.dumps(Trap(marker))
    pickle.loads(pickled)
    marker.unlink()  # so it works, and would be seen
    yield pickled
    assert not marker.exists(), "somebody loaded a pickle"


def torch_zip(trap_of: Path) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(Trap(trap_of), buffer)
    return buffer.getvalue()


def extension_parquet(trap: bytes) -> bytes:
    """Parquet whose column claims a type that Arrow once unpickled (CVE-2023-47248)."""
    marked = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": trap}
    field = pa.field("amount", pa.binary(), metadata=marked)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"amount": [b"1", b"2"]}, schema=pa.schema([field])), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["all.parquet", "all.csv", "all.csv.gz", "all.pkl", "all.pickle.gz"])
def test_a_pickle_is_no_table(tmp_path: Path, trap: bytes, name: str) -> None:
    for data in (trap, gzip.compress(trap)):
        (tmp_path / name).write_bytes(data)
        try:
            rows = read_table(tmp_path / name, Declared.of(tills(), tills().source))
        except UnusablePartition:
            continue
        assert name.endswith((".csv", ".pkl")), "text of one line is a header"
        assert len(rows) == 0


def test_a_type_that_hides_a_pickle_is_not_made(tmp_path: Path, trap: bytes) -> None:
    (tmp_path / "all.parquet").write_bytes(extension_parquet(trap))
    rows = read_table(tmp_path / "all.parquet", Declared.of(tills(), tills().source))
    assert list(rows["amount"]) == [b"1", b"2"]


def test_a_pickle_in_place_of_a_suite_is_refused(tmp_path: Path, trap: bytes) -> None:
    (tmp_path / "tills.json").write_bytes(trap)
    with pytest.raises(ConfigError, match="readable as strict JSON"):
        load_rules(tmp_path / "tills.json")


def test_a_pickle_in_place_of_a_ledger_entry_is_corrupt(tmp_path: Path, trap: bytes) -> None:
    store = open_store(str(tmp_path / "store"))
    store.put(paths.ledger_entry("tills", 1), trap)
    with pytest.raises(Corrupt, match="a ledger entry has the bytes that were written"):
        Ledger(store, "tills").head()


def test_a_pickle_in_place_of_a_kept_handle_or_of_its_file_is_made_again(
    tmp_path: Path, trap: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path / "store"))
    results = kept.Kept(store, CleanedRows, str)

    def make() -> CleanedRows:
        return CleanedRows(file=put_file(store, "a/block", b"rows"), whole_from=date(2024, 1, 1))

    made = results.resume_or_make("a/handle.json", make)[0]
    for key in ("a/handle.json", "a/block"):
        store.put(key, trap)
        caplog.clear()
        assert results.resume_or_make("a/handle.json", make)[0] == made
        assert caplog.messages == [f"{key} is gone or damaged and is made again."]
    assert store.get("a/block") == b"rows"


class Kept:
    """Checkpoints that hold these bytes."""

    def __init__(self, held: bytes) -> None:
        self.held = held

    def load(self) -> bytes:
        return self.held

    def save(self, checkpoint: bytes) -> None:
        pass

    def step(self, step: Any, total: int) -> None:
        pass


def test_a_pickle_in_place_of_a_checkpoint_starts_over(
    tmp_path: Path, trap: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    use_case = parcels()
    rows = cleaned(use_case, parcel_rows(100))
    for number, data in enumerate((trap, torch_zip(tmp_path / "unpickled"))):
        caplog.clear()
        fitted = use_case.model.fit_rows(tiny.job(use_case, tmp_path / str(number), rows, rows, diary=Kept(data)))
        assert caplog.messages == ["The checkpoint is damaged or of another fit: training starts over."]
        assert len(fitted.steps) == use_case.model.epochs


PICKLED_MODEL = """
flavors:
  python_function:
    loader_module: mlflow.pyfunc.model
    python_model: python_model.pkl
    env: python_env.yaml
    python_version: 3.11.2
"""


def test_a_pickle_in_a_model_is_never_loaded(tmp_path: Path, trap: bytes) -> None:
    """Not by our own reader, nor by MLflow's: what MLflow is given was listed and hashed."""
    folder, store = tmp_path / "model", open_store(str(tmp_path / "store"))
    packaging.write_model(packaged(), parcels().model, folder)
    for name in ("kind/weights.safetensors", "model.json"):
        for data in (trap, torch_zip(tmp_path / "unpickled")):
            whole = (folder / "data" / "model" / name).read_bytes()
            (folder / "data" / "model" / name).write_bytes(data)
            with pytest.raises(Exception, match=r"(?i)header|utf-8|expecting|decode|invalid"):
                PackagedModel.load(folder / "data" / "model")
            (folder / "data" / "model" / name).write_bytes(whole)

    files = packaging.upload_folder(store, folder, "m")
    store.put("m/python_model.pkl", trap)
    fetched = packaging.fetch_model(store, "m", files, tmp_path / "cache")
    assert not (fetched / "python_model.pkl").exists()
    for name, data in {"MLmodel": PICKLED_MODEL.encode(), "data/model/kind/weights.safetensors": trap}.items():
        whole = store.get(f"m/{name}")
        store.put(f"m/{name}", data)
        with pytest.raises(Corrupt, match="must have SHA-256"):
            packaging.fetch_model(store, "m", files, tmp_path / "cache")
        store.put(f"m/{name}", whole or b"")


def test_a_pickle_in_place_of_what_up_announced_is_as_if_it_did_not_run(tmp_path: Path, trap: bytes) -> None:
    place = site(tmp_path)
    (place.home / "up.json").write_bytes(trap)
    assert running_servers(place) is None


@pytest.mark.slow
def test_pickles_in_place_of_all_files_of_a_night_are_made_again(
    shop: Shop, trap: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    amount = pd.read_parquet(shop.file("2024-03-13"))["amount"].copy()
    amount[:3] = -5.0
    shop.rewrite("2024-03-13", amount=amount)
    undisturbed = judged_night(shop, monkeypatch)
    for kind in FILES:
        spoil_all(shop, kind, lambda _: trap)
    assert judged_night(shop, monkeypatch) == undisturbed


# No secret and no sensitive value is told

PASSWORDS = {"MLflow": "5up3r-mlflow", "Prefect": "5up3r-prefect", "AWS": "wJa1rXUtnFEMI"}
PERSON, INCOME, FAITH = "Quillfeather", 918273.25, "Vlorbian"
SENSITIVE = [PERSON, "918273", "918,273", "9.18273", FAITH]
CONTROL = "Control-Word-77"  # told on purpose: who does not find it searches badly

CLINIC = (
    SHOP.replace('name="shop"', 'name="clinic"')
    .replace('folder="shop"', 'folder="clinic"')
    .replace(
        '        Column(name="country"',
        """        Column(name="person", type="text", sensitive=True, feature=False),
        Column(name="income", minimum=0, sensitive=True),
        Column(name="faith", type="text", values=("old", "new"), sensitive=True),
        Column(name="country\"""",
    )
    .replace("    metric=", "    derive=derive,\n    metric=")
    .replace(
        "\nUSE_CASE",
        """
def derive(rows):
    if (rows["amount"] == 777.5).any():
        raise ValueError(f"nothing is known of {rows['person'][0]} with {rows['income'][0]}")
    return rows


USE_CASE""",
    )
)


class Clinic:
    """A use case with sensitive columns, in the home of a shop."""

    def __init__(self, shop: Shop) -> None:
        self.settings = Settings.from_environment()
        assert self.settings.project is not None
        (self.settings.project / "use_cases" / "clinic.py").write_text(CLINIC, encoding="utf-8")
        self.folder = self.settings.data / "clinic"
        self.folder.mkdir()
        for file in sorted((shop.settings.data / "shop").glob("*.parquet")):
            rows = pd.read_parquet(file)
            more = {"person": [f"{PERSON} {n}" for n in rows["basket"]], "income": 1000.0 + rows["basket"] % 7}
            rows = rows.assign(**more, faith=["old", "new"] * (len(rows) // 2))
            rows.loc[:4, "income"] = INCOME
            rows.to_parquet(self.folder / file.name)

    def rows(self, day: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / f"{day}.parquet")

    def night(self, as_of: str, **request: Any) -> dict[str, Any]:
        return night.run_here({"use_case": "clinic", "as_of": as_of, **request})

    def rejected_with(self, day: str, name: str, data: bytes) -> str:
        """The sentence of a night whose newest day is this file."""
        whole = (self.folder / f"{day}.parquet").read_bytes()
        (self.folder / f"{day}.parquet").unlink()
        (self.folder / name).write_bytes(data)
        with pytest.raises(DataRejected) as caught:
            self.night(str(pd.Timestamp(day) + pd.Timedelta(days=1))[:10], again=f"{CONTROL} {day}")
        (self.folder / name).unlink()
        (self.folder / f"{day}.parquet").write_bytes(whole)
        return str(caught.value)


def parquet(rows: pd.DataFrame) -> bytes:
    return rows.to_parquet(index=False)


def everything_in(database: Path) -> str:
    """Every cell of every table."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return "\n".join(str(row) for name in tables for row in connection.execute(f'select * from "{name}"'))


def readable(path: Path) -> str:
    if path.suffix == ".db":
        return everything_in(path)
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_csv()
    if path.suffix == ".arrow":
        return from_arrow(path.read_bytes()).to_csv()
    return path.read_bytes().decode(errors="replace")


def files_below(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))]
    return {path.relative_to(folder).as_posix(): readable(path) for path in sorted(found)}


def holders(places: dict[str, str], word: str) -> set[str]:
    return {place for place, text in places.items() if word in text}


@pytest.fixture
def planted(shop: Shop, prefect: str, mlflow_server_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Passwords in every variable that may hold one."""
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, PASSWORDS["AWS"])
    server = urlsplit(mlflow_server_url)
    with_password = server._replace(netloc=f"nurse:{PASSWORDS['MLflow']}@{server.netloc}").geturl()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", with_password)
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", f"nurse:{PASSWORDS['Prefect']}")
    with temporary_settings({PREFECT_API_AUTH_STRING: f"nurse:{PASSWORDS['Prefect']}"}):
        yield


def test_no_night_tells_a_secret_or_a_sensitive_value(
    shop: Shop,
    prefect: str,
    planted: None,
    home: Path,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither a good night with rows set aside nor nights over four kinds of bad files: in logs, Prefect, MLflow, the
    ledger, reports, errors and packaged models. Rows lie where rows are kept, and nowhere else."""
    from prefect.logging.handlers import APILogHandler

    from deployments.prefect.held import send_what_is_held, wait_until_recorded

    since, clinic, day = datetime.now(UTC), Clinic(shop), "2024-03-14"
    caplog.set_level(logging.DEBUG, "retrain")
    logging.getLogger("retrain").handlers = [APILogHandler(), caplog.handler]  # whatever earlier tests have left
    rows = clinic.rows(day)
    csv = rows.to_csv(index=False)
    said = [
        clinic.rejected_with(day, f"{day}.parquet", parquet(rows.assign(income=f"{INCOME} {PERSON}"))),
        clinic.rejected_with(day, f"{day}.parquet", parquet(rows.assign(amount=777.5))),
        clinic.rejected_with(day, f"{day}.csv", f"{csv}1,{PERSON},{INCOME},{FAITH}{',9' * 20}\n".encode()),
        clinic.rejected_with(day, f"{day}.csv", csv.replace("2024-", f"{PERSON}-", 1).encode()),
        clinic.rejected_with(day, f"{day}.csv", csv.replace(f"{INCOME}", FAITH, 1).encode()),
        clinic.rejected_with(day, f"{day}.parquet", parquet(rows.assign(income=-INCOME))),
    ]
    assert len(set(said)) == 6, "each names its file"

    rows.loc[:2, "income"] = -INCOME
    rows.loc[3:4, "faith"] = FAITH
    rows.to_parquet(clinic.folder / f"{day}.parquet")
    clinic.night("2024-03-15", again=CONTROL)
    answer = shop.settings.home / "answers.csv"
    assert main(["score", "clinic", str(clinic.folder / f"{day}.parquet"), "-o", str(answer)]) == 0
    rows.assign(income=PERSON).to_parquet(clinic.folder / "wrong.parquet")
    assert main(["score", "clinic", str(clinic.folder / "wrong.parquet"), "-o", str(answer)]) == 3
    assert main(["ledger", "clinic"]) == 0
    send_what_is_held()
    wait_until_recorded(prefect, since)

    terminal = capfd.readouterr()
    places = {"log": caplog.text, "terminal": terminal.out + terminal.err, "errors": "\n".join(said)}
    places |= {f"home/{name}": text for name, text in files_below(shop.settings.home).items()}
    places |= {f"Prefect/{name}": text for name, text in files_below(home).items()}
    server = next(tmp_path_factory.getbasetemp().glob("mlflow*/mlflow.db"))
    places["MLflow"] = everything_in(server)

    told = holders(places, CONTROL)
    assert "Prefect/prefect/prefect.db" in told
    assert all("Took a snapshot of 74 partitions" in places[log] for log in ("log", "Prefect/prefect/prefect.db"))
    assert any(place.startswith("home/store/ledger/clinic/") for place in told)
    assert "clinic" in places["MLflow"]
    for secret in PASSWORDS.values():
        assert holders(places, secret) == set(), secret
    raw = ("home/data/", "home/store/partitions/", "home/store/stages/clinic/upload/")
    for value in SENSITIVE:
        leaks = {place for place in holders(places, value) if not place.startswith(raw)}
        assert leaks == set(), value
    kept = {place.rpartition("/")[2] for place in holders(places, "918273") if not place.startswith("home/data")}
    proofs = {"proof.parquet", "source-proof-0.parquet", "source-proof-1.parquet"}
    assert kept == {"block.arrow", "statistics.json", "quarantine.parquet", *proofs}
    tables = [text for place, text in places.items() if place.endswith("answers.parquet")]
    heads = {table.splitlines()[0] for table in tables}
    assert heads == {",label,answer,probability_0,probability_1"}, "figures are drawn from them alone"


def test_times_that_cannot_be_read_are_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one file of all days, and of a database: in a row that is shifted they may be anything."""
    place = site(tmp_path)
    place.data.mkdir()
    (place.data / "a.csv").write_text(f"at,amount\n2024-01-01,1\n{PERSON},{INCOME}\n")
    with pytest.raises(DataRejected, match=r"at of a\.csv must be a timestamp in every row") as of_file:
        bringing.bring(place, FileSource(file="a.csv", time_column="at"), tills().columns)
    monkeypatch.setenv("PEOPLE", f"sqlite:///{tmp_path / 'people.db'}")
    with closing(sqlite3.connect(tmp_path / "people.db")) as connection, connection:
        connection.execute("create table people as select ? as at", (PERSON,))
    source = DatabaseSource(database="PEOPLE", query="select at from people", time_column="at")
    with pytest.raises(DataRejected, match="at of the query on PEOPLE must be timestamps") as of_database:
        bringing.bring(place, source, tills().columns)
    for caught in (of_file, of_database):
        assert PERSON not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_pages_show_no_password_and_nobody_else_reads_where_the_servers_are(shop: Shop, planted: None) -> None:
    place = Settings.from_environment()
    with ExitStack() as children:
        started, servers = up._start_servers(place, 0, 0, children)
    assert started == []
    assert "***@127.0.0.1" in servers.mlflow_ui
    assert "5up3r" not in servers.prefect_ui + servers.mlflow_ui
    with announce(place, servers):
        assert stat.S_IMODE((place.home / "up.json").stat().st_mode) == 0o600


def test_a_password_in_the_address_of_prefect_is_refused_and_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://nurse:5up3r@127.0.0.1:9/api")
    assert main(["run", "exam_pass"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ConfigError: PREFECT_API_URL holds no password")
    assert "5up3r" not in said


ADDRESSES = [
    "postgresql://nurse:5up3r@db/mlflow",
    "postgresql+psycopg2://nurse:5up3r@db:5432/mlflow?sslmode=require",
    "postgresql://db/mlflow?user=nurse&password=5up3r&sslmode=require",
    "https://nurse:5up3r@host/api",
    "https://:5up3r@host",
    "https://5up3r@host",
    "https://nurse:5up3r/with@slash@host/api",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_error_holds_the_password_of_an_address(address: str) -> None:
    for parts in ((f"{address} answers", "it does not"), ("it answers", f"'{address}' does not", f"set {address}")):
        for error in (StoreUnavailable(*parts), RetrainError(str(StoreUnavailable(*parts)))):
            assert "5up3r" not in f"{error} {error.args} {error.rule} {error.value} {error.next_step}"
    assert "db" in str(ConfigError(f"{address} answers", "no")) or "host" in str(
        ConfigError(f"{address} answers", "no")
    )


def test_an_s3_endpoint_with_a_password_is_told_without_it() -> None:
    from botocore.exceptions import EndpointConnectionError

    error = in_words(EndpointConnectionError(endpoint_url="https://nurse:5up3r@s3.example"), "s3://bucket")
    assert "***@s3.example" in str(error)
    assert "5up3r" not in f"{error} {error.args}"


# No name leaves its place

DOTS_AND_SLASHES = ["\u2025", "\u2024", "\u2215", "\u2044", "\uff0f", "\uff0e\uff0e"]  # that look like .. and /
NASTY = ["..", ".", "", "/", "//", "\\", "\0", "\n", "\x1b", *DOTS_AND_SLASHES, "~", "a" * 300, "%2e%2e", " "]
NAMES = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=4), st.just("a")), max_size=5).flatmap(
    lambda parts: st.sampled_from(["/", ""]).map(lambda between: between.join(parts))
)
quick = settings(max_examples=60, deadline=None)


@quick
@given(NAMES)
def test_a_key_is_refused_or_stays_in_the_store(key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/in/store")
        try:
            store.put(key, b"x")
        except UsageError:
            assert list(Path(folder).rglob("*")) == []
        else:
            assert [p for p in Path(folder).rglob("*") if p.is_file()] == [Path(folder, "in/store", *key.split("/"))]
            assert store.get(key) == b"x"


@quick
@given(NAMES)
def test_a_name_of_a_use_case_or_side_table_is_refused_or_a_plain_word(name: str) -> None:
    side = SideTable(name=name, source=Source(folder="a"), on=("shop",), take=("items",))
    for changes in ({"name": name}, {"side_tables": (side,)}):
        try:
            tills(**changes)
        except ConfigError as error:
            assert " must " in str(error)
        else:
            assert name.isascii()
            assert name.isidentifier()
            assert paths.safe_key(name) == name
            assert paths.safe_key(paths.stage_file(name, "split", "0" * 64, "statistics.json"))


@quick
@given(NAMES)
def test_a_source_is_refused_absolute_or_below_the_data_folder(folder: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        place = site(Path(home))
        try:
            found = source_folder(place, tills(source=Source(folder=folder)).source)
        except ConfigError as error:
            assert str(error).startswith("folder of the source of tills")
        else:
            inside = Path(os.path.normpath(found)).is_relative_to(place.data)
            assert inside or folder.strip().startswith("/")


WORDS = [
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "shop/../shop",
    "shop\0",
    "shop\n",
    "SHOP",
    "\u0455hop",
    "a" * 5000,
    "",
    "sh\x1b[31mop",
]


@pytest.mark.parametrize("name", WORDS, ids=ascii)
def test_a_command_about_a_name_that_is_none_does_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "deep" / "home"))
    by_name = ["--yes", "--reason", "a test"]
    for words in (
        ["run", name],
        ["status", name],
        ["ledger", name],
        ["hold", name, *by_name],
        ["rollback", name, *by_name],
        ["score", name, "x.csv", "-o", "y.csv"],
        ["data", "exclude", name, "2024-03-01", *by_name],
        ["data", "exclude", "exam_pass", name, *by_name],
    ):
        assert main(words) == 2, words
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert said.err[:-1].isprintable()
    folder = tmp_path / "deep"
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*")} <= {"home", "home/tmp"}
    assert [p.name for p in tmp_path.iterdir()] in (["deep"], [])
