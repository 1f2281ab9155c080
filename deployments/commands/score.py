"""`retrain score`: writes the champion's answers to the rows of a file."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deployments.terminal import home_to_read, require_use_case, show
from ml.digests import write_whole
from ml.errors import Corrupt, UsageError
from ml.reporting.words import counted, listed
from ml.settings import Settings
from ml.storage.ledger import Ledger
from ml.storage.records import Champion, Registered
from ml.storage.store import Store, open_store
from ml.use_case.loading import load_use_case


def score(options: argparse.Namespace) -> int:
    """Writes one row of output for each row of input, in the same order."""
    require_use_case(options.use_case)
    settings = home_to_read("score")
    use_case = load_use_case(options.use_case, settings.project)
    writer = _writer(Path(options.output))
    _require_input(options)
    from ml.models.description import model_threshold
    from ml.operations.scoring import score_file

    store = open_store(settings.store)
    champion = _champion(store, options.use_case)
    folder = _fetched(settings, store, champion.served, options.use_case)
    scored = score_file(
        settings, use_case, folder, Path(options.file), explain=options.explain, reasons=options.reasons
    )
    answers, told, reasons = scored.answers, scored.contributions, scored.reasons
    beside = [table for table in (reasons, told) if table is not None]
    writer(scored.keys.join(answers.join(beside) if beside else answers))
    document = {
        "use_case": options.use_case,
        "version": champion.served.version,
        "refit_of": champion.version if champion.refit else None,
        "rows": len(answers),
        "refused_rows": int(answers.broken_rule.notna().sum()),
        "key_columns": [*scored.keys],
        "ignored_columns": scored.ignored_columns,
        "joins": {
            name: {"null_keys": c.null_keys, "unmatched": c.unmatched, "side_null_keys": c.side_null_keys}
            for name, c in scored.joins.items()
        },
        "not_learnt": scored.not_learnt,
        "threshold": model_threshold(folder),
        "contribution_columns": [] if told is None else [*told],
        "reason_columns": [] if reasons is None else [*reasons],
        "output": options.output,
    }
    show(options, document, "".join(_sentences(document, use_case.target.classes)))
    return 0


def _require_input(options: argparse.Namespace) -> None:
    """Raises UsageError if there is no file to score, or if the output would replace it."""
    if not Path(options.file).is_file():
        raise UsageError("FILE is a file of raw rows", f"there is no {options.file}", "check its path")
    if Path(options.output).exists() and Path(options.output).samefile(options.file):
        raise UsageError("-o names a file of its own", "it is the file to score", "name another, or its rows are lost")


def _champion(store: Store, name: str) -> Champion:
    """The use case's champion. Raises UsageError if there is none."""
    head = Ledger(store, name).head()
    if head is None or head.champion is None:
        step = f"retrain ledger {name} says why" if head else f"retrain run {name} first"
        raise UsageError("score needs a champion", f"{name} has none", step)
    return head.champion


def _fetched(settings: Settings, store: Store, served: Registered, name: str) -> Path:
    """The folder with the served version's files on this disk. Raises Corrupt if one of them is damaged."""
    from ml.models import packaging

    try:
        return packaging.fetch_model(store, served.folder, served.files, settings.home / "cache")
    except Corrupt as error:
        raise Corrupt(error.rule, error.value, f"retrain doctor {name} says what leads out") from error


def _sentences(document: dict[str, Any], classes: tuple[str, ...]) -> Iterator[str]:
    """What was scored, and what an operator must know about it; all but the first begin with a space."""
    beside = f", beside {listed(document['key_columns'])}" if document["key_columns"] else ""
    refit = "" if document["refit_of"] is None else f", the refit of version {document['refit_of']},"
    yield (
        f"Scored {counted(document['rows'], 'row')} with {document['use_case']} version {document['version']}{refit} "
        f"into {document['output']}{beside}; {document['refused_rows']:,} of them broke a rule and got no answer."
    )
    if document["threshold"] is not None:
        yield f" From probability {document['threshold']:.4g} on it says {classes[1]}."
    if document["contribution_columns"]:
        yield " The contributions of a row add up to the model's output, before calibration."
    if document["reason_columns"]:
        yield f" Reasons name the columns that moved a row most, up to {len(document['reason_columns'])}."
    for name, join in document["joins"].items():
        if met_nothing := join["null_keys"] + join["unmatched"]:
            yield f" {counted(met_nothing, 'row')} met nothing in {name} ({join['null_keys']:,} without a key)."
    for name, join in document["joins"].items():
        if join["side_null_keys"]:
            yield f" {counted(join['side_null_keys'], 'row')} of {name} have no key and met nothing."
    for name, rows in document["not_learnt"].items():
        yield f" The model has not learnt the {name} of {counted(rows, 'row')}."
    if document["ignored_columns"]:
        yield f" Ignored columns: {listed(document['ignored_columns'])}."


def _writer(path: Path) -> Any:
    """The function that writes the output. Raises UsageError, before any work, if the file cannot be written there."""
    if path.suffix not in {".parquet", ".csv"}:
        raise UsageError("-o names a .parquet or .csv file", f"it is {path.name}", "change its ending")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("-o names a file in a folder that is there", f"it is {path}", "make the folder")
    is_csv = path.suffix == ".csv"
    return lambda frame: write_whole(path, frame.to_csv(index=False).encode() if is_csv else frame.to_parquet())
