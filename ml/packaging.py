"""A candidate as files: the model's data and its own copy of `ml/serving`, in MLflow's format; and their proof."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

import ml.serving
from ml import registry
from ml.artifacts import FileRef
from ml.cleaning import from_parquet, to_parquet
from ml.digests import digest_sources
from ml.errors import Corrupt
from ml.serving.columns import Column
from ml.serving.model import PackagedModel
from ml.store import DiskStore, Store, get_file, put_file

SERVING = Path(ml.serving.__file__).parent
PROOF_ROWS = 256


def serving_name(source: Path = SERVING) -> str:
    """The package name of a copy of the serving code: it holds the code's digest."""
    return f"retrain_serving_{digest_sources(source, sorted(source.glob('*.py')))[:16]}"


def write_model(model: PackagedModel, folder: Path, source: Path = SERVING) -> None:
    """An MLflow model folder that needs nothing of this project to be loaded."""
    with tempfile.TemporaryDirectory() as scratch:
        code = Path(scratch) / serving_name(source)
        shutil.copytree(source, code, ignore=shutil.ignore_patterns("__pycache__"))
        model.save(Path(scratch) / "model")
        registry.write_pyfunc(
            folder,
            code=code,
            data=Path(scratch) / "model",
            columns=model.columns,
            output=model.output,
            example=synthetic_rows(model.columns),
        )


def synthetic_rows(columns: tuple[Column, ...]) -> pd.DataFrame:
    """One made-up row: midpoints of declared limits and first declared values, nothing from data."""
    return pd.DataFrame({column.name: [_synthetic(column)] for column in columns})


def _synthetic(column: Column) -> object:
    if column.type == "timestamp":
        return pd.Timestamp("2000-01-01T12:00:00")
    if column.type == "text":
        return column.values[0] if column.values else "AA"
    low, high = column.minimum, column.maximum
    if low is None:
        low = 0.0 if high is None else min(0.0, high - 2)
    middle = (low + (low + 2 if high is None else high)) / 2
    return float(middle // 1) if column.type == "integer" else middle


def upload_folder(store: Store, folder: Path, key: str) -> tuple[FileRef, ...]:
    """Puts every file below `folder` under `key`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(put_file(store, f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes()) for path in files)


def fetch_model(store: Store, folder_key: str, files: tuple[FileRef, ...], cache: Path) -> Path:
    """The model's files in a folder of their own on this disk, each verified by its digest. Raises Corrupt."""
    cached = DiskStore(cache)
    for file in files:
        data = get_file(store, file)
        if cached.get(file.key) != data:
            cached.put(file.key, data)  # whole or not at all: another process may be loading the same model
    return cache / folder_key


def make_proof(store: Store, key: str, model: PackagedModel, rows: pd.DataFrame) -> FileRef:
    """Raw rows with the answers that the model gave in the process that trained it."""
    raw = rows[[column.name for column in model.columns]].head(PROOF_ROWS).reset_index(drop=True)
    answers = model.predict(raw).add_prefix("answer__")
    return put_file(store, key, to_parquet(pd.concat([raw, answers], axis=1)))


def prove(store: Store, folder: Path, proof: FileRef) -> int:
    """Compares the model's answers in a fresh process exactly; returns the rows compared. Raises Corrupt."""
    frame = from_parquet(get_file(store, proof))
    asked = [name for name in frame.columns if not name.startswith("answer__")]
    with tempfile.TemporaryDirectory() as scratch:
        rows, answers = Path(scratch) / "rows.parquet", Path(scratch) / "answers.parquet"
        frame[asked].to_parquet(rows)
        script = Path(__file__).parent / "proof_process.py"
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(folder), str(rows), str(answers)],
            cwd=scratch, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
            raise Corrupt("a registered model loads in a fresh process", last, "mend the model's code and run again")
        seen = pd.read_parquet(answers).add_prefix("answer__")
    if not seen.equals(frame[[name for name in frame.columns if name not in asked]]):
        raise Corrupt("a model gives the same answers in a fresh process", "they differ", "run again on this machine")
    return len(frame)
