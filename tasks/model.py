"""Stages that fail with the model: train, upload, verify, evaluate, judge.

What needs torch is imported when it is first used, so that a night with nothing new does not pay for it (1.3 s).
"""

import logging
import tempfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ml.data.cleaning import to_parquet
from ml.data.handles import Blocks, Split
from ml.data.split import split_digest
from ml.digests import digest_value
from ml.errors import ConfigError, what_and_where, without_passwords
from ml.evaluation.baselines import rule_columns
from ml.evaluation.decision import comparability, decide, is_open
from ml.evaluation.gates import ALLOWING, BetterThanRule, Difference, Evidence
from ml.evaluation.handles import Evaluations, Judgement
from ml.evaluation.judging import NoAnswer, answer_table, baselines, judge_all, model_answers
from ml.metrics.scores import Answers
from ml.models import packaging
from ml.models.handles import Epoch, Fit, Upload, Verified
from ml.operations.scoring import model_columns
from ml.pipeline.machine import this_machine
from ml.pipeline.run_key import lock_digest, require_same_code
from ml.serving.columns import Column
from ml.serving.features import Encoder
from ml.storage import paths, registry
from ml.storage.json_form import from_json, to_json
from ml.storage.ledger import AnyEntry
from ml.storage.locks import fit_turn
from ml.storage.records import Champion, FileRef, Night, digest_of_files
from ml.storage.stages import whole
from ml.storage.store import get_file, is_whole, put_file
from tasks.site import Site, resume, site_of
from tasks.stage import stage

if TYPE_CHECKING:
    from ml.serving.model import PackagedModel

log = logging.getLogger("retrain.model")
RULE_OF_THUMB = "a model that a rule of thumb equals must say so"


@stage("train candidate", timeout_seconds=24 * 3600)  # waiting for its turn included
def train_candidate(night: Night, run_key: str, blocks: Blocks, split: Split, *, nightly: bool) -> Fit:
    """Fits the use case's estimator, when it is its turn, and keeps the weights of the best validation epoch."""
    site = site_of(night)
    kept = whole(site.store, Fit, paths.stage(night.use_case, "train", run_key))
    with nullcontext() if kept else fit_turn(site.settings.home, nightly=nightly):  # a twin may have been before it
        fit = resume(site, Fit, "train", run_key, lambda: _fit(site, night, run_key, blocks, split))
    site.store.delete(paths.checkpoint(night.use_case, run_key))  # by now the handle is kept
    best = fit.epochs[fit.best_epoch - 1]
    log.info(
        "Trained %d epochs on %s; epoch %d is best with validation loss %.4f.",
        len(fit.epochs), fit.device, fit.best_epoch, best.validation_loss,
    )  # fmt: skip
    return fit


def _fit(site: Site, night: Night, run_key: str, blocks: Blocks, split: Split) -> Fit:
    import torch
    from safetensors.torch import save

    from ml.models.training import StoredCheckpoints, encode, fit_candidate

    _require_same_code_and_machine(site, night)
    torch.set_num_threads(night.threads)
    encoder = _encoder(site, split)
    train, validation = (
        encode(site.use_case, encoder, site.reader(blocks).part_frames(night.as_of, part))
        for part in ("train", "validation")
    )
    total = site.use_case.model.epochs
    log.info("Training on %s with %d thread(s): %s rows, %d inputs.", night.device, night.threads, *_shape(train[0]))
    checkpoints = StoredCheckpoints(site.store, paths.checkpoint(night.use_case, run_key))
    fitted = fit_candidate(
        site.use_case, night, encoder, train, validation, lambda e: log.info("%s", _progress(e, total)), checkpoints
    )
    weights = save({name: weight.contiguous() for name, weight in fitted.network_.state_dict().items()})
    key = paths.stage_file(night.use_case, "train", run_key, "weights.safetensors")
    return Fit(
        weights=put_file(site.store, key, weights),
        best_epoch=fitted.best_epoch_,
        epochs=tuple(fitted.epochs_),
        target_mean=getattr(fitted, "mean_", 0.0),
        target_std=getattr(fitted, "std_", 1.0),
        device=fitted.device_,
        threads=night.threads,
        notes=fitted.notes_,
    )


def _require_same_code_and_machine(site: Site, night: Night) -> None:
    """Raises ConfigError where what was imported last, or what torch says itself, is not what the night began with."""
    require_same_code()
    machine = this_machine(site.settings.home)
    if (machine.device, lock_digest(machine.instructions)) != (night.device, night.lock_digest):
        raise ConfigError(
            "a machine stays as it is during a night", f"torch now says {machine.device}", "run the same command again"
        )


def _shape(x: object) -> tuple[str, int]:
    rows, width = x.shape  # type: ignore[attr-defined]
    return f"{rows:,}", width


def _progress(epoch: Epoch, total: int) -> str:
    score = "undefined" if epoch.validation_score is None else f"{epoch.validation_score:.3f}"
    return (
        f"Epoch {epoch.epoch} of {total}: train loss {epoch.train_loss:.4f}, "
        f"validation loss {epoch.validation_loss:.4f}, validation score {score}."
    )


def _encoder(site: Site, split: Split) -> Encoder:
    return from_json(Encoder, get_file(site.store, split.encoder))


@stage("upload candidate", timeout_seconds=1800)
def upload_candidate(night: Night, run_key: str, blocks: Blocks, split: Split, fit: Fit) -> Upload:
    """Packages the model with its code and puts every file where it will stay, with a proof of its answers."""
    site = site_of(night)
    place = without_passwords(site.settings.tracking_uri)
    key = digest_value([run_key, place])  # a run belongs to the MLflow that it was made in
    upload = resume(site, Upload, "upload", key, lambda: _upload(site, night, run_key, blocks, split, fit))
    size = sum(file.size for file in upload.files)
    log.info("Uploaded %d files of the model, %s bytes.", len(upload.files), f"{size:,}")
    return upload


def _upload(site: Site, night: Night, run_key: str, blocks: Blocks, split: Split, fit: Fit) -> Upload:
    model, held_out = _package(site, night, blocks, split, fit)
    name = f"{night.use_case} {night.as_of}"
    tags = {"use_case": night.use_case, "as_of": str(night.as_of)}
    finished = site.ledger.finished(run_key)  # its files are damaged: they are made again where the ledger says
    known = finished.candidate.run_id if finished and finished.candidate else None
    run_id = site.registry.run_id(run_key, name, tags, known)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        packaging.write_model(model, folder)
        files = packaging.upload_folder(site.store, folder, paths.model_folder(run_id))
    proof_key = paths.stage_file(night.use_case, "upload", run_key, "proof.parquet")
    return Upload(
        run_id=run_id,
        folder=paths.model_folder(run_id),
        files=files,
        digest=digest_of_files(files),
        threshold=model.output.threshold if model.output.kind == "binary" else None,
        proof=packaging.make_proof(site.store, proof_key, model, held_out),
    )


def _package(site: Site, night: Night, blocks: Blocks, split: Split, fit: Fit) -> tuple["PackagedModel", pd.DataFrame]:
    """The packaged model and the validation rows."""
    from safetensors.torch import load

    from ml.models.training import architecture, encode, package
    from ml.serving.model import build_network

    _require_same_code_and_machine(site, night)
    encoder = _encoder(site, split)
    network = build_network(architecture(site.use_case), encoder)
    network.load_state_dict(load(get_file(site.store, fit.weights)))
    held_out = site.reader(blocks).raw_rows(night.as_of, "validation")
    validation = encode(site.use_case, encoder, [held_out])
    model = package(site.use_case, site.rules, encoder, network, night, fit, validation)
    return model, held_out


@stage("verify candidate", timeout_seconds=900)
def verify_candidate(night: Night, run_key: str, upload: Upload) -> Verified:
    """Reads the model back from where it lies, loads it in a fresh process and compares its answers exactly."""
    site = site_of(night)

    def verify() -> Verified:
        rows = packaging.prove(site.store, _fetch(site, upload.folder, upload.files), upload.proof)
        return Verified(files=len(upload.files), rows=rows)

    verified = resume(site, Verified, "verify", digest_value([run_key, upload.digest]), verify)
    log.info("Verified the model's %d files and %d answers in a fresh process.", verified.files, verified.rows)
    return verified


def _fetch(site: Site, folder: str, files: tuple[FileRef, ...]) -> Path:
    return packaging.fetch_model(site.store, folder, files, site.settings.home / "cache")


@stage("evaluate models", timeout_seconds=1800)
def evaluate_models(
    night: Night, run_key: str, blocks: Blocks, split: Split, upload: Upload, head: AnyEntry | None
) -> Evaluations:
    """Scores candidate, champion, reference and baselines on the same test rows."""
    site = site_of(night)
    champion, reference = (head.champion, head.reference) if head else (None, None)
    opponents = {"champion": champion, "reference": reference}
    names = [model.identity if model else None for model in opponents.values()]
    lost = {who: _lost_files(site, model) for who, model in opponents.items()}
    key = digest_value([run_key, upload.digest, split.test_digest, names, lost])
    evaluations = resume(
        site,
        Evaluations,
        "evaluate",
        key,
        lambda: _evaluate(site, night, key, blocks, split, upload, opponents),
    )
    log.info("Evaluated %d predictors on %s test rows.", len(evaluations.models), f"{evaluations.rows:,}")
    return evaluations


def _evaluate(
    site: Site, night: Night, key: str, blocks: Blocks, split: Split, upload: Upload,
    opponents: dict[str, Champion | None],
) -> Evaluations:  # fmt: skip
    reader = site.reader(blocks)
    found = baselines(site.use_case, reader.labelled_columns(night.as_of, "train", rule_columns(site.use_case)))
    test = reader.raw_rows(night.as_of, "test")
    answers = {who: baseline.answers(test) for who, baseline in found.items()}
    answers["candidate"] = _candidates_answers(site, upload, test)
    described = {who: baseline.description for who, baseline in found.items()} | {"candidate": "tonight's model"}
    absent, incomparable = _compare_opponents(site, split, opponents, test, answers, described)
    judged = judge_all(site.use_case, test, split.test_digest, answers, described)
    evidence = replace(judged.evidence, not_applicable=absent, not_comparable=incomparable)
    shown = to_parquet(answer_table(test, answers["candidate"]))
    return Evaluations(
        test_digest=split.test_digest,
        rows=len(test),
        units=next(iter(evidence.pairs.values())).units,
        unit=evidence.unit,
        models=judged.models,
        not_comparable=incomparable,
        evidence=put_file(
            site.store, paths.stage_file(night.use_case, "evaluate", key, "evidence.json"), to_json(evidence)
        ),
        answers=put_file(site.store, paths.stage_file(night.use_case, "evaluate", key, "answers.parquet"), shown),
    )


def _candidates_answers(site: Site, upload: Upload, test: pd.DataFrame) -> Answers:
    """Raises ConfigError where there is none to some row: no gate may judge the others alone."""
    try:
        return _answers(site, _fetch(site, upload.folder, upload.files), test)
    except NoAnswer as error:
        raise ConfigError(
            "tonight's model must answer every test row", str(error), "look at its curve, or lower its learning_rate"
        ) from error


def _answers(site: Site, model_folder: Path, test: pd.DataFrame) -> Answers:
    """The packaged model's answers to the test rows. Raises NoAnswer where it has none, for good.

    Its files lie verified on this disk, so what it raises is of its own code and of these rows, and would be raised
    again. What it says is left out: it may quote rows.
    """
    try:
        return model_answers(site.use_case, registry.load_model(model_folder).predict, test)
    except (NoAnswer, MemoryError, OSError):  # of this machine, and passing: the last two
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):  # torch's own kind of it is a RuntimeError
            raise MemoryError from None
        raise NoAnswer(f"it raises {what_and_where(error)}") from error


def _compare_opponents(
    site: Site, split: Split, opponents: dict[str, Champion | None], test: pd.DataFrame,
    answers: dict[str, Answers], described: dict[str, str],
) -> tuple[dict[str, str], dict[str, str]]:  # fmt: skip
    """Adds the answers of every comparable opponent; returns why the others have none: absent, not comparable."""
    absent, incomparable = {}, {}
    for who, model in opponents.items():
        if model is None:
            absent[who] = f"there is no {who} yet"
            continue
        reason = comparability(
            model, split.test.first_day, site.use_case.target.digest, split_digest(site.use_case), who
        )
        try:
            if reason is None:
                answers[who] = _opponents_answers(site, model, test)
                described[who] = f"version {model.version}"
        except NoAnswer as error:
            reason = f"the {who} (version {model.version}) cannot be compared: {error}"
        if reason is not None:
            incomparable[who] = reason
    return absent, incomparable


def _opponents_answers(site: Site, model: Champion, test: pd.DataFrame) -> Answers:
    """Raises NoAnswer where the model cannot answer tonight's rows, for good. A store that is away raises as ever."""
    lost = _lost_files(site, model)
    if lost is not None:
        raise NoAnswer(lost)
    folder = _fetch(site, model.folder, model.files)
    try:
        taken = model_columns(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise NoAnswer(f"its description cannot be read ({what_and_where(error)})") from error
    lacking = _lacks(site, taken, test)
    if lacking is not None:
        raise NoAnswer(lacking)
    return _answers(site, folder, test)


def _lost_files(site: Site, model: Champion | None) -> str | None:
    """Says it where files of a registered version are gone from the store, or other ones than were registered."""
    broken = [file.key for file in model.files if not is_whole(site.store, file)] if model else []
    return f"{broken[0]} is gone or changed ({len(broken)} of its files)" if broken else None


def _lacks(site: Site, taken: tuple[Column, ...], test: pd.DataFrame) -> str | None:
    """Why a model cannot be asked: a column that it was trained on is no longer declared, or has another type."""
    gone = [column.name for column in taken if column.name not in test.columns]
    if gone:
        return f"it needs {', '.join(gone)}, which is no longer declared"
    today = {column.name: column.type for column in site.use_case.columns}
    other = [column for column in taken if today.get(column.name, column.type) != column.type]
    if other:
        return f"it takes {other[0].name} as {other[0].type}, and that is {today[other[0].name]} now"
    return None


@stage("judge gates", timeout_seconds=600)
def judge_gates(night: Night, evaluations: Evaluations, head: AnyEntry | None, blocked: str | None) -> Judgement:
    """Lets every gate weigh the evidence, and decides."""
    site = site_of(night)
    evidence = from_json(Evidence, get_file(site.store, evaluations.evidence))
    verdicts = tuple(gate.judge(evidence) for gate in site.use_case.gates)
    champion = head.champion if head else None
    as_of = night.as_of if site.use_case.dated else None
    decision, reason = decide(verdicts, champion, as_of, blocked)
    asks = site.use_case.on_inconclusive == "ask" and is_open(verdicts, champion, as_of, blocked)
    counts = Counter(verdict.verdict for verdict in verdicts)
    log.info("Judged %d gates (%s): %s.", len(verdicts), ", ".join(f"{n} {v}" for v, n in counts.items()), decision)
    return Judgement(
        verdicts=verdicts,
        decision=decision,
        reason=f"{reason} An operator is asked." if asks else reason,
        proved_better=_proved_better(site, evidence),
        blocked=blocked if all(verdict.verdict in ALLOWING for verdict in verdicts) else None,
        asks=asks,
        against_rule=BetterThanRule(metric=site.use_case.metric, why=RULE_OF_THUMB).judge(evidence)
        if "rule" in evidence.pairs
        else None,
    )


def _proved_better(site: Site, evidence: Evidence) -> bool:
    """The candidate beats the champion with its whole interval, so that it becomes the reference too."""
    pair = evidence.pairs.get("champion")
    return pair is not None and Difference.of(pair, site.use_case.metric, evidence.seed).low > 0
