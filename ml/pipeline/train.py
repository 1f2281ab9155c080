"""The stage that trains: the use case's learner is fitted, and the files of the fitted model are kept."""

import logging
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from ml.code import require_unchanged
from ml.data.handles import Cleaned, Split
from ml.data.statistics import Statistics
from ml.errors import ConfigError
from ml.models.handles import Fit
from ml.models.packaging import upload_folder
from ml.models.protocol import Job, Rows
from ml.pipeline.machine import this_machine
from ml.pipeline.site import Site, kept_results, resume
from ml.storage import paths
from ml.storage.json_form import from_json
from ml.storage.locks import fit_turn
from ml.storage.records import Night
from ml.storage.store import get_file

log = logging.getLogger("retrain.model")


def train_candidate(
    site: Site, night: Night, training_key: str, cleaned: Cleaned, split: Split, *, nightly: bool
) -> Fit:
    """Fits the use case's learner and keeps the files that it writes.

    One model at a time is fitted on this machine, and a night (`nightly`) goes before a backfill's dates. A fit that
    was killed goes on from its checkpoint.
    """
    kept = kept_results(site, Fit, "train").whole(training_key)
    with nullcontext() if kept else fit_turn(site.settings.home, nightly=nightly):
        fit = resume(site, Fit, "train", training_key, lambda: _fit(site, night, training_key, cleaned, split))
    site.store.delete(paths.checkpoint(night.use_case, training_key))  # no longer needed: the result is kept
    return fit


def _fit(site: Site, night: Night, training_key: str, cleaned: Cleaned, split: Split) -> Fit:
    from ml.models.training import StoredDiary, fit

    require_same_code_and_machine(site, night)
    learner, reader = site.use_case.model, site.reader(cleaned)
    folder = paths.stage_file(night.use_case, "train", training_key, "model")
    log.info(
        "Training a %s on %s with %d thread(s) and %s rows.",
        learner.title, night.device, night.threads, f"{split.train.rows:,}",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        fitted = fit(
            learner,
            Job(
                folder=Path(scratch),
                table=site.use_case,
                statistics=from_json(Statistics, get_file(site.store, split.statistics)),
                train=Rows(partial(reader.part_frames, night.as_of, "train")),
                validation=Rows(partial(reader.part_frames, night.as_of, "validation")),
                seed=night.seed,
                device=night.device,
                threads=night.threads,
                diary=StoredDiary(site.store, paths.checkpoint(night.use_case, training_key), learner.step_name),
                weight=site.use_case.weight,
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
