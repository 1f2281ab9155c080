"""Scores every predictor on the same test rows, lets the gates weigh them, and decides."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from ml.data.cleaning import to_parquet
from ml.data.handles import Cleaned, Split
from ml.data.split import split_digest
from ml.digests import digest_value
from ml.errors import ConfigError, what_and_where
from ml.evaluation.baselines import rule_columns
from ml.evaluation.decision import comparability, decide, is_open
from ml.evaluation.gates import ALLOWING, BetterThanRule, Difference, Evidence
from ml.evaluation.handles import Evaluations, Judgement
from ml.evaluation.judging import NoAnswer, answer_table, baselines, judge_all, model_answers
from ml.metrics.scores import Answers
from ml.models.handles import Upload
from ml.operations.scoring import model_columns
from ml.pipeline.site import Site, resume
from ml.pipeline.upload import fetch
from ml.serving.columns import Column
from ml.storage import paths, registry
from ml.storage.json_form import from_json, to_json
from ml.storage.ledger import AnyEntry
from ml.storage.records import Champion, Night
from ml.storage.store import get_file, is_whole, put_file

RULE_OF_THUMB = "a model that a rule of thumb equals must say so"


def evaluate_models(
    site: Site, night: Night, run_key: str, cleaned: Cleaned, split: Split, upload: Upload, head: AnyEntry | None
) -> Evaluations:
    """Scores candidate, champion, reference and baselines on the same test rows."""
    champion, reference = (head.champion, head.reference) if head else (None, None)
    opponents = {"champion": champion, "reference": reference}
    names = [model.identity if model else None for model in opponents.values()]
    lost = {who: _lost_files(site, model) for who, model in opponents.items()}
    key = digest_value([run_key, upload.digest, split.test_digest, names, lost])
    return resume(
        site,
        Evaluations,
        "evaluate",
        key,
        lambda: _evaluate(site, night, key, cleaned, split, upload, opponents),
    )


def _evaluate(
    site: Site, night: Night, key: str, cleaned: Cleaned, split: Split, upload: Upload,
    opponents: dict[str, Champion | None],
) -> Evaluations:  # fmt: skip
    reader = site.reader(cleaned)
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
        return _answers(site, fetch(site, upload.folder, upload.files), test)
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
    folder = fetch(site, model.folder, model.files)
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


def judge_gates(
    site: Site, night: Night, evaluations: Evaluations, head: AnyEntry | None, blocked: str | None
) -> Judgement:
    """Lets every gate weigh the evidence, and decides."""
    evidence = from_json(Evidence, get_file(site.store, evaluations.evidence))
    verdicts = tuple(gate.judge(evidence) for gate in site.use_case.gates)
    champion = head.champion if head else None
    as_of = night.as_of if site.use_case.dated else None
    decision, reason = decide(verdicts, champion, as_of, blocked)
    asks = site.use_case.on_inconclusive == "ask" and is_open(verdicts, champion, as_of, blocked)
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
