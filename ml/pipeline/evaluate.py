"""The stage that judges: every predictor is scored on the same test rows, the gates weigh the scores, and one decides.

The predictors are the candidate, the champion, the reference and two simple baselines. An opponent that cannot be
compared is named with the reason. A candidate that does not answer every test row is refused with ConfigError.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

import pandas as pd

from ml.data.cleaning import from_parquet, to_parquet
from ml.data.handles import Cleaned, Split
from ml.data.split import split_digest
from ml.digests import digest_value
from ml.errors import ConfigError, what_and_where
from ml.evaluation.baselines import Constant, rule_columns
from ml.evaluation.code import JUDGING
from ml.evaluation.day_scores import sums_by_day
from ml.evaluation.decision import comparability, decide, is_open
from ml.evaluation.gates import ALLOWING, BetterThanRule, BetterThanTrees, Difference, Evidence, Gate
from ml.evaluation.handles import (
    DefaultTrees,
    Evaluations,
    Judgement,
    LearntConstant,
    SourceWatch,
    Verdict,
    VerdictName,
)
from ml.evaluation.judging import NoAnswer, Predict, answer_table, answers_of, baselines, judge_all, model_answers
from ml.evaluation.promise import Promise, promise_of
from ml.metrics.scores import PROBABILITY_SCORES, Answers
from ml.models.description import model_columns, predict_raw
from ml.models.handles import Upload
from ml.pipeline.site import Site, resume
from ml.pipeline.upload import fetch
from ml.serving.columns import Column
from ml.storage import paths, registry
from ml.storage.json_form import from_json, to_json
from ml.storage.ledger import AnyEntry
from ml.storage.records import Champion, Night, Registered
from ml.storage.store import get_file, is_whole, put_file
from ml.use_case.definition import UseCase

R = TypeVar("R")
BEST_KNOWN = "a model must say where untuned trees do as well"
RULE_OF_THUMB = "a model that a rule of thumb equals must say so"


def evaluate_models(
    site: Site, night: Night, training_key: str, cleaned: Cleaned, split: Split, upload: Upload, head: AnyEntry | None,
    trees: DefaultTrees | None = None,
) -> Evaluations:  # fmt: skip
    """Scores candidate, champion, reference and baselines on the same test rows. `trees` are the default trees.

    The result is kept under a key that includes who the opponents are and whether their files are undamaged. Of the
    gates only the scores of probabilities that they name are part of it, because the evidence has sums for these alone.
    """
    champion, reference = (head.champion, head.reference) if head else (None, None)
    opponents = {"champion": champion, "reference": reference}
    identities = [model.identity if model else None for model in opponents.values()]
    lost = {who: _lost_files(site, model) for who, model in opponents.items()}
    named = named_scores(site.use_case)
    key = digest_value(
        [training_key, JUDGING.digest, upload.digest, split.test_digest, identities, lost, named, *_of_trees(trees)]
    )

    def make() -> Evaluations:
        return _evaluate(site, night, key, cleaned, split, upload, opponents, trees)

    return resume(site, Evaluations, "evaluate", key, make)


def _evaluate(
    site: Site, night: Night, key: str, cleaned: Cleaned, split: Split, upload: Upload,
    opponents: dict[str, Champion | None], trees: DefaultTrees | None,
) -> Evaluations:  # fmt: skip
    reader = site.reader(cleaned)
    train = reader.labelled_columns(night.as_of, "train", rule_columns(site.use_case))
    simple_rules = baselines(site.use_case, train)
    test = reader.raw_rows(night.as_of, "test")
    answers = {who: rule.answers(test) for who, rule in simple_rules.items()}
    answers["candidate"] = _candidates_answers(site, upload, test)
    descriptions = {who: rule.description for who, rule in simple_rules.items()} | {"candidate": "tonight's model"}
    absent, incomparable = _compare_opponents(site, split, opponents, test, answers, descriptions)
    if trees is not None and trees.answers is not None:
        answers["trees"] = answers_of(from_parquet(get_file(site.store, trees.answers)))
        descriptions["trees"] = trees.description
    elif trees is not None:
        incomparable["trees"] = f"default trees cannot be compared: {trees.reason}"
    judged = judge_all(site.use_case, test, answers, descriptions, named_scores(site.use_case))
    evidence = replace(judged.evidence, not_applicable=absent, not_comparable=incomparable)
    table = to_parquet(answer_table(test, answers["candidate"]))
    constant = simple_rules["constant"]
    assert isinstance(constant, Constant)
    return Evaluations(
        test_digest=split.test_digest,
        rows=len(test),
        units=next(iter(evidence.pairs.values())).units,
        unit=evidence.unit,
        models=judged.models,
        is_champion=_is(upload, opponents["champion"]),
        not_comparable=incomparable,
        evidence=put_file(
            site.store, paths.stage_file(night.use_case, "evaluate", key, "evidence.json"), to_json(evidence)
        ),
        answers=put_file(site.store, paths.stage_file(night.use_case, "evaluate", key, "answers.parquet"), table),
        constant=LearntConstant(answer=constant.answer, shares=constant.shares),
        promise=_promise(site.use_case, test, answers, constant) if site.use_case.dated else None,
    )


def _of_trees(trees: DefaultTrees | None) -> list[str | None]:
    """What of the default trees decides about an evaluation."""
    return [] if trees is None else [trees.answers.digest if trees.answers else trees.reason]


def _promise(use_case: UseCase, test: pd.DataFrame, answers: dict[str, Answers], constant: Constant) -> Promise:
    """What the candidate's scores on single test days promise of the days that it will serve."""
    model, trivial = (sums_by_day(use_case, test, answers[who], constant.answer) for who in ("candidate", "constant"))
    return promise_of(use_case.metric, model, trivial)


def named_scores(use_case: UseCase) -> list[str]:
    """The scores of probabilities that the use case or one of its gates names."""
    named = {use_case.metric, *(gate.metric for gate in use_case.gates)}
    return [name for name in PROBABILITY_SCORES if name in named]


def _is(upload: Upload, model: Champion | None) -> bool:
    return model is not None and model.identity == (upload.run_id, upload.digest)


def _candidates_answers(site: Site, upload: Upload, test: pd.DataFrame) -> Answers:
    """The candidate's answers to the test rows. Raises ConfigError if a row gets none: no gate may judge on the
    rest."""
    try:
        return _answers(site, fetch(site, upload.folder, upload.files), test)
    except NoAnswer as error:
        raise ConfigError(
            "tonight's model must answer every test row", str(error), "look at its curve, or lower its learning_rate"
        ) from error


def _answers(site: Site, model_folder: Path, test: pd.DataFrame) -> Answers:
    """The packaged model's answers to the test rows. Raises NoAnswer if it can never answer them."""
    return told(lambda: model_answers(site.use_case, _predict_of(model_folder), test))


def _predict_of(model_folder: Path) -> Predict:
    """The function by which the packaged model answers raw rows."""
    return partial(predict_raw, registry.load_model(model_folder))


def told(run: Callable[[], R]) -> R:
    """What the packaged model's code gives. Raises NoAnswer if it never can.

    The model's files lie on this disk and were verified. So an exception comes from the model's code and these rows,
    and would come again. Only its kind and place are told, because its text may quote rows.
    """
    try:
        return run()
    except (NoAnswer, MemoryError, OSError):  # the last two are this machine's and may pass
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):  # torch raises a RuntimeError if memory is lacking
            raise MemoryError from None
        raise NoAnswer(f"it raises {what_and_where(error)}") from error


def _compare_opponents(
    site: Site, split: Split, opponents: dict[str, Champion | None], test: pd.DataFrame,
    answers: dict[str, Answers], descriptions: dict[str, str],
) -> tuple[dict[str, str], dict[str, str]]:  # fmt: skip
    """Adds answers and description of every opponent that can be compared.

    Returns two dictionaries of opponent to reason: those that do not exist, and those that cannot be compared.
    """
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
                descriptions[who] = f"version {model.version}"
        except NoAnswer as error:
            reason = f"the {who} (version {model.version}) cannot be compared: {error}"
        if reason is not None:
            incomparable[who] = reason
    return absent, incomparable


def _opponents_answers(site: Site, model: Champion, test: pd.DataFrame) -> Answers:
    """The answers of a registered version. Raises what `opened_version` and its function raise."""
    return opened_version(site, model)(test)


def opened_version(site: Site, model: Registered) -> Callable[[pd.DataFrame], Answers]:
    """A function that answers raw rows with a registered version, which is loaded once.

    Both raise NoAnswer if the version can never answer, StoreUnavailable if its files cannot be read now.
    """
    lost = _lost_files(site, model)
    if lost is not None:
        raise NoAnswer(lost)
    folder = fetch(site, model.folder, model.files)
    try:
        columns = model_columns(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise NoAnswer(f"its description cannot be read ({what_and_where(error)})") from error
    predict = told(lambda: _predict_of(folder))

    def answers(rows: pd.DataFrame) -> Answers:
        reason = _why_columns_differ(site, columns, rows)
        if reason is not None:
            raise NoAnswer(reason)
        return told(lambda: model_answers(site.use_case, predict, rows))

    return answers


def _lost_files(site: Site, model: Registered | None) -> str | None:
    """Which files of a registered version are gone from the store or changed, in words; None if all are undamaged."""
    damaged = [file.key for file in model.files if not is_whole(site.store, file)] if model else []
    return f"{damaged[0]} is gone or changed ({len(damaged)} of its files)" if damaged else None


def _why_columns_differ(site: Site, columns: tuple[Column, ...], test: pd.DataFrame) -> str | None:
    """Which of the model's columns is no longer declared or has another type now, in words; None if all fit."""
    gone = [column.name for column in columns if column.name not in test.columns]
    if gone:
        return f"it needs {', '.join(gone)}, which is no longer declared"
    types = {column.name: column.type for column in site.use_case.columns}
    retyped = [column for column in columns if types.get(column.name, column.type) != column.type]
    if retyped:
        return f"it takes {retyped[0].name} as {retyped[0].type}, and that is {types[retyped[0].name]} now"
    return None


def judge_gates(
    site: Site, night: Night, evaluations: Evaluations, watch: SourceWatch, head: AnyEntry | None, blocked: str | None
) -> Judgement:
    """Lets every gate weigh the evidence, and decides. `blocked` says why nothing may be promoted now, if so."""
    evidence = replace(from_json(Evidence, get_file(site.store, evaluations.evidence)), source=watch.evidence)
    verdicts = tuple(verdict_of(gate, evidence) for gate in site.use_case.gates)
    champion = head.champion if head else None
    as_of = night.as_of if site.use_case.dated else None
    serves = evaluations.is_champion
    decision, reason = decide(verdicts, champion, as_of, blocked, is_champion=serves)
    all_allow = all(verdict.verdict in ALLOWING for verdict in verdicts)
    rule_of_thumb = BetterThanRule(metric=site.use_case.metric, why=RULE_OF_THUMB)
    best_known = BetterThanTrees(metric=site.use_case.metric, why=BEST_KNOWN)
    asks = _may_ask(site.use_case, verdicts) and not serves and is_open(verdicts, champion, as_of, blocked)
    return Judgement(
        verdicts=verdicts,
        decision=decision,
        reason=f"{reason} An operator is asked." if asks else reason,
        proved_better=proved_better(site.use_case.metric, evidence),
        blocked=blocked if all_allow else None,
        asks=asks,
        source_changes=tuple(evidence.source.open) if evidence.source else (),
        against_rule=rule_of_thumb.judge(evidence) if "rule" in evidence.pairs else None,
        against_trees=best_known.judge(evidence) if "trees" in evidence.pairs else None,
    )


def _may_ask(use_case: UseCase, verdicts: Sequence[Verdict]) -> bool:
    """Whether a person is asked if these verdicts leave it open: by the use case, or by a gate that always asks."""
    asking = {gate.name for gate in use_case.gates if gate.always_asks}
    return use_case.on_inconclusive == "ask" or any(
        verdict.gate in asking and verdict.verdict == "INCONCLUSIVE" for verdict in verdicts
    )


def verdict_of(gate: Gate, evidence: Evidence) -> Verdict:
    """The gate's verdict. Raises ConfigError if a gate of a company's own raises, or gives anything but a verdict."""
    try:
        verdict = gate.judge(evidence)
    except MemoryError:  # this machine's, and it may pass
        raise
    except Exception as error:
        raise ConfigError(
            f"the gate {gate.name} must give a verdict", f"it raises {what_and_where(error)}", "mend the gate"
        ) from error
    words = get_args(VerdictName)
    if not isinstance(verdict, Verdict) or verdict.verdict not in words:
        seen = verdict.verdict if isinstance(verdict, Verdict) else f"a {type(verdict).__name__}"
        raise ConfigError(
            f"the gate {gate.name} must give a verdict, one of {', '.join(words)}",
            f"it gives {seen}",
            "return self.verdict(...) from its weigh",
        )
    return verdict


def proved_better(metric: str, evidence: Evidence) -> bool:
    """Whether the whole interval of the difference says that the candidate is better than the champion. A candidate
    that is promoted then becomes the reference too."""
    pair = evidence.pairs.get("champion")
    return pair is not None and Difference.of(pair, metric).low > 0
