"""`retrain score`."""

import argparse
from pathlib import Path
from typing import Any

from deployments.terminal import home_to_read, require_use_case, show
from ml.digests import write_whole
from ml.errors import Corrupt, UsageError
from ml.reporting.words import counted, listed
from ml.storage.ledger import Ledger
from ml.storage.store import open_store
from ml.use_case.loading import load_use_case


def score(options: argparse.Namespace) -> int:
    """Writes one row of output for each row of input, in the same order."""
    require_use_case(options.use_case)
    settings = home_to_read("score")
    use_case = load_use_case(options.use_case, settings.project)
    writer = _writer(Path(options.output))
    if not Path(options.file).is_file():
        raise UsageError("FILE is a file of raw rows", f"there is no {options.file}", "check its path")
    if Path(options.output).exists() and Path(options.output).samefile(options.file):
        raise UsageError("-o names a file of its own", "it is the file to score", "name another, or its rows are lost")
    from ml.models import packaging
    from ml.operations.scoring import model_threshold, score_file

    store = open_store(settings.store)
    head = Ledger(store, options.use_case).head()
    if head is None or head.champion is None:
        name = options.use_case
        step = f"retrain ledger {name} says why" if head else f"retrain run {name} first"
        raise UsageError("score needs a champion", f"{name} has none", step)
    champion = head.champion
    try:
        folder = packaging.fetch_model(store, champion.folder, champion.files, settings.home / "cache")
    except Corrupt as error:
        raise Corrupt(error.rule, error.value, f"retrain doctor {options.use_case} says what leads out") from error
    scored = score_file(settings, use_case, folder, Path(options.file))
    answers, extra = scored.answers, scored.ignored_columns
    keys = scored.keys.drop(columns=[*answers], errors="ignore")  # a key with the name of an answer is left out
    writer(keys.join(answers))
    document = {
        "use_case": options.use_case,
        "version": champion.version,
        "rows": len(answers),
        "refused_rows": int(answers.broken_rule.notna().sum()),
        "key_columns": [*keys],
        "ignored_columns": extra,
        "joins": {
            name: {"null_keys": c.null_keys, "unmatched": c.unmatched, "side_null_keys": c.side_null_keys}
            for name, c in scored.joins.items()
        },
        "not_learnt": scored.not_learnt,
        "threshold": model_threshold(folder),
        "output": options.output,
    }
    words = (
        f"Scored {counted(document['rows'], 'row')} with {options.use_case} version {document['version']} into "
        f"{options.output}{_with_keys([*keys])}; {document['refused_rows']:,} of them broke a rule and got no answer."
    )
    if document["threshold"] is not None:
        words += f" From probability {document['threshold']:.4g} on it says {use_case.target.classes[1]}."
    words += "".join(
        f" {counted(c.null_keys + c.unmatched, 'row')} met nothing in {name} ({c.null_keys:,} without a key)."
        for name, c in scored.joins.items()
        if c.null_keys + c.unmatched
    )
    words += "".join(
        f" {counted(c.side_null_keys, 'row')} of {name} have no key and met nothing."
        for name, c in scored.joins.items()
        if c.side_null_keys
    )
    words += "".join(
        f" The model has not learnt the {name} of {counted(rows, 'row')}." for name, rows in scored.not_learnt.items()
    )
    show(options, document, words + (f" Ignored columns: {listed(extra)}." if extra else ""))
    return 0


def _with_keys(names: list[str]) -> str:
    return f", beside {listed(names)}" if names else ""


def _writer(path: Path) -> Any:
    """The function that writes the output. Raises UsageError, before any work, if the file cannot be written there."""
    if path.suffix not in {".parquet", ".csv"}:
        raise UsageError("-o names a .parquet or .csv file", f"it is {path.name}", "change its ending")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("-o names a file in a folder that is there", f"it is {path}", "make the folder")
    is_csv = path.suffix == ".csv"
    return lambda frame: write_whole(path, frame.to_csv(index=False).encode() if is_csv else frame.to_parquet())
