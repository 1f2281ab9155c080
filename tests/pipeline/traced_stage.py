"""Runs some stages of a night in this process, and writes which files each of them executed.

`python -m tests.pipeline.traced_stage FOLDER STAGE...` takes the results of earlier stages from FOLDER and adds its
own. For each stage it writes `<stage>.json`: the files of all code that ran, or was imported, while the stage ran, in
all threads and in processes that it started.
"""

import cProfile
import json
import os
import pickle
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

CHILD = '''
"""Traces a process that a stage starts."""

import atexit, cProfile, json, os

if place := os.environ.get("TRACED_TO"):
    profile = cProfile.Profile()

    def write():
        profile.disable()
        files = {entry.code.co_filename for entry in profile.getstats() if not isinstance(entry.code, str)}
        with open(f"{place}/{os.getpid()}", "w") as file:
            json.dump(sorted(files), file)

    atexit.register(write)
    profile.enable()
'''


@contextmanager
def traced(folder: Path, stage: str) -> Iterator[None]:
    """Writes which files were executed inside."""
    children, files = folder / f"{stage}.children", set[str]()
    children.mkdir()
    (children / "sitecustomize.py").write_text(CHILD)
    os.environ |= {"TRACED_TO": str(children), "PYTHONPATH": f"{children}{os.pathsep}{os.environ['PYTHONPATH']}"}

    def call(frame: FrameType, event: str, _arg: object) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    threading.setprofile(call)
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        threading.setprofile(None)
        files |= {entry.code.co_filename for entry in profile.getstats() if not isinstance(entry.code, str)}
        for child in children.iterdir():
            files |= set(json.loads(child.read_text())) if child.name.isdecimal() else set()
        (folder / f"{stage}.json").write_text(json.dumps(sorted(files)))


def stages() -> dict[str, Callable[[Any, dict[str, Any]], Any]]:
    """Each stage as a function of the site and of the results of earlier stages."""
    from ml.data.snapshots import read_manifest
    from ml.data.sources.bringing import bring
    from ml.data.window_sums import WindowSums
    from ml.pipeline import (
        clean,
        default_trees,
        evaluate,
        explain,
        opening,
        refit,
        served,
        split,
        train,
        upload,
        validate,
        watch,
    )
    from ml.pipeline.run_key import training_key

    def key(done: dict[str, Any]) -> str:
        return training_key(done["night"], done["snapshot"].digest)

    return {
        "night": lambda site, _: opening.open_night(site, date(2024, 3, 15), None, None, None),
        "brought": lambda site, _: [
            bring(site.settings, source, site.use_case.columns)
            for source in (site.use_case.source, *(side.source for side in site.use_case.side_tables))
        ],
        "snapshot": lambda site, done: opening.take_snapshot(site, done["night"]),
        "manifest": lambda site, done: read_manifest(site.store, done["snapshot"].manifest),
        "verdict": lambda site, done: validate.Validation(site, done["manifest"]).months(),
        "validate": lambda site, done: validate.validate_partitions(site, done["night"], done["snapshot"]),
        "forget cleaned": lambda site, _: _forget_cleaned(Path(site.settings.store)),
        "cleaned": lambda site, done: clean.Cleaning(site, done["manifest"], done["validate"]).months(),
        "clean": lambda site, done: clean.clean_partitions(site, done["snapshot"], done["validate"]),
        "statistics": lambda site, done: WindowSums(site.reader(done["clean"]), done["night"].as_of).totals() and None,
        "split": lambda site, done: split.split_rows(site, done["night"], done["clean"]),
        "train": lambda site, done: train.train_candidate(
            site, done["night"], key(done), done["clean"], done["split"], nightly=True
        ),
        "upload": lambda site, done: upload.upload_candidate(
            site, done["night"], key(done), done["clean"], done["train"]
        ),
        "verify": lambda site, done: upload.verify(site, key(done), done["upload"]),
        "watch": lambda site, done: watch.watch_source(
            site, done["night"], key(done), done["snapshot"], done["validate"], done["clean"], None
        ),
        "trees": lambda site, done: default_trees.fit_default_trees(
            site, done["night"], done["snapshot"], done["clean"], done["split"], nightly=True
        ),
        "evaluate": lambda site, done: evaluate.evaluate_models(
            site, done["night"], key(done), done["clean"], done["split"], done["upload"], None, done["trees"]
        ),
        "explain": lambda site, done: explain.explain_candidate(
            site, done["night"], done["clean"], done["split"], done["upload"]
        ),
        "gates": lambda site, done: evaluate.judge_gates(
            site, done["night"], done["evaluate"], done["watch"], None, None
        ),
        "refit": lambda site, done: refit.refit_candidate(
            site, done["night"], key(done), done["clean"], done["train"], done["upload"], done["evaluate"], nightly=True
        ),
        "recorded": lambda site, done: _record(site, done),
        "served": lambda site, done: served.score_days(site, done["night"], done["clean"], site.ledger.entries()),
    }


def _record(site: Any, done: dict[str, Any]) -> None:
    """Makes the model champion as of a date from which it served on some test days."""
    from dataclasses import asdict, replace

    from ml.storage.ledger import NightEntry, next_after
    from ml.storage.records import Champion, Refit

    as_of, upload, evaluations = date(2024, 3, 10), done["upload"], done["evaluate"]
    fields = {"version": 1, "run_id": upload.run_id, "folder": upload.folder, "files": upload.files}
    fields |= {"fit_until": done["split"].fit_until}
    target, refit = site.use_case.target.digest, Refit(key="k", **{**fields, "version": 2})
    champion = Champion(as_of=as_of, target_digest=target, split_digest="s", refit=refit, **fields)
    result = {"constant": asdict(evaluations.constant), "promise": asdict(evaluations.promise)}
    named = dict.fromkeys(("run_key", "learning_key", "manifest", "reason"), "-")
    entry = NightEntry(
        **{**next_after(None, "shop"), "champion": champion, "decision": "FIRST", "candidate": champion},
        **named, as_of=as_of, judged_against=0, result=result,
    )  # fmt: skip
    assert site.ledger.append(replace(entry, reference=champion))


def _forget_cleaned(store: Path) -> None:
    for place in [*store.glob("partitions/*/*/cleaned.json"), *store.glob("partitions/*/cleaned.json")]:
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def main(folder: Path, names: list[str]) -> None:
    from expectations.suite import confirm, suite_rules
    from ml.pipeline.site import open_site

    file = folder / "done.pickle"
    done = pickle.loads(file.read_bytes()) if file.exists() else {}
    site = open_site("shop", suite_rules, confirm)
    site.code, site.judging  # noqa: B018 - every stage is begun with the keys made
    for name in names:
        run = stages()[name]
        with traced(folder, name):
            done[name] = run(site, done)
    file.write_bytes(pickle.dumps(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
