"""The stages that make and judge models: train, upload, verify, score what serves, watch the source, evaluate."""

import logging
from collections import Counter

from prefect.events import emit_event

from ml.data.handles import Checks, Cleaned, Snapshot, Split
from ml.evaluation.decision import TAKEN_OVER_EVENT
from ml.evaluation.explanation import Explanation
from ml.evaluation.handles import DefaultTrees, Evaluations, Judgement, SourceWatch
from ml.evaluation.served import Served
from ml.models.handles import Fit, Upload, Verified
from ml.operations.backfill import Plan
from ml.pipeline import default_trees, evaluate, explain, served, train, upload, watch
from ml.reporting import importance_section, served_section
from ml.reporting.words import counted
from ml.storage.ledger import AnyEntry, NightEntry
from ml.storage.records import Night
from tasks.site import site_of
from tasks.stage import stage

log = logging.getLogger("retrain.model")


def try_parameters(night: Night) -> None:
    """Refuses what only the library of this kind of model can refuse, before the night reads data.

    It is no stage: it keeps nothing, and takes no time but that of the library's import, which the fit saves.
    """
    use_case = site_of(night).use_case
    use_case.model.try_parameters(use_case)


@stage("train candidate", timeout_seconds=24 * 3600)  # this includes waiting for its turn
def train_candidate(night: Night, training_key: str, cleaned: Cleaned, split: Split, *, nightly: bool) -> Fit:
    """Fits the use case's learner, when it is its turn, and keeps the files that it writes."""
    fit = train.train_candidate(site_of(night), night, training_key, cleaned, split, nightly=nightly)
    log.info("%s", fit.sentence)
    return fit


@stage("upload candidate", timeout_seconds=1800)
def upload_candidate(night: Night, training_key: str, cleaned: Cleaned, fit: Fit) -> Upload:
    """Packages the model with its code and puts every file at its final place, together with a proof of its answers."""
    uploaded = upload.upload_candidate(site_of(night), night, training_key, cleaned, fit)
    log.info("Uploaded %d files of the model, %s bytes.", len(uploaded.files), f"{uploaded.size:,}")
    return uploaded


@stage("verify candidate", timeout_seconds=900)
def verify_candidate(night: Night, training_key: str, uploaded: Upload) -> Verified:
    """Reads the model back from the store, loads it in a fresh process and compares its answers exactly."""
    verified = upload.verify(site_of(night), training_key, uploaded)
    log.info("Verified the model's %d files and %d answers in a fresh process.", verified.files, verified.rows)
    return verified


@stage("score what serves", timeout_seconds=1800)
def score_what_serves(night: Night, cleaned: Cleaned, finished: NightEntry | None, plan: Plan | None) -> Served:
    """Scores what served on the days whose labels are due, each day once; a twin that is surely better takes over."""
    scored = served.score_served(site_of(night), night, cleaned, finished, plan)
    for day, why in scored.unscored:
        log.warning("%s: %s.", day, why.rstrip("."))
    if scored.twin:
        log.warning("%s", scored.twin)
    if scored.takes_over:
        resource = {"prefect.resource.id": f"retrain.use-case.{night.use_case}"}
        emit_event(TAKEN_OVER_EVENT, resource, payload={"use_case": night.use_case, "reason": scored.twin})
    days = counted(scored.work.computed, "new day")
    log.info("%s", f"Scored what serves on {days}. {served_section.sentence(scored.score)}".rstrip())
    return scored


def compare_with_trees(
    night: Night, snapshot: Snapshot, cleaned: Cleaned, split: Split, *, nightly: bool
) -> DefaultTrees | None:
    """What default trees answer to the test rows; None if the use case wants no comparison with them."""
    if not site_of(night).use_case.default_trees:
        return None
    return fit_default_trees(night, snapshot, cleaned, split, nightly=nightly)


@stage("fit default trees", timeout_seconds=24 * 3600)  # this includes waiting for its turn
def fit_default_trees(
    night: Night, snapshot: Snapshot, cleaned: Cleaned, split: Split, *, nightly: bool
) -> DefaultTrees:
    """Fits boosted trees with default settings, and keeps their answers to the test rows."""
    trees = default_trees.fit_default_trees(site_of(night), night, snapshot, cleaned, split, nightly=nightly)
    if trees.reason is not None:
        log.warning("Default trees cannot be compared: %s.", trees.reason)
    return trees


@stage("explain candidate", timeout_seconds=3600)
def explain_candidate(night: Night, cleaned: Cleaned, split: Split, uploaded: Upload) -> Explanation:
    """Measures which columns the model's answers to the test rows rest on."""
    explanation = explain.explain_candidate(site_of(night), night, cleaned, split, uploaded)
    if explanation.reason is not None:
        log.warning("The model is not explained: %s.", explanation.reason)
    else:
        log.info("%s", importance_section.sentence(explanation))
    return explanation


@stage("evaluate models", timeout_seconds=1800)
def evaluate_models(
    night: Night, training_key: str, cleaned: Cleaned, split: Split, uploaded: Upload, head: AnyEntry | None,
    trees: DefaultTrees | None,
) -> Evaluations:  # fmt: skip
    """Scores candidate, champion, reference and baselines on the same test rows."""
    evaluations = evaluate.evaluate_models(site_of(night), night, training_key, cleaned, split, uploaded, head, trees)
    log.info("Evaluated %d predictors on %s test rows.", len(evaluations.models), f"{evaluations.rows:,}")
    return evaluations


@stage("watch source", timeout_seconds=1800)
def watch_source(night: Night, training_key: str, snapshot: Snapshot, checks: Checks, cleaned: Cleaned,
                 head: AnyEntry | None) -> SourceWatch:  # fmt: skip
    """Compares the newest days, and days that came out otherwise, with what the champion's own night saw."""
    watched = watch.watch_source(site_of(night), night, training_key, snapshot, checks, cleaned, head)
    changes = watched.evidence.changes if watched.evidence else ()
    log.info("Watched the source: %s since the champion was judged.", counted(len(changes), "change"))
    return watched


@stage("judge gates", timeout_seconds=600)
def judge_gates(
    night: Night, evaluations: Evaluations, watched: SourceWatch, head: AnyEntry | None, blocked: str | None
) -> Judgement:
    """Lets every gate weigh the evidence, and makes the decision."""
    judgement = evaluate.judge_gates(site_of(night), night, evaluations, watched, head, blocked)
    counts = Counter(verdict.verdict for verdict in judgement.verdicts)
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    log.info("Judged %s (%s): %s.", counted(len(judgement.verdicts), "gate"), words, judgement.decision)
    return judgement
