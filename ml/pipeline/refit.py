"""The stages after the gates: a winner's recipe is fitted once more, on all due rows, and that model serves.

It has the settings that validation chose for its twin, the judged model, and the twin's threshold and calibration. If
the fit fails, or its answers are far from the twin's, it is refused with the reason, and the judged model serves.
"""

import tempfile
from dataclasses import replace
from functools import partial, reduce
from operator import add
from pathlib import Path

import numpy as np

from ml.data.cleaning import from_parquet
from ml.data.handles import PARTS, Cleaned, Snapshot
from ml.data.statistics import Statistics
from ml.data.window import last_due_day
from ml.data.window_sums import WindowSums
from ml.digests import digest_value
from ml.errors import ConfigError, RetrainError, is_passing, what_and_where
from ml.evaluation.code import REFITTING
from ml.evaluation.handles import Evaluations, Judgement
from ml.evaluation.judging import NoAnswer, answers_of, model_answers
from ml.evaluation.twin import why_broken
from ml.models.description import model_output
from ml.models.handles import Fit, Refitted, Upload
from ml.operations.versions import highest_number, refit_tags
from ml.pipeline.site import Site, resume
from ml.pipeline.train import Lesson, fit_lesson, require_same_code_and_machine
from ml.pipeline.upload import Shipment, fetch, own_code, packaged, upload, uploaded
from ml.reporting.mlflow_pages import tell_unused_refit
from ml.serving.output import Output
from ml.storage.ledger import NightEntry
from ml.storage.records import Champion, Night, Refit
from ml.storage.registry import REFIT_OF, cut
from ml.storage.store import get_file
from ml.use_case.definition import UseCase


def refit_key(training_key: str) -> str:
    """The training key of the refit of the model with this key. The model's key covers the rows, the seed, the learner
    and its code."""
    return digest_value([training_key, "refit", REFITTING.digest])


def is_due(use_case: UseCase, judgement: Judgement, finished: NightEntry | None) -> bool:
    """Whether the candidate is to be refitted: it is promoted, or an operator is asked whether it is.

    A night that was `finished` before, and is made again because files of it were lost, has a refit if it had one.
    """
    if finished is not None:
        return finished.candidate is not None and finished.candidate.refit is not None
    wins = judgement.decision in {"FIRST", "PROMOTE"} or judgement.asks
    return use_case.refit == "promoted" and wins


def refit_candidate(
    site: Site, night: Night, training_key: str, cleaned: Cleaned, fit: Fit, upload: Upload, evaluations: Evaluations,
    *, nightly: bool,
) -> Refitted:  # fmt: skip
    """Fits the candidate's recipe on all due rows, or says why that is refused. Either is kept.

    What may pass (memory, a disk, a server) is no reason to refuse: it ends the night, and the next run goes on here.
    """

    def make() -> Refitted:
        require_same_code_and_machine(site, night)
        statistics = _statistics_of_all(site, night, cleaned)
        lesson = Lesson(refit_key(training_key), PARTS, lambda: statistics, fit.chosen)
        refit, refused = None, None
        try:
            refit = fit_lesson(site, night, lesson, cleaned, nightly=nightly)
            refused = _why_refused(site, night, cleaned, refit, upload, evaluations)
        except Exception as error:  # a learner's; its message may quote a row
            if _is_no_refusal(error):
                raise
            refused = _in_words(error)
        return Refitted(rows=statistics.rows, fit=refit, refused=refused)

    return resume(site, Refitted, "refit", refit_key(training_key), make)


def _is_no_refusal(error: Exception) -> bool:
    """Whether the error says nothing about the fit: it may pass, or stored bytes or data are wrong."""
    stored_or_away = isinstance(error, RetrainError) and not isinstance(error, ConfigError)
    lacks_memory = "DefaultCPUAllocator" in str(error)  # torch raises a RuntimeError then
    return stored_or_away or lacks_memory or is_passing(error)


def _in_words(error: Exception) -> str:
    """Why a refit that raised this is refused, as a clause. A library's own words may quote rows, and are not told."""
    if isinstance(error, ConfigError):
        return f"{error.rule}, but {error.value}"
    return str(error) if isinstance(error, NoAnswer) else f"it raises {what_and_where(error)}"


def _statistics_of_all(site: Site, night: Night, cleaned: Cleaned) -> Statistics:
    """The statistics of all due rows: the exact sum of those of the three parts."""
    totals = WindowSums(site.reader(cleaned), night.as_of).totals()
    return reduce(add, (totals[part].statistics for part in PARTS))


def _why_refused(
    site: Site, night: Night, cleaned: Cleaned, refit: Fit, twin: Upload, evaluations: Evaluations
) -> str | None:
    """Which bound the refit's answers to the test rows break beside its twin's; None if they keep all of them."""
    reader, classes = site.reader(cleaned), site.use_case.target.classes
    held_out, test = (reader.raw_rows(night.as_of, part) for part in ("validation", "test"))
    judged = from_parquet(get_file(site.store, evaluations.answers))
    with tempfile.TemporaryDirectory() as scratch:
        own = own_code(site, derives=False)
        model = packaged(site, night, refit, Path(scratch) / "fitted", held_out, own, _output(site, twin))
        answers = model_answers(site.use_case, model.answers, test)
    return why_broken(classes, judged["label"].to_numpy(np.float64), answers_of(judged), answers)


def _output(site: Site, twin: Upload) -> Output:
    """The threshold and the calibration of the judged model."""
    return model_output(fetch(site, twin.folder, twin.files))


def upload_refit(
    site: Site, night: Night, training_key: str, cleaned: Cleaned, refit: Fit, twin: Upload, candidate: Champion
) -> Upload:
    """Uploads the refit as a candidate is uploaded, with its twin's threshold and calibration."""
    key, of = refit_key(training_key), str(candidate.version)
    shipment = Shipment(
        key=key,
        fit=refit,
        run_name=f"{night.use_case} {night.as_of} refit",
        tags={"use_case": night.use_case, "as_of": str(night.as_of), REFIT_OF: of},
        recorded=site.ledger.refitted(key),
        output=_output(site, twin),
    )
    return upload(site, night, shipment, cleaned)


def register_refit(
    site: Site, night: Night, training_key: str, snapshot: Snapshot, upload: Upload, candidate: Champion
) -> Champion:
    """Registers the refit as the one version of its key. Returns the candidate with it."""
    key = refit_key(training_key)
    refit = partial(
        Refit,
        run_id=upload.run_id,
        fit_until=str(last_due_day(site.use_case, night.as_of)) if site.use_case.dated else None,
        folder=upload.folder,
        files=upload.files,
        key=key,
    )
    tags = refit_tags(night.use_case, candidate, refit(version=0), snapshot.digest)
    tags |= {"takes": cut(upload.takes)} if upload.takes else {}
    version = site.registry.register(upload.run_id, key, tags, above=highest_number(site.ledger))
    return replace(candidate, refit=refit(version=version))


def end_unused_refit(site: Site, entry: NightEntry) -> None:
    """Ends the MLflow run of a refit that this night made and does not use, and says so on its pages.

    Another run was first to add to the ledger, and then this night kept its champion. If it is judged again and wins,
    the same refit serves.
    """
    key = refit_key(entry.training_key)
    unused = uploaded(site, key)
    if unused is not None and site.ledger.refitted(key) is None:
        tell_unused_refit(site.registry, entry, unused.run_id, site.registry.version_of(key))
