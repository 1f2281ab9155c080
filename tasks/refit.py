"""The stages that fit a winner once more on all due rows, and make a version of it, in their order."""

import logging
from dataclasses import replace

from ml.data.handles import Cleaned, Snapshot
from ml.evaluation.handles import Evaluations
from ml.models.handles import Fit, Refitted, Upload, Verified
from ml.pipeline import refit, upload
from ml.reporting.trail import Trail
from ml.storage.ledger import NightEntry
from ml.storage.records import Champion, Night
from tasks.site import site_of
from tasks.stage import stage

log = logging.getLogger("retrain.refit")


def refit_winner(
    night: Night, training_key: str, candidate: Champion, trail: Trail, finished: NightEntry | None, *, nightly: bool
) -> tuple[Champion, Trail]:
    """The candidate with the refit that serves in its place, and the trail with what these stages did.

    Both are as they were if the candidate does not win, if the use case wants no refit, or if the refit is refused.
    """
    if not refit.is_due(site_of(night).use_case, trail.judgement, finished):
        return candidate, trail
    refitted = refit_candidate(
        night, training_key, trail.cleaned, trail.fit, trail.upload, trail.evaluations, nightly=nightly
    )
    trail = replace(trail, refitted=refitted)
    if refitted.fit is None or refitted.refused is not None:
        return replace(candidate, refit=None), trail
    uploaded = upload_refit(night, training_key, trail.cleaned, refitted.fit, trail.upload, candidate)
    verified = verify_refit(night, training_key, uploaded)
    with_refit = register_refit(night, training_key, trail.snapshot, uploaded, candidate)
    return with_refit, replace(trail, refit_upload=uploaded, refit_verified=verified)


@stage("refit candidate", timeout_seconds=24 * 3600)  # this includes waiting for its turn
def refit_candidate(
    night: Night, training_key: str, cleaned: Cleaned, fit: Fit, uploaded: Upload, evaluations: Evaluations,
    *, nightly: bool,
) -> Refitted:  # fmt: skip
    """Fits the candidate's recipe on train, validation and test rows, and compares its answers with the candidate's."""
    refitted = refit.refit_candidate(
        site_of(night), night, training_key, cleaned, fit, uploaded, evaluations, nightly=nightly
    )
    if refitted.refused is None:
        log.info("Refitted the candidate on all %s due rows.", f"{refitted.rows:,}")
    else:
        log.warning("The refit is refused, and the judged model serves: %s.", refitted.refused)
    return refitted


@stage("upload refit", timeout_seconds=1800)
def upload_refit(
    night: Night, training_key: str, cleaned: Cleaned, fit: Fit, twin: Upload, candidate: Champion
) -> Upload:  # fmt: skip
    """Packages the refit with the candidate's threshold and calibration, and puts every file at its final place."""
    uploaded = refit.upload_refit(site_of(night), night, training_key, cleaned, fit, twin, candidate)
    log.info("Uploaded %d files of the refit, %s bytes.", len(uploaded.files), f"{uploaded.size:,}")
    return uploaded


@stage("verify refit", timeout_seconds=900)
def verify_refit(night: Night, training_key: str, uploaded: Upload) -> Verified:
    """Reads the refit back from the store, loads it in a fresh process and compares its answers exactly."""
    verified = upload.verify(site_of(night), refit.refit_key(training_key), uploaded)
    log.info("Verified the refit's %d files and %d answers in a fresh process.", verified.files, verified.rows)
    return verified


@stage("register refit", timeout_seconds=600)
def register_refit(
    night: Night, training_key: str, snapshot: Snapshot, uploaded: Upload, candidate: Champion
) -> Champion:  # fmt: skip
    """Registers the refit as one more version, and returns the candidate with it."""
    with_refit = refit.register_refit(site_of(night), night, training_key, snapshot, uploaded, candidate)
    assert with_refit.refit is not None
    log.info("Registered %s version %d, the refit of %d.", night.use_case, with_refit.served.version, candidate.version)
    return with_refit
