"""Nights on a real Prefect server and a real MLflow, with a small shop's data."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State

import flows.retrain
import ml.models.training
import ml.pipeline.clean
import ml.pipeline.evaluate
import ml.pipeline.opening
import ml.pipeline.publish
import ml.pipeline.register
import ml.pipeline.split
import ml.pipeline.train
import ml.pipeline.validate
from deployments.cli import main
from deployments.commands.status import last_of
from deployments.prefect.night import _without_heartbeat
from flows.retrain import RetrainRequest, only_run_of
from ml import NetworkClassifier, UseCase
from ml.errors import Busy, DataRejected, RetrainError, StoreUnavailable, UsageError
from ml.models import packaging
from ml.models.handles import Fit
from ml.models.training import StoredDiary
from ml.operations.alias import follow_ledger
from ml.storage.kept import Kept
from ml.storage.ledger import Ledger
from ml.storage.registry import CHAMPION, REFERENCE, Registry
from ml.storage.store import open_store
from tests.story import Shop, undated


@pytest.fixture
def shop(shop_with_cleaned_days: Shop) -> Shop:
    return shop_with_cleaned_days


def registry(shop: Shop) -> Registry:
    return Registry(shop.settings, "shop")


def versions(shop: Shop) -> list[int]:
    return sorted(int(v.version) for v in registry(shop).client.search_model_versions("name = 'shop'"))


def test_a_first_night_a_second_and_each_again(shop_in_full: Shop) -> None:
    """The first is FIRST, the second is judged on the same rows, and neither is judged twice."""
    shop = shop_in_full
    first = shop.document("2024-03-15")
    assert (first["decision"], first["champion_before"], first["champion_after"]) == ("FIRST", None, 1)
    second = shop.document("2024-03-16")
    assert second["champion_before"] == 1
    assert set(second["scores"]) == {"candidate", "champion", "reference", "constant", "rule", "trees"}
    assert [
        (night["reused"]["train candidate"], night["computed"]["train candidate"]) for night in (first, second)
    ] == [(0, 1)] * 2
    assert second["reused"]["validate partitions"] == first["computed"]["validate partitions"]
    assert second["computed"]["validate partitions"] == second["computed"]["clean partitions"] == 1
    assert {v["gate"]: v["verdict"] for v in second["verdicts"]}["NotWorseThanChampion f1"] in {"PASS", "INCONCLUSIVE"}
    for before, as_of in ((first, "2024-03-15"), (second, "2024-03-16")):
        again = shop.document(as_of)
        assert again == {**before, "replayed": True}
    assert versions(shop) == [1, 2]
    assert registry(shop).alias(CHAMPION) == second["champion_after"]
    assert [entry.seq for entry in shop.entries()] == [1, 2]
    json.dumps(second, allow_nan=False)


@pytest.mark.slow
def test_a_night_is_run_again_on_purpose_only_and_never_moves_the_alias_back(shop: Shop) -> None:
    first = shop.document("2024-03-15")
    other_seed = shop.document("2024-03-15", seed=7)
    assert other_seed["run_key"] != first["run_key"]
    assert other_seed["decision"] == "KEEP"
    older = shop.document("2024-03-14")
    assert older["decision"] == "KEEP"
    assert "NOT_JUDGED" in {verdict["verdict"] for verdict in older["verdicts"]} or "not newer" in older["reason"]
    assert registry(shop).alias(CHAMPION) == 1
    assert versions(shop) == [1, 2, 3]


def test_a_bad_day_is_quarantined_or_left_out_and_named(shop: Shop) -> None:
    amount = pd.read_parquet(shop.file("2024-03-13"))["amount"].copy()
    amount[:3] = -5.0
    amount[3:5] = float("nan")
    shop.rewrite("2024-03-13", amount=amount, colour="red")
    shop.rewrite("2024-03-10", country=None)
    document = shop.document("2024-03-15")
    assert document["quarantined_rows"] == 5
    assert document["data"]["quarantined_days"] == {"2024-03-13": 5}
    assert {rule["rule"]: rule["unexpected"] for rule in document["data"]["broken_rules"]} == {
        "amount is at least 0": 3,
        "amount is present": 2,
    }
    assert document["data"]["undeclared_columns"] == {"days": 1, "most": 1, "names": {"colour": 1}}
    assert document["data"]["left_out"] == {"2024-03-10": "column country is missing"}
    from ml.reporting import page

    text = page.markdown(document)
    assert all(word in text for word in ("2024-03-13", "colour", "2024-03-10", "column country is missing"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"country": None}, "country is missing"),
        ({"amount": "much"}, "amount must be number"),
        ({"amount": -1.0}, "quarantined_fraction"),
    ],
)
def test_a_bad_newest_day_rejects_the_night(shop: Shop, change: dict[str, Any], words: str) -> None:
    shop.rewrite("2024-03-14", **change)
    with pytest.raises(DataRejected, match=words):
        shop.night("2024-03-15")
    assert shop.entries() == []
    assert versions(shop) == []


def test_one_class_only_is_rejected(shop: Shop) -> None:
    for file in shop.settings.data.glob("shop/*.parquet"):
        shop.rewrite(file.stem, days_to_pay=12.0)
    with pytest.raises(DataRejected, match="has none of late"):
        shop.night("2024-03-15")


STAGES = [
    (ml.pipeline.opening, "survey"),
    (ml.pipeline.validate, "check_batch"),
    (ml.pipeline.clean, "clean"),
    (ml.pipeline.split, "describe"),
    (NetworkClassifier, "fit_rows"),
    (ml.models.training, "package"),
    (packaging, "prove"),
    (Registry, "register"),
    (ml.pipeline.evaluate, "judge_all"),
    (ml.pipeline.evaluate, "decide"),
    (Ledger, "append"),
    (ml.pipeline.register, "follow_ledger"),
    (ml.pipeline.publish, "night_figures"),
]


MAIN_STAGES = [stage for stage in STAGES if stage[1] in {"clean", "fit_rows", "prove", "judge_all", "append"}]


@pytest.mark.parametrize("stages", [MAIN_STAGES, pytest.param(STAGES, marks=pytest.mark.slow)], ids=["main", "all"])
def test_after_an_error_anywhere_only_that_stage_and_later_ones_run_again(
    new_shop: Shop, monkeypatch: pytest.MonkeyPatch, stages: list[tuple[Any, str]]
) -> None:
    """Breaks one stage after the other; each run goes one stage further, and nothing done is done again."""
    shop = new_shop
    calls: dict[str, int] = {}
    for owner, name in stages:
        monkeypatch.setattr(owner, name, _failing_once(getattr(owner, name), name, calls))
    for _, name in stages:
        with pytest.raises(RetrainError, match="ConnectionError"):
            shop.night("2024-03-15")
        assert calls[name] == 1, name
    done = shop.document("2024-03-15")
    assert done["decision"] == "FIRST"
    times = {"fit_rows": 2, "package": 3, "prove": 2}  # default trees are packaged too
    assert {name: calls[name] for name in times if name in calls} == {n: times[n] for n in times if n in calls}
    assert versions(shop) == [1]
    assert registry(shop).alias(CHAMPION) == 1
    assert len(shop.entries()) == 1


def test_a_fit_killed_between_two_epochs_is_resumed_to_the_same_weights(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ml.models.training, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(StoredDiary, "step", _failing_once(StoredDiary.step, "step", {"step": -2}))
        with pytest.raises(RetrainError, match="ConnectionError"):
            shop.night("2024-03-15")
    assert [key for key in store_keys(shop, "train") if key.endswith("/checkpoint")]
    with caplog.at_level("INFO", "retrain"):
        resumed = shop.document("2024-03-15")
    assert "Resumed after epoch 2 of 4." in caplog.messages
    caplog.clear()
    with caplog.at_level("INFO", "retrain"):
        undisturbed = shop.document("2024-03-15", again="undisturbed")
    assert undisturbed["run_key"] != resumed["run_key"]  # and yet equal evidence has equal intervals
    assert [undisturbed["scores"][who] for who in ("candidate", "constant", "rule")] == [
        resumed["scores"][who] for who in ("candidate", "constant", "rule")
    ]
    assert not [message for message in caplog.messages if message.startswith("Resumed")]
    keys = store_keys(shop, "train")
    assert not [key for key in keys if key.endswith("/checkpoint")]
    store = open_store(shop.settings.store)
    fits = [fit for key in keys if key.endswith(".json") and (fit := Kept(store, Fit, str).whole(key))]
    assert len(fits) == 2
    assert [file.digest for file in fits[0].files] == [file.digest for file in fits[1].files]
    assert (fits[0].steps, fits[0].best) == (fits[1].steps, fits[1].best)


def store_keys(shop: Shop, stage: str) -> list[str]:
    return open_store(shop.settings.store).keys(f"stages/shop/{stage}")


def _failing_once(function: Any, name: str, calls: dict[str, int]) -> Any:
    def broken(*args: Any, **kwargs: Any) -> Any:
        calls[name] = calls.get(name, 0) + 1
        if calls[name] == 1:
            raise ConnectionError(f"broken {name}")
        return function(*args, **kwargs)

    return broken


@pytest.mark.slow
def test_a_moved_head_redoes_the_evaluation_and_not_the_training(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.night("2024-03-15")
    append, fits = Ledger.append, []
    fit = NetworkClassifier.fit_rows

    def overtaken(ledger: Ledger, entry: Any) -> bool:
        monkeypatch.setattr(Ledger, "append", append)
        head = ledger.head()
        assert head is not None
        rival = type(entry)(**{**vars(head), "seq": entry.seq, "run_key": "another", "champion_before": head.champion})
        assert append(ledger, rival)
        return append(ledger, entry)

    monkeypatch.setattr(Ledger, "append", overtaken)
    monkeypatch.setattr(NetworkClassifier, "fit_rows", lambda *a, **k: fits.append(1) or fit(*a, **k))
    shop.night("2024-03-16")
    entries = shop.entries()
    assert [entry.seq for entry in entries] == [1, 2, 3]
    assert entries[-1].judged_against == 2
    assert len(fits) == 1
    assert versions(shop) == [1, 2]


@pytest.mark.slow
def test_the_alias_follows_the_ledger_and_a_hand_that_moves_it_blocks_promotion(shop: Shop) -> None:
    shop.night("2024-03-15")
    entry = shop.entries()[0]
    registry(shop).client.delete_registered_model_alias("shop", CHAMPION)
    blocked = shop.document("2024-03-16")
    assert blocked["decision"] == "KEEP"
    assert "moved by hand: the ledger says version 1, MLflow says that there is none" in blocked["reason"]
    assert registry(shop).alias(CHAMPION) is None
    follow_ledger(shop.ledger, registry(shop), entry)
    assert registry(shop).alias(CHAMPION) == registry(shop).alias(REFERENCE) == 1
    assert shop.document("2024-03-17")["decision"] in {"PROMOTE", "KEEP"}


def test_a_crash_between_ledger_and_alias_is_mended_by_the_next_command(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ml.pipeline.register, "follow_ledger", _failing_once(None, "follow_ledger", {}))
        with pytest.raises(RetrainError):
            shop.night("2024-03-15")
    assert registry(shop).alias(CHAMPION) is None
    assert shop.night("2024-03-15")["replayed"]
    assert registry(shop).alias(CHAMPION) == 1


def test_a_dry_run_trains_and_moves_nothing(shop: Shop) -> None:
    found = shop.night("2024-03-15", dry_run=True)
    assert found["dry_run"] and found["split"]["test"]["rows"] > 0
    assert shop.entries() == [] and versions(shop) == []


@pytest.mark.slow
def test_a_replay_takes_the_day_after_the_last_finished_one(shop: Shop) -> None:
    assert shop.document(None)["as_of"] == "2024-03-01"
    assert shop.document(None)["as_of"] == "2024-03-02"


@pytest.mark.slow
@pytest.mark.parametrize(
    "dates", [("2024-03-15", "2024-03-16", "2024-03-17"), ("2031-01-01", "2024-03-15", "2024-03-15")]
)
def test_an_undated_source_without_change_teaches_nothing_new(
    shop: Shop, dates: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nights without dates are ordered by the ledger, also where a clock was years ahead once."""
    undated(shop)
    with monkeypatch.context() as ahead:
        ahead.setattr(UseCase, "today", lambda _: date(2031, 1, 1))
        first = shop.document(dates[0])
    idle = shop.document(dates[1])
    assert (first["decision"], idle["decision"]) == ("FIRST", "NOTHING_NEW")
    assert idle["champion_after"] == 1 and versions(shop) == [1]
    assert shop.document(dates[2], again="a new fit")["decision"] == "PROMOTE"
    assert last_of(shop.entries()) == shop.entries()[-1]


def test_a_second_run_waits_or_says_that_another_is_active(shop: Shop) -> None:
    with only_run_of("shop", wait=False):
        with pytest.raises(Busy, match="another run is active"), only_run_of("shop", wait=False):
            pass
        done = threading.Event()
        waiting = threading.Thread(target=lambda: _hold(done), daemon=True)
        waiting.start()
        assert not done.wait(0.3)
    assert done.wait(10)


def _hold(done: threading.Event) -> None:
    with only_run_of("shop", wait=True):
        done.set()


@pytest.mark.parametrize("name", ["shopp", "../shop", "shop/../../etc", "/etc/passwd", "SHOP", "shop\n", ""])
def test_an_unknown_name_is_refused_before_anything_is_written(shop: Shop, name: str) -> None:
    with pytest.raises(UsageError, match="USE_CASE must be one of"), only_run_of(name, wait=False):
        pass
    assert not list(shop.settings.home.glob("locks/*"))


def test_a_transient_error_is_retried_and_another_is_not(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    take = ml.pipeline.opening.survey

    def away_once(*args: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise StoreUnavailable("the store answers", "it does not", "wait")
        return take(*args)

    monkeypatch.setattr(ml.pipeline.opening, "survey", away_once)
    assert shop.night("2024-03-15", dry_run=True)["dry_run"]
    assert len(tries) == 2


def test_a_mistyped_parameter_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="as_off"):
        RetrainRequest.model_validate({"use_case": "shop", "as_off": "2024-03-15"})


def run_of(state: State[Any]) -> FlowRun:
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


@pytest.fixture
def without_heartbeat() -> Iterator[None]:
    """As a command runs flows; with heartbeats each flow takes a second longer."""
    with _without_heartbeat():
        yield


def test_a_state_says_what_was_decided(shop: Shop, without_heartbeat: None) -> None:
    state = flows.retrain.retrain(RetrainRequest(use_case="shop", as_of="2024-03-15"), return_state=True)  # type: ignore[arg-type]
    said = "Promoted: There was no champion, and all 4 gates allow this one. F1 0.7"
    assert (state.name, (state.message or "")[: len(said)]) == ("Completed", said)
    assert run_of(state).name.startswith("shop 2024-03-15, F1 0.7")
    assert {"shop", "Promoted"} <= set(run_of(state).tags)
    state = flows.retrain.retrain(RetrainRequest(use_case="shop", dry_run=True), return_state=True)  # type: ignore[arg-type]
    assert run_of(state).labels["retrain.as_of"] == "2024-03-16"
    assert (run_of(state).name, "dry run" in run_of(state).tags) == ("shop 2024-03-16 (dry run)", True)
    assert (state.message or "").startswith("Dry run: ")
    shop.rewrite("2024-03-15", country=None)
    state = flows.retrain.retrain(RetrainRequest(use_case="shop", as_of="2024-03-16"), return_state=True)  # type: ignore[arg-type]
    assert (state.name, (state.message or "").split(":")[0]) == ("Failed", "DataRejected")
    assert (run_of(state).name, "DataRejected" in run_of(state).tags) == ("shop 2024-03-16", True)
    state = flows.retrain.retrain(
        RetrainRequest(use_case="shop", as_of="2024-03-16", dry_run=True),  # type: ignore[arg-type]
        return_state=True,
    )
    assert (state.name, (state.message or "").split(":")[0]) == ("Failed", "Dry run, DataRejected")


FOREIGN = """
import sys

class NotOurs:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ml", "tasks", "flows", "expectations", "deployments"}:
            raise ImportError(name)

sys.meta_path.insert(0, NotOurs())
import mlflow.pyfunc, pandas as pd
rows, answers, tracking = sys.argv[1:]
mlflow.set_tracking_uri(tracking)
mlflow.pyfunc.load_model("models:/shop@champion").predict(pd.read_parquet(rows)).to_parquet(answers)
"""


@pytest.mark.slow
def test_the_champion_gives_its_reported_scores_where_nothing_of_ours_can_be_imported(
    shop: Shop, tmp_path: Path
) -> None:
    document = shop.document("2024-03-15")
    test = document["split"]["test"]
    days = [file for file in sorted(shop.settings.data.glob("shop/*.parquet"))]
    rows = pd.concat([pd.read_parquet(f) for f in days if test["first_day"] <= f.stem <= test["last_day"]])
    raw, answers = tmp_path / "rows.parquet", tmp_path / "answers.parquet"
    rows.to_parquet(raw)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(
        [sys.executable, "-c", FOREIGN, str(raw), str(answers), shop.settings.tracking_uri], cwd=elsewhere, check=True
    )
    said = pd.read_parquet(answers)
    label = (rows["days_to_pay"] > 30).to_numpy()
    late = (said["prediction"] == "late").to_numpy()
    hits = int((label & late).sum())
    assert len(rows) == test["rows"]
    assert document["scores"]["candidate"]["f1"]["value"] == 2 * hits / int(label.sum() + late.sum())
    own = np.where(label, said["probability"], 1 - said["probability"])
    assert document["scores"]["candidate"]["log_loss"]["value"] == float(-np.log(own).mean())


SORTING = """
def derive(rows):
    return rows.sort_values("amount", ignore_index=True).assign(half=lambda sorted_rows: sorted_rows["amount"] / 2)


USE_CASE = UseCase(
    derive=derive,
    group="country",
"""


@pytest.mark.slow
def test_what_derive_sorts_is_learnt_and_scored_row_by_row_without_a_key(shop: Shop, tmp_path: Path) -> None:
    """The report's F1 is that of `score` on the test days' own files, row by row in the file's order."""
    assert shop.settings.project is not None
    file = shop.settings.project / "use_cases" / "shop.py"
    written = file.read_text().replace("USE_CASE = UseCase(\n", SORTING).replace('key=("basket",)', "key=()")
    file.write_text(
        written.replace('        Column(name="country"', '        Column(name="half"),\n        Column(name="country"')
    )
    first = pd.read_parquet(shop.file("2024-03-14"))
    pd.concat([first, first.head(5)]).to_parquet(shop.file("2024-03-14"))
    document = shop.document("2024-03-15")
    test = document["split"]["test"]
    days = [path for path in sorted(shop.settings.data.glob("shop/*.parquet"))]
    rows = pd.concat([pd.read_parquet(f) for f in days if test["first_day"] <= f.stem <= test["last_day"]])
    assert len(rows) == test["rows"] and document["data"]["duplicate_rows"] == 0
    assert test["group_in_train"] == 1.0
    rows.drop(columns="days_to_pay").to_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "out.parquet"
    assert main(["score", "shop", str(tmp_path / "rows.parquet"), "-o", str(out)]) == 0
    label, late = (rows["days_to_pay"] > 30).to_numpy(), (pd.read_parquet(out)["prediction"] == "late").to_numpy()
    f1 = 2 * int((label & late).sum()) / int(label.sum() + late.sum())
    assert document["scores"]["candidate"]["f1"]["value"] == f1


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_page_of_the_last_night_stays_where_a_dry_run_is_rejected(
    dry_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rejected(request: RetrainRequest, plan: object) -> Any:
        raise DataRejected("a rule", "a value", "a step")

    published = list[str]()
    monkeypatch.setattr(flows.retrain, "run_night", rejected)
    monkeypatch.setattr(flows.retrain, "show_ending", lambda end: published.append(end.word))
    monkeypatch.setattr(flows.retrain, "publish_rejection", lambda name, error: published.append(name))
    state = flows.retrain.answered(RetrainRequest(use_case="shop", dry_run=dry_run))
    assert state.is_failed()
    assert published == ([] if dry_run else ["shop", "DataRejected"])
