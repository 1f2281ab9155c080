"""Packages a candidate as files, and proves that they answer as the trained model did.

The files are in MLflow's format: the model's data and a copy of `ml/serving`, so that loading them needs nothing of
this project.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import ml.serving
from ml.data.cleaning import from_parquet, to_parquet
from ml.data.dataset import Reading, Table
from ml.digests import digest_sources
from ml.errors import ConfigError, Corrupt
from ml.models.protocol import Learner
from ml.models.source_rows import ANSWER, sentence
from ml.serving.columns import Column, conform
from ml.serving.model import OF_SOURCE, OWN, RAW
from ml.serving.own_code import OwnCode
from ml.serving.rules import Between, InSet, Rule, UniqueKey
from ml.storage import registry
from ml.storage.paths import SERVING_PREFIX
from ml.storage.records import FileRef
from ml.storage.store import DiskStore, Store, get_file, put_file

if TYPE_CHECKING:
    from ml.serving.model import PackagedModel

SERVING = Path(ml.serving.__file__).parent
KINDS = "kinds"  # the folder of the serving code with one module for each kind of model
NEEDED_BY_ALL = ("mlflow", "numpy", "pandas", "pyarrow")
PROOF_ROWS = 256
ENDING = re.compile(r"\w+( of [\w.]+)? at [\w.<> -]+:\d+")  # how `ml.models.proof_process` names an exception


def serving_files(kinds: Iterable[str], source: Path = SERVING) -> list[Path]:
    """The files of the serving code that travel with a model of these kinds, sorted."""
    travelling_kinds = {"__init__", *kinds}
    files = (path for path in source.rglob("*.py") if path.parent.name != KINDS or path.stem in travelling_kinds)
    return sorted(files)


def copy_code(kinds: Iterable[str], own: OwnCode, folder: Path, source: Path = SERVING) -> Path:
    """Writes the package that travels with a model of these kinds: a copy of the serving code, and a company's own
    modules in a folder of it. Returns the package, whose name contains the digest of all of its files."""
    copy = folder / "code"
    for file in serving_files(kinds, source):
        (copy / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy / file.relative_to(source))
    own.save(copy / OWN)
    return copy.rename(folder / f"{SERVING_PREFIX}{digest_sources(copy, copy.rglob('*.py'))[:16]}")


def write_model(
    model: "PackagedModel", learner: Learner, folder: Path, source: Path = SERVING, *, libraries: Iterable[str] = ()
) -> None:
    """Writes an MLflow model folder. Loading it needs nothing of this project. `libraries` are those that the company's
    own code in it imports."""
    with tempfile.TemporaryDirectory() as scratch:
        code = copy_code(learner.served, model.own, Path(scratch), source)
        model.save(Path(scratch) / "model")
        registry.write_pyfunc(
            folder,
            code=code,
            data=Path(scratch) / "model",
            columns=model.columns,
            output=model.output,
            example=synthetic_rows(model.columns, model.rules),
            libraries=dict.fromkeys((*NEEDED_BY_ALL, *learner.needs, *sorted(libraries))),
            takes=sentence(model.columns, model.source, model.raw_only),
            others=() if model.source is None else (*model.source.known, *model.source.joined),
        )


def synthetic_rows(columns: tuple[Column, ...], rules: tuple[Rule, ...]) -> pd.DataFrame:
    """One made-up row, with nothing from data: each column's declared example, or a value that its own rules allow."""
    of_column = {column.name: [rule for rule in rules if rule.columns == (column.name,)] for column in columns}
    return pd.DataFrame({column.name: [_synthetic(column, of_column[column.name])] for column in columns})


def _synthetic(column: Column, rules: list[Rule]) -> object:
    if column.example is not None:
        return column.example
    if column.type == "timestamp":
        return pd.Timestamp("2000-01-01T12:00:00")
    if column.type == "text":
        return next((rule.values[0] for rule in rules if isinstance(rule, InSet)), "AA")
    middle = _middle([rule for rule in rules if isinstance(rule, Between)])
    return float(middle // 1) if column.type == "integer" else middle


def _middle(limits: list[Between]) -> float:
    """A number between the limits. It is near 0 if one side has no limit."""
    high = min((rule.maximum for rule in limits if rule.maximum is not None), default=None)
    low = max((rule.minimum for rule in limits if rule.minimum is not None), default=None)
    if low is None:
        low = 0.0 if high is None else min(0.0, high - 2)
    return (low + (low + 2 if high is None else high)) / 2


def travelling(use_case: Reading, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules that go into the model: those that it can check on one row, with the features alone.

    Rules on whole partitions, unique keys and rules on other columns stay outside.
    """
    features = {column.name for column in use_case.features}
    of_row = (rule for rule in rules if rule.scope == "row" and not isinstance(rule, UniqueKey))
    return tuple(rule for rule in of_row if set(rule.columns) <= features)


def refuse_broken_example(use_case: Table, rules: Iterable[Rule]) -> None:
    """Raises ConfigError if the made-up row breaks a rule inside the model, which would then refuse to answer it."""
    inside = travelling(use_case, rules)
    row = conform(synthetic_rows(use_case.features, inside), use_case.features)
    broken = [rule for rule in inside if rule.severity == "error" and rule.unexpected(row)[0]]
    if broken:
        name = broken[0].columns[0]
        raise ConfigError(
            f"example of column {name} of {use_case.name} must obey the rule '{broken[0].sentence}'",
            f"the row that comes with its models has {row[name][0]!r}",
            "set `example` to a value that does",
        )


def upload_folder(store: Store, folder: Path, key: str) -> tuple[FileRef, ...]:
    """Puts every file below `folder` into the store, under `key`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(put_file(store, f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes()) for path in files)


def copy_files(store: Store, folder_key: str, files: tuple[FileRef, ...], folder: Path) -> None:
    """Copies files that were uploaded under `folder_key` to this disk. Raises Corrupt if one of them is damaged."""
    for file in files:
        copy = folder / file.key.removeprefix(f"{folder_key}/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(get_file(store, file))


def fetch_model(store: Store, folder_key: str, files: tuple[FileRef, ...], cache: Path) -> Path:
    """Copies the model's files to a folder of this disk's cache and returns it. Raises Corrupt for a wrong digest."""
    cached = DiskStore(cache)
    for file in files:
        data = get_file(store, file)
        if cached.get(file.key) != data:
            cached.put(file.key, data)  # `put` replaces a whole file: another process may be loading the same model
    return cache / folder_key


def make_proof(store: Store, key: str, model: "PackagedModel", rows: pd.DataFrame) -> FileRef:
    """Stores up to PROOF_ROWS raw rows together with the answers that the model gives in this process."""
    return _make_proof(store, key, model, rows[[column.name for column in model.columns]], RAW)


def make_source_proof(store: Store, key: str, model: "PackagedModel", rows: pd.DataFrame) -> FileRef:
    """The same for rows of the source."""
    return _make_proof(store, key, model, rows, OF_SOURCE)


def _make_proof(store: Store, key: str, model: "PackagedModel", rows: pd.DataFrame, form: str) -> FileRef:
    asked = rows.head(PROOF_ROWS).reset_index(drop=True)
    return put_file(store, key, to_parquet(pd.concat([asked, model.answers(asked, form).add_prefix(ANSWER)], axis=1)))


def prove(store: Store, folder: Path, proof: FileRef, *of_source: FileRef) -> int:
    """Compares the stored answers with those of a fresh process, and returns how many rows were compared.

    The first proof is of raw rows. Raises Corrupt unless all answers are exactly equal.
    """
    frames = [from_parquet(get_file(store, each)) for each in (proof, *of_source)]
    raw, *others = (frame[[name for name in frame.columns if not name.startswith(ANSWER)]] for frame in frames)
    told = answers_of_a_fresh_process(folder, raw, *others)
    for frame, rows, answers in zip(frames, (raw, *others), told, strict=True):
        if not answers.add_prefix(ANSWER).equals(frame.drop(columns=list(rows.columns))):
            rule = "a model gives the same answers in a fresh process"
            raise Corrupt(rule, "they differ", "run again on this machine")
    return sum(map(len, frames))


def answers_of_a_fresh_process(folder: Path, raw: pd.DataFrame, *of_source: pd.DataFrame) -> list[pd.DataFrame]:
    """The model's answers to raw rows and to rows of the source, from a new process that imports nothing of ours.

    Raises Corrupt if it fails.
    """
    frames = (raw, *of_source)
    with tempfile.TemporaryDirectory() as scratch:
        files = [
            (Path(scratch) / f"rows-{n}.parquet", Path(scratch) / f"answers-{n}.parquet") for n in range(len(frames))
        ]
        for frame, (rows, _) in zip(frames, files, strict=True):
            frame.to_parquet(rows)
        script = Path(__file__).parent / "proof_process.py"
        process = subprocess.run(
            [sys.executable, "-P", str(script), str(folder), *(str(file) for pair in files for file in pair)],
            cwd=scratch, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if process.returncode:
            rule = "a registered model loads and answers in a fresh process"
            raise Corrupt(rule, _ending(process), "run it again on this machine")
        return [pd.read_parquet(answers) for _, answers in files]


def _ending(process: "subprocess.CompletedProcess[str]") -> str:
    """How the process ended. Other words than `proof_process` writes are not repeated: they may quote the rows."""
    if process.returncode < 0:
        return f"signal {-process.returncode} ended that"
    last = (process.stderr.strip() or "it said nothing").splitlines()[-1]
    return last if ENDING.fullmatch(last) else "it ended with words that are not told"
