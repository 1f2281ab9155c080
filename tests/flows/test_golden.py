"""Golden answers of today's code: every shipped use case on its real data (slow), and small ones through plain stages.

A change that must not move an answer leaves these files as they are. One that moves answers on purpose records them
anew, and the difference of the files says what moved.
"""

import dataclasses
import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from ml import BetterThanRule, BetterThanTrivial, MinMetric, NotWorseThanChampion, NotWorseThanReference, UseCase
from ml.data.cleaning import DAY
from ml.data.handles import PARTS
from ml.data.split import split_digest, undated_parts
from ml.data.statistics import DayStatistics
from ml.digests import digest_bytes, digest_value
from ml.evaluation.decision import decide
from ml.evaluation.judging import baselines, judge_all, model_answers
from ml.models import packaging
from ml.pipeline import refit
from ml.serving.model import PackagedModel
from ml.serving.output import TaskKind
from ml.serving.rules import rule_to_dict
from ml.settings import Settings
from ml.storage.json_form import to_json
from ml.storage.ledger import Ledger, NightEntry
from ml.storage.store import open_store
from ml.use_case.loading import load_use_case, use_case_files
from tasks.site import open_site
from tests import golden_answers, tiny
from tests.conftest import _answers_here
from tests.data import test_data
from tests.story import Shop

SHIPPED = sorted(use_case_files(None))
UNDATED_AS_OF = date(2026, 1, 1)  # any day of the past: no row has a date
OTHER_SEED = 7


shop = test_data.shop


@pytest.fixture(scope="module")
def one_blas_thread() -> Iterator[None]:
    """Another number of threads may sum in another order."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="module")
def golden_home(prefect: str, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Settings]:
    """One home for the nights of all use cases, whose models answer in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_HOME", str(tmp_path_factory.mktemp("golden")))
        patch.setattr(packaging, "answers_of_a_fresh_process", _answers_here)
        patch.setattr(refit, "is_due", lambda *_: False)  # `tests/flows/test_refit.py` has nights with refits
        yield Settings.from_environment()


def two_nights(name: str) -> list[dict[str, Any]]:
    """The requests: of a dated use case the night after, of another one the same night with another seed."""
    first = load_use_case(name, None).replay_from
    if first is None:
        return [{"as_of": str(UNDATED_AS_OF)}, {"as_of": str(UNDATED_AS_OF), "seed": OTHER_SEED}]
    return [{"as_of": str(first)}, {"as_of": str(first + timedelta(days=1))}]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_two_nights_of_a_shipped_use_case_answer_as_ever(
    name: str, golden_home: Settings, one_blas_thread: None
) -> None:
    from deployments.prefect.night import run_here

    answers = {}
    for which, request in zip(("first", "second"), two_nights(name), strict=True):
        done = run_here({"use_case": name, **request})
        entry = Ledger(open_store(golden_home.store), name).entry(done["entry"])
        assert isinstance(entry, NightEntry)
        answers[which] = golden_answers.night_answers(golden_home, entry)
    golden_answers.compare(name, answers)


def learnt(use_case: UseCase, seed: int, train: pd.DataFrame, validation: pd.DataFrame, folder: Path) -> PackagedModel:
    """A night's model by the plain functions of its stages."""
    return tiny.fit(use_case, folder, train, validation, seed)[1]


def judged_against(
    use_case: UseCase, candidate: PackagedModel, champion: PackagedModel, train: pd.DataFrame, test: pd.DataFrame
) -> dict[str, Any]:  # fmt: skip
    """Scores, evidence and verdicts of the candidate, with a champion that is the reference too."""
    found = baselines(use_case, train)
    answers = {who: baseline.answers(test) for who, baseline in found.items()}
    for who, model in (("candidate", candidate), ("champion", champion), ("reference", champion)):
        answers[who] = model_answers(use_case, model.predict, test)
    described = {who: found[who].description if who in found else who for who in answers}
    judged = judge_all(use_case, test, answers, described)
    verdicts = [gate.judge(judged.evidence) for gate in use_case.gates]
    decision, reason = decide(verdicts, None, None)
    return {
        "models": json.loads(to_json(judged.models)),
        "evidence": digest_bytes(to_json(judged.evidence)),
        "unit": judged.evidence.unit,
        "said": {who: digest_bytes(said.chosen.tobytes()) for who, said in answers.items()},
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
        "decision": [decision, reason],
    }


def files_of(model: PackagedModel, folder: Path) -> dict[str, Any]:
    model.save(folder)
    contents, fitted = (json.loads((folder / name).read_text()) for name in ("model.json", "kind/network.json"))
    tensors = golden_answers.tensors((folder / "kind" / "weights.safetensors").read_bytes())
    return {"model": golden_answers.model_answers(contents, fitted), "weights": tensors}


def with_all_gates(use_case: UseCase) -> UseCase:
    """Of several classes no rule on one column is."""
    metric, rules = use_case.metric, use_case.target.kind != "multiclass"
    gates = (
        MinMetric(metric=metric, floor=0.5, why="a test"),
        BetterThanTrivial(metric=metric, why="a test"),
        *([BetterThanRule(metric=metric, why="a test")] if rules else []),
        NotWorseThanChampion(metric=metric, max_drop=0.05, why="a test"),
        NotWorseThanReference(metric=metric, max_drop=0.2, why="a test"),
    )
    return dataclasses.replace(use_case, gates=gates)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_small_model_of_every_kind_answers_as_ever(
    kind: TaskKind, tmp_path: Path, one_thread: None, one_blas_thread: None
) -> None:
    """Rows without time, from their types to the verdicts."""
    use_case = with_all_gates(tiny.parcels(kind))
    rows = tiny.cleaned(use_case, tiny.parcel_rows(600)).assign(**{DAY: "all"})
    parts = undated_parts(use_case, rows)
    train, validation, test = (rows[parts == part] for part in PARTS)
    candidate, champion = (learnt(use_case, seed, train, validation, tmp_path / str(seed)) for seed in (1, 2))
    answers = {
        "parts": {part: int((parts == part).sum()) for part in PARTS},
        "where": digest_value(list(parts)),
        "statistics": digest_bytes(to_json(DayStatistics.of(use_case, train))),
        "candidate": files_of(candidate, tmp_path / "candidate"),
        "judged": judged_against(use_case, candidate, champion, train, test),
    }
    golden_answers.compare(f"small_{kind}", answers)


def test_the_data_stages_of_two_small_nights_answer_as_ever(
    shop: Shop, tmp_path: Path, one_thread: None, one_blas_thread: None
) -> None:
    """Dated files with a broken row, an exact duplicate, a row without a label and a column that nobody declared; then
    the models of both nights."""
    spoil(shop)
    use_case = with_all_gates(test_data.site().use_case)
    answers, models = {}, []
    for which, as_of in (("first", test_data.AS_OF), ("second", test_data.NEXT)):
        done = test_data.Done(as_of)
        train, validation, test = (done.raw_rows(part) for part in PARTS)
        models.append(learnt(use_case, len(models), train, validation, tmp_path / f"fit {which}"))
        answers[which] = {
            "rows": {part: dataclasses.asdict(getattr(done.split, part)) for part in PARTS},
            "test_digest": done.split.test_digest,
            "fit_until": done.split.fit_until,
            "encoder": json.loads(to_json(done.encoder)),
            "checks": {name: json.loads(to_json(done.checks))[name] for name in CHECKS},
            "work": done.work,
            "model": files_of(models[-1], tmp_path / which),
            "judged": judged_against(use_case, models[-1], models[0], train, test),
        }
    golden_answers.compare("small_dated", answers)


CHECKS = (
    "rows", "duplicates", "quarantined", "unlabelled", "broken", "quarantined_days", "undeclared", "moves", "unmatched",
    "left_out", "rules",
)  # fmt: skip


def spoil(shop: Shop) -> None:
    rows = pd.read_parquet(shop.file("2024-01-05"))
    rows.loc[3, "amount"] = -1.0
    rows.loc[4, "days_to_pay"] = None
    pd.concat([rows, rows.tail(1)]).assign(colour="red").to_parquet(shop.file("2024-01-05"))


DIGESTS = ("digest", "reading_digest", "statistics_digest")


def test_digests_by_which_kept_champions_are_compared_stay_as_they_are() -> None:
    """Those of the seven use cases and of the tests' own. A changed target or split digest would make every champion
    of a store incomparable; another one of the others makes nights compute again what they had kept."""
    small = {"tills": tiny.tills(), **{f"parcels {kind}": tiny.parcels(kind) for kind in tiny.KINDS}}
    use_cases = {name: load_use_case(name, None) for name in SHIPPED} | small
    digests = {
        name: {
            "target": use_case.target.digest,
            "split": split_digest(use_case),
            **{digest: getattr(use_case, digest) for digest in DIGESTS},
        }
        for name, use_case in use_cases.items()
    }
    sites = {name: open_site(name) for name in SHIPPED}
    resolved = {
        name: digest_value([site.use_case.digest, [rule_to_dict(rule) for rule in site.rules]])
        for name, site in sites.items()
    }
    golden_answers.compare_with(golden_answers.FOLDER / "digests.json", {"use cases": digests, "resolved": resolved})


def test_the_first_difference_is_named_by_its_place_to_the_last_bit() -> None:
    golden = {"scores": {"f1": 0.1 + 0.2}, "notes": ["a", "b"], "gone": 1}
    now = {"scores": {"f1": 0.3}, "notes": ["a"], "new": None}
    assert list(golden_answers.differences(json.loads(golden_answers.pretty(golden)), golden)) == []
    assert list(golden_answers.differences(golden, now)) == [
        'gone, which was 1 and is "absent"',
        'new, which was "absent" and is null',
        'notes, which was ["a", "b"] and is ["a"]',
        "scores.f1, which was 0.30000000000000004 and is 0.3",
    ]
    with pytest.raises(ValueError, match="not JSON compliant"):
        golden_answers.pretty({"f1": float("nan")})
