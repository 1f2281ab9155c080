"""A winner is fitted once more on all due rows, and that model serves; gates and references see the judged one."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

import ml.pipeline.refit
from deployments.cli import main
from ml import NetworkClassifier
from ml.data.cleaning import LABEL
from ml.declarations import plain
from ml.digests import digest_value
from ml.errors import ConfigError, StoreUnavailable, Unforeseen
from ml.evaluation.day_scores import read_days
from ml.evaluation.handles import Judgement
from ml.models.protocol import Fitted, Job, Rows
from ml.operations.moves import plan_exclude, plan_hold
from ml.pipeline.refit import is_due
from ml.reporting import page
from ml.storage.ledger import Ledger, open_questions
from ml.storage.records import Champion
from ml.storage.registry import CHAMPION, REFERENCE, Registry
from ml.storage.store import is_whole, open_store
from tests.data.test_data import edit_use_case
from tests.storage.test_ledger import entry, pair, version
from tests.story import ROWS_A_DAY, Shop
from tests.tiny import tills

BY_NAME = ("--reason", "a test says so", "--yes")
REFIT_STAGES = ["refit candidate", "upload refit", "verify refit"]


@pytest.fixture
def shop(shop_with_cleaned_days: Shop) -> Shop:
    return shop_with_cleaned_days


@pytest.fixture
def refitted(shop: Shop) -> Shop:
    """The shop, whose winners are refitted."""
    edit_use_case(shop, '    refit="never",\n', "")
    return shop


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The document of a command that succeeds."""
    code = main([*words, "--json"])
    said = capsys.readouterr()
    assert code == 0, said
    return json.loads(said.out)


def checked(capsys: pytest.CaptureFixture[str]) -> Any:
    """What the doctor finds."""
    main(["doctor", "shop", "--json"])
    return json.loads(capsys.readouterr().out)


def registry(shop: Shop) -> Registry:
    return Registry(shop.settings, "shop")


def champion(shop: Shop) -> Champion:
    head = shop.ledger.head()
    assert head is not None and head.champion is not None
    return head.champion


def test_two_promoted_nights(refitted: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    first = refitted.document("2024-03-15")
    assert first["decision"] == "FIRST"
    assert [stage for stage in first["seconds"] if "refit" in stage] == REFIT_STAGES
    one = champion(refitted)
    assert (one.version, one.served.version) == (1, 2)
    second = refitted.document("2024-03-16")
    assert second["decision"] == "PROMOTE", second["reason"]
    two = champion(refitted)
    assert (two.version, two.served.version) == (3, 4)
    assert (two.fit_until, two.served.fit_until) == ("2024-02-16", "2024-03-15")
    assert (second["champion_before"], second["champion_after"]) == (1, 3)
    assert second["serves"] == {"version": 4, "refit_of": 3, "fit_until": "2024-03-15"}
    assert second["scores"]["champion"]["description"] == "version 1"
    assert (registry(refitted).alias(CHAMPION), registry(refitted).alias(REFERENCE)) == (4, 1)
    assert refitted.document("2024-03-16") == {**second, "replayed": True}
    assert [version.number for version in registry(refitted).versions()] == [1, 2, 3, 4]
    file, out = refitted.file("2024-03-17"), refitted.settings.home / "out.csv"
    scored = typed(capsys, "score", "shop", str(file), "-o", str(out))
    assert (scored["version"], scored["refit_of"]) == (4, 3)
    assert scored["threshold"] == second["training"]["threshold"]
    (row,) = [row for row in typed(capsys, "status", "shop")["use_cases"] if row["use_case"] == "shop"]
    assert (row["champion"], row["serves"]) == (3, second["serves"])
    assert [(row["version"], row["refit"], row["serves"]) for row in typed(capsys, "ledger", "shop")["entries"]] == [
        (1, 2, 2),
        (3, 4, 4),
    ]
    assert typed(capsys, "doctor", "shop")["left"] == 0
    assert registry(refitted).running() == []
    typed(capsys, "rollback", "shop", *BY_NAME)
    assert registry(refitted).alias(CHAMPION) == 2
    assert champion(refitted) == one
    assert main(["promote", "shop", "--version", "4", *BY_NAME]) == 0
    assert "Champion of shop is now version 3, whose refit, version 4, serves (it was 2)." in capsys.readouterr().out
    judged, refit = (registry(refitted).client.get_model_version("shop", number) for number in ("3", "4"))
    assert "fitted once more as version 4, to serve in its place." in judged.description
    assert "Version 3 was judged. This is its recipe, fitted once more on all due rows up to 2024" in refit.description
    assert (refit.tags["refit_of"], refit.tags["fit_until"]) == ("3", "2024-03-15")
    assert champion(refitted) == two
    assert (registry(refitted).alias(CHAMPION), registry(refitted).alias(REFERENCE)) == (4, 3)


Plant = Callable[[NetworkClassifier, Job], Fitted]
fit = NetworkClassifier.fit_rows


def otherwise(**params: Any) -> Plant:
    return lambda learner, job: fit(learner.__class__(**{**learner.get_params(), **params}), job)


def labelled(label: Callable[[pd.Series], Any]) -> Plant:
    """The rows with other labels."""

    def plant(learner: NetworkClassifier, job: Job) -> Fitted:
        frames = [frame.assign(**{LABEL: label(frame[LABEL])}) for frame in job.train]
        return fit(learner, replace(job, train=Rows(lambda: iter(frames))))

    return plant


def raises(error: Exception) -> Plant:
    def plant(learner: NetworkClassifier, job: Job) -> Fitted:
        raise error

    return plant


def nearly_all_late(labels: pd.Series) -> Any:
    return (np.arange(len(labels)) > 0).astype(float)


def turned(labels: pd.Series) -> Any:
    return 1 - labels


def no_number(labels: pd.Series) -> Any:
    return float("nan")


BROKEN: dict[str, tuple[Plant, str]] = {
    "its learning rate is far too high": (otherwise(learning_rate=1e30), "its loss on the test rows"),
    "it has no labels": (labelled(no_number), "it raises ValueError at "),
    "it learnt one class": (labelled(nearly_all_late), "test rows"),
    "it learnt the opposite": (labelled(turned), "test rows"),
    "it cannot be fitted so": (raises(KeyError("a private value")), "it raises KeyError at test_refit.py"),
}


def planting(monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    """From now on refits, and no other fits, are made so."""
    monkeypatch.setattr(
        NetworkClassifier, "fit_rows", lambda me, job: (plant if job.chosen is not None else fit)(me, job)
    )


@pytest.mark.slow
def test_a_night_that_asks_has_its_refit_ready_and_what_is_lost_comes_back(
    refitted: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of the refit come back by the same night, both versions by the doctor. Nothing is fitted twice, though the
    head of the ledger moved."""
    refitted.night("2024-03-15")
    edit_use_case(refitted, "max_drop=0.05", "max_drop=0.0001")
    edit_use_case(refitted, "    min_rows", '    on_inconclusive="ask",\n    min_rows')
    fits: list[bool] = []
    counted: Plant = lambda learner, job: [fits.append(job.chosen is None), fit(learner, job)][1]  # noqa: E731
    monkeypatch.setattr(NetworkClassifier, "fit_rows", counted)
    append = Ledger.append

    def overtaken(ledger: Ledger, entry: Any) -> bool:
        monkeypatch.setattr(Ledger, "append", append)
        assert append(ledger, plan_exclude(ledger, "2023-12-31", "another operator was first"))
        return append(ledger, entry)

    monkeypatch.setattr(Ledger, "append", overtaken)
    asks = refitted.document("2024-03-16")
    assert (asks["decision"], asks["asks"], asks["champion_after"]) == ("KEEP", True, 1)
    assert (asks["version"], asks["refit"]["version"], asks["serves"]["version"]) == (3, 4, 2)
    assert fits == [True, False]
    assert registry(refitted).alias(CHAMPION) == 2
    typed(capsys, "promote", "shop", "--version", "3", *BY_NAME)
    both = champion(refitted)
    assert (both.version, both.served.version, registry(refitted).alias(CHAMPION)) == (3, 4, 4)
    assert open_questions(refitted.ledger.entries()) == []
    store = open_store(refitted.settings.store)
    store.delete(both.served.files[0].key)
    assert "the champion's refit version 4 is damaged" in str(checked(capsys))
    assert refitted.document("2024-03-16")["replayed"]
    assert is_whole(store, both.served.files[0])
    assert fits == [True, False]
    registry(refitted).client.delete_registered_model("shop")
    typed(capsys, "doctor", "shop", "--mend")
    assert registry(refitted).number_of(both.served) == registry(refitted).alias(CHAMPION)
    assert [version.run_id for version in registry(refitted).versions()] == [
        version.run_id for night in refitted.entries() if night.candidate for version in night.candidate.versions
    ]
    assert registry(refitted).running() == []


@pytest.mark.slow
def test_a_no_keeps_the_refit_with_its_version_and_nobody_complains(
    refitted: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    refitted.night("2024-03-15")
    edit_use_case(refitted, "max_drop=0.05", "max_drop=0.0001")
    edit_use_case(
        refitted, "    min_rows", '    on_inconclusive="ask",\n    retention=Retention(versions=1),\n    min_rows'
    )
    edit_use_case(refitted, "    MinMetric,", "    MinMetric,\n    Retention,")
    asks = refitted.document("2024-03-16")
    assert (asks["asks"], asks["version"], asks["refit"]["version"]) == (True, 3, 4)
    typed(capsys, "promote", "shop", "--version", "4", "--no", *BY_NAME)
    assert (champion(refitted).served.version, registry(refitted).alias(CHAMPION)) == (2, 2)
    (row,) = [row for row in typed(capsys, "status", "shop")["use_cases"] if row["use_case"] == "shop"]
    assert (row["serves"]["version"], row["asks"], row["mlflow"]) == (2, [], [])
    assert (registry(refitted).running(), typed(capsys, "doctor", "shop")["left"]) == ([], 0)
    assert main(["gc", "shop", "--json"]) == 0
    assert "never served" not in capsys.readouterr().out, "the newest judged version stays, with its refit"
    edit_use_case(refitted, '    on_inconclusive="ask",\n', "")
    kept = refitted.document("2024-03-17")
    assert (kept["decision"], kept["version"], kept["refit"]) == ("KEEP", 5, None)
    assert main(["gc", "shop", "--yes", "--json"]) == 0
    capsys.readouterr()
    assert [version.number for version in registry(refitted).versions()] == [1, 2, 5]
    assert typed(capsys, "doctor", "shop")["left"] == 0


@pytest.mark.slow
def test_a_refit_that_another_run_made_needless_is_not_the_candidates(
    refitted: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The night fits it, an operator holds the use case first, and the night keeps its champion. Promoted by hand, the
    version serves as it was judged. The night that is run again after the hold fits nothing anew."""
    refitted.night("2024-03-15")
    fits: list[bool] = []
    counted: Plant = lambda learner, job: [fits.append(job.chosen is None), fit(learner, job)][1]  # noqa: E731
    monkeypatch.setattr(NetworkClassifier, "fit_rows", counted)
    append = Ledger.append

    def overtaken(ledger: Ledger, entry: Any) -> bool:
        monkeypatch.setattr(Ledger, "append", append)
        assert append(ledger, plan_hold(ledger, "another operator was first"))
        return append(ledger, entry)

    monkeypatch.setattr(Ledger, "append", overtaken)
    kept = refitted.document("2024-03-16")
    assert (kept["decision"], kept["version"], kept["refit"], kept["serves"]["version"]) == ("KEEP", 3, None, 2)
    night = refitted.entries()[-1]
    assert night.candidate is not None
    assert night.candidate.refit is None
    assert fits == [True, False]
    assert registry(refitted).running() == []
    assert typed(capsys, "doctor", "shop")["left"] == 0
    unused = registry(refitted).client.get_model_version("shop", "4")
    assert "no night recorded it" in unused.description
    typed(capsys, "release", "shop", *BY_NAME)
    typed(capsys, "promote", "shop", "--version", "3", *BY_NAME)
    assert (champion(refitted).version, champion(refitted).served.version, registry(refitted).alias(CHAMPION)) == (
        3,
        3,
        3,
    )
    typed(capsys, "rollback", "shop", *BY_NAME)
    assert registry(refitted).alias(CHAMPION) == 2
    won = refitted.document("2024-03-16")
    assert (won["decision"], won["refit"]["version"], won["serves"]["version"]) == ("PROMOTE", 4, 4)
    assert fits == [True, False]
    assert "no night recorded it" not in registry(refitted).client.get_model_version("shop", "4").description
    assert [version.number for version in registry(refitted).versions()] == [1, 2, 3, 4]
    assert typed(capsys, "doctor", "shop")["left"] == 0


@pytest.mark.slow
def test_only_a_night_that_promotes_makes_a_refit(
    refitted: Shop, prefect: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not one that is held, nor a date of a backfill that moves no champion, nor one that is run again and is not newer
    than the champion. A night that is replayed makes nothing."""
    monkeypatch.setenv("PREFECT_API_URL", prefect)

    def made() -> dict[int, list[int]]:
        """The versions and refits of each date, in the order of the ledger."""
        days: dict[int, list[int]] = {}
        for night in refitted.entries():
            assert night.candidate is not None
            days.setdefault(night.as_of.day, []).extend(version.version for version in night.candidate.versions)
        return days

    def backfill(*words: str) -> None:
        plan = typed(capsys, "backfill", "plan", "shop", *words)["plan"]
        assert typed(capsys, "backfill", "apply", plan)["state"] == "finished"

    refitted.night("2024-03-14")
    typed(capsys, "hold", "shop", *BY_NAME)
    assert refitted.document("2024-03-15")["refit"] is None
    typed(capsys, "release", "shop", *BY_NAME)
    backfill("--from", "2024-03-16", "--to", "2024-03-16")
    assert made() == {14: [1, 2], 15: [3], 16: [4]}
    backfill("--from", "2024-03-13", "--to", "2024-03-17", "--promote", "if-newer", "--reprocess", "completed")
    assert made() == {13: [5], 14: [1, 2, 6], 15: [3, 7, 8], 16: [4, 9, 10], 17: [11, 12]}
    assert registry(refitted).alias(CHAMPION) == 12
    again = refitted.document("2024-03-17", again="to see it twice")
    assert (again["decision"], again["refit"], made()[17]) == ("KEEP", None, [11, 12, 13])
    before = len(refitted.entries())
    assert refitted.document("2024-03-17", again="to see it twice")["replayed"]
    assert (len(refitted.entries()), registry(refitted).alias(CHAMPION)) == (before, 12)
    assert [version.number for version in registry(refitted).versions()] == [*range(1, 14)]
    assert (registry(refitted).running(), typed(capsys, "doctor", "shop")["left"]) == ([], 0)


@pytest.mark.slow
def test_a_broken_refit_is_refused_and_the_judged_model_serves(
    refitted: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    whole = ml.pipeline.refit.refit_candidate
    monkeypatch.setattr(ml.pipeline.refit, "refit_candidate", lambda *a, **k: calls.append((a, k)) or whole(*a, **k))
    planting(monkeypatch, BROKEN["its learning rate is far too high"][0])
    with caplog.at_level(logging.WARNING, "retrain"):
        night = refitted.document("2024-03-15")
    assert night["decision"] == "FIRST"
    assert night["refit"]["version"] is None
    assert "its loss on the test rows" in night["refit"]["refused"]
    said = f"The refit is refused, and the judged model serves: {night['refit']['refused']}."
    assert said in caplog.messages
    assert said in page.markdown(night)
    assert "Version 1 serves, as it was judged. It learnt from rows up to 2024-02-15." in page.markdown(night)
    assert (champion(refitted).served.version, registry(refitted).alias(CHAMPION)) == (1, 1)
    assert [version.number for version in registry(refitted).versions()] == [1]
    assert registry(refitted).running() == []
    assert typed(capsys, "doctor", "shop")["left"] == 0
    ((site, of_night, key, *more), options) = calls[0]
    refused = {}
    for number, (name, (plant, _)) in enumerate(BROKEN.items()):
        planting(monkeypatch, plant)
        refused[name] = whole(site, of_night, f"{key}{number}", *more, **options).refused
    for name, (_, words) in BROKEN.items():
        assert words in (refused[name] or "it is not refused"), name
    assert "private" not in str(refused)
    planting(monkeypatch, raises(StoreUnavailable("a", "b", "c")))
    with pytest.raises(StoreUnavailable):
        whole(site, of_night, f"{key}-away", *more, **options)
    learnt: list[pd.DataFrame] = []

    def noting(learner: NetworkClassifier, job: Job) -> Fitted:
        learnt.extend(job.train)
        assert job.validation is None
        return fit(learner, job)

    planting(monkeypatch, noting)
    done = whole(site, of_night, f"{key}-away", *more, **options)
    rows = pd.concat(learnt)
    assert (done.refused, done.rows) == (None, sum(night["split"][part]["rows"] for part in night["split"]))
    assert (len(rows), str(rows["bought_at"].max())[:10]) == (done.rows, night["split"]["test"]["last_day"])
    assert rows["bought_at"].dt.date.is_monotonic_increasing


def judgement(decision: Any, *, asks: bool = False) -> Judgement:
    return Judgement(verdicts=(), decision=decision, reason="so", proved_better=False, asks=asks, against_rule=None)


@pytest.mark.parametrize(
    ("decision", "asks", "refit", "due"),
    [
        ("FIRST", False, "promoted", True),
        ("PROMOTE", False, "promoted", True),
        ("KEEP", True, "promoted", True),
        ("REJECT", True, "promoted", True),
        ("KEEP", False, "promoted", False),
        ("REJECT", False, "promoted", False),
        ("PROMOTE", False, "never", False),
        ("KEEP", True, "never", False),
    ],
)
def test_a_refit_is_due_if_a_candidate_wins_or_an_operator_is_asked(
    decision: Any, asks: bool, refit: Any, due: bool
) -> None:
    """A night that is held, or of a backfill that promotes nothing, decides KEEP and asks nobody."""
    assert is_due(tills(refit=refit), judgement(decision, asks=asks), None) is due


def test_a_finished_night_has_a_refit_again_only_if_it_had_one() -> None:
    for refit in ("promoted", "never"):
        for candidate, due in ((pair(1), True), (version(1), False)):
            assert is_due(tills(refit=refit), judgement("PROMOTE"), entry(1, candidate=candidate)) is due


def test_whether_winners_are_refitted_is_part_of_how_they_are_judged_and_of_no_training() -> None:
    """And the default is in no digest, so that what was judged before stays as it is."""
    usual, never = tills(), tills(refit="never")
    assert usual.training_digest == never.training_digest
    assert usual.gates_digest == digest_value(plain(usual.gates)) != never.gates_digest
    assert usual.digest != never.digest


def test_another_word_than_promoted_or_never_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"refit of the use case tills .*'promoted' or 'never'.* it is 'always'"):
        tills(refit="always")


KINDS_OF_MODEL = {
    "trees": ("Trees", "Trees(rounds=30, learning_rate=0.2)", ""),
    "a forest": (
        "ScikitLearn",
        "ScikitLearn(RandomForestClassifier(n_estimators=20, min_samples_leaf=20))",
        "from sklearn.ensemble import RandomForestClassifier\n",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_a_refit_of_another_kind_of_model_goes_the_same_way(
    refitted: Shop, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """First, promoted after a refit that was cut off, kept, answered with, and rolled back to."""
    name, model, imported = KINDS_OF_MODEL[kind]
    edit_use_case(refitted, "    logistic_regression,\n", f"    {name},\n")
    edit_use_case(refitted, "logistic_regression(batch_size=256, learning_rate=0.05, epochs=4)", model)
    edit_use_case(refitted, "from ml import (\n", f"{imported}from ml import (\n")
    edit_use_case(refitted, "max_drop=0.05", "max_drop=0.5")
    edit_use_case(refitted, "max_drop=0.1,", "max_drop=0.5,")
    assert refitted.document("2024-03-15")["decision"] == "FIRST"
    with monkeypatch.context() as patch, pytest.raises(Unforeseen):
        patch.setattr(ml.pipeline.refit, "_why_refused", Mock(side_effect=MemoryError))
        refitted.document("2024-03-16")
    second = refitted.document("2024-03-16")
    assert (second["decision"], second["serves"]["version"]) == ("PROMOTE", 4), second["reason"]
    assert (registry(refitted).alias(CHAMPION), registry(refitted).alias(REFERENCE)) == (4, 1)
    edit_use_case(refitted, "max_drop=0.5", "max_drop=0.0001")
    third = refitted.document("2024-03-19")
    assert (third["decision"], third["serves"], third["refit"]) == ("KEEP", second["serves"], None), third["reason"]
    days = read_days(refitted.ledger.store, "shop").values()
    assert [(day.day, day.version, day.twin is not None) for day in days] == [
        ("2024-03-15", 2, True), ("2024-03-16", 4, True), ("2024-03-17", 4, True), ("2024-03-18", 4, True),
    ]  # fmt: skip
    assert (third["served"]["days"], third["served"]["version"]) == (4, 4)
    file, out = str(refitted.file("2024-03-17")), refitted.settings.home / "out.csv"
    scored = typed(capsys, "score", "shop", file, "-o", str(out))
    assert (scored["version"], scored["refit_of"], len(pd.read_csv(out))) == (4, 3, ROWS_A_DAY)
    explained = main(["score", "shop", file, "-o", str(out.with_suffix(".all.csv")), "--explain"])
    said = capsys.readouterr()
    assert explained == (0 if kind == "trees" else 2), said
    typed(capsys, "rollback", "shop", *BY_NAME)
    assert registry(refitted).alias(CHAMPION) == 2
    assert (typed(capsys, "doctor", "shop")["left"], registry(refitted).running()) == (0, [])
