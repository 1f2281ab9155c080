"""The stage that trains: the use case's learner is fitted, and the files of the fitted model are kept."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ml.code import require_unchanged
from ml.data.handles import Cleaned, Part, Split
from ml.data.statistics import Statistics
from ml.errors import ConfigError
from ml.models.handles import Fit
from ml.models.packaging import upload_folder
from ml.models.protocol import Job, Rows
from ml.pipeline.machine import this_machine
from ml.pipeline.site import Site, kept_results, resume
from ml.serving.own_code import OwnCode
from ml.storage import paths
from ml.storage.json_form import from_json
from ml.storage.locks import fit_turn
from ml.storage.records import Night
from ml.storage.store import get_file

log = logging.getLogger("retrain.model")


@dataclass(frozen=True)
class Lesson:
    """What one fit learns from: the rows of these parts of the split, and their statistics. `key` is its training key.

    If `chosen` is given, an earlier fit chose it on validation rows, and this fit chooses nothing.
    """

    key: str
    parts: tuple[Part, ...]
    statistics: Callable[[], Statistics]
    chosen: Mapping[str, Any] | None = None


def train_candidate(
    site: Site, night: Night, training_key: str, cleaned: Cleaned, split: Split, *, nightly: bool
) -> Fit:
    """Fits the use case's learner on the train rows; validation rows choose what it is to choose."""

    def statistics() -> Statistics:
        return from_json(Statistics, get_file(site.store, split.statistics))

    return fit_lesson(site, night, Lesson(training_key, ("train",), statistics), cleaned, nightly=nightly)


def fit_lesson(site: Site, night: Night, lesson: Lesson, cleaned: Cleaned, *, nightly: bool) -> Fit:
    """Fits the use case's learner and keeps the files that it writes.

    One model at a time is fitted on this machine, and a night (`nightly`) goes before a backfill's dates. A fit that
    was killed goes on from its checkpoint.
    """
    kept = kept_results(site, Fit, "train").whole(lesson.key)
    with nullcontext() if kept else fit_turn(site.settings.home, nightly=nightly):
        fit = resume(site, Fit, "train", lesson.key, lambda: _fit(site, night, lesson, cleaned))
    site.store.delete(paths.checkpoint(night.use_case, lesson.key))  # no longer needed: the result is kept
    return fit


def _fit(site: Site, night: Night, lesson: Lesson, cleaned: Cleaned) -> Fit:
    from ml.models.training import StoredDiary, fit

    require_same_code_and_machine(site, night)
    learner, statistics = site.use_case.model, lesson.statistics()
    rows = partial(_frames, site, night, cleaned)
    folder = paths.stage_file(night.use_case, "train", lesson.key, "model")
    log.info(
        "Training %s on %s with %d thread(s) and %s rows.",
        learner.title, night.device, night.threads, f"{statistics.rows:,}",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        fitted = fit(
            learner,
            Job(
                folder=Path(scratch),
                table=site.use_case,
                statistics=statistics,
                train=Rows(partial(rows, *lesson.parts)),
                validation=Rows(partial(rows, "validation")) if lesson.chosen is None else None,
                chosen=lesson.chosen,
                seed=night.seed,
                device=night.device,
                threads=night.threads,
                diary=StoredDiary(site.store, paths.checkpoint(night.use_case, lesson.key), learner.step_name),
                weight=site.use_case.weight,
                own=OwnCode(site.loaded.serving.modules, site.loaded.serving.packages),
            ),
        )
        files = upload_folder(site.store, Path(scratch), folder)
    return Fit(
        kind=learner.title,
        folder=folder,
        files=files,
        chosen=dict(fitted.chosen),
        step_name=learner.step_name,
        steps=fitted.steps,
        best=fitted.best,
        device=fitted.device,
        threads=night.threads,
        notes=fitted.notes,
    )


def _frames(site: Site, night: Night, cleaned: Cleaned, *parts: Part) -> Iterator[pd.DataFrame]:
    """The rows of the parts, one frame for each partition. Parts of dated rows that follow each other are in date
    order."""
    reader = site.reader(cleaned)
    return chain.from_iterable(reader.part_frames(night.as_of, part) for part in parts)


def require_same_code_and_machine(site: Site, night: Night) -> None:
    """Raises ConfigError if our code, the device or the CPU's instructions are not those that the night began with.

    A process that has imported torch asks torch itself which device there is.
    """
    require_unchanged()
    machine = this_machine(site.settings.home)
    device = site.use_case.model.device_on(machine.device)
    if (device, machine.instructions) != (night.device, night.instructions):
        raise ConfigError(
            "a machine stays as it is during a night", f"torch now says {device}", "run the same command again"
        )
