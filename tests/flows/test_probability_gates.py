"""Nights whose gates go by scores of probabilities, from the first champion to one that is kept."""

import re
from typing import Any

import pytest

from deployments.commands.status import _score_of
from ml.evaluation.gates import Evidence
from ml.metrics.scores import PROBABILITY_SCORES
from ml.reporting import page
from ml.storage.json_form import from_json
from ml.storage.registry import Registry
from ml.storage.store import open_store
from tests.story import Shop

GATES = """    gates=(
        MinMetric(metric="log_loss", floor=0.5, first_only=True, why="less than a coin knows"),
        BetterThanTrivial(metric="log_loss", why="the share of late baskets needs no model"),
        BetterThanRule(metric="log_loss", why="one column needs no model"),
        NotWorseThanChampion(metric="log_loss", max_drop=0.1, why="the noise of a retraining"),
        NotWorseThanReference(metric="log_loss", max_drop=0.2, why="twice that"),
        NotSurelyWorse(metric="roc_auc", why="the order of the baskets is to stay"),
        NotSurelyWorse(metric="pr_auc", why="the top of the list is to stay"),
        NotSurelyWorse(metric="brier", why="the probabilities are to stay"),
        NotSurelyWorse(metric="f1", why="the answers are to stay"),
    ),
"""


def judged_by_probabilities(shop: Shop) -> None:
    """Makes log loss the metric of the shop's use case, beside gates on all scores of probabilities."""
    text = use_case_text(shop).replace('    metric="f1",\n', '    metric="log_loss",\n', 1)
    text = text.replace(
        "    BetterThanTrivial,\n", "    BetterThanRule,\n    BetterThanTrivial,\n    NotSurelyWorse,\n", 1
    )
    write_use_case(shop, re.sub(r"    gates=\(\n.*?\n    \),\n", lambda _: GATES, text, flags=re.DOTALL))


def use_case_text(shop: Shop) -> str:
    assert shop.settings.project is not None
    return (shop.settings.project / "use_cases" / "shop.py").read_text()


def write_use_case(shop: Shop, text: str) -> None:
    assert shop.settings.project is not None
    (shop.settings.project / "use_cases" / "shop.py").write_text(text)


def verdicts_of(document: dict[str, Any]) -> dict[str, str]:
    return {verdict["gate"]: verdict["verdict"] for verdict in document["verdicts"]}


@pytest.mark.slow
def test_three_nights_are_judged_by_scores_of_probabilities(shop: Shop) -> None:
    """The first serves, an equal one follows it, and one that learnt next to nothing is kept from serving."""
    judged_by_probabilities(shop)
    first = shop.document("2024-03-15")
    assert first["decision"] == "FIRST", first["reason"]
    assert set(verdicts_of(first).values()) == {"PASS", "NOT_APPLICABLE"}
    second = shop.document("2024-03-16")
    assert second["decision"] == "PROMOTE", second["reason"]
    assert set(verdicts_of(second).values()) == {"PASS"}
    assert second["verdicts"][0]["reason"].endswith("there is a champion, so that this only informs")
    for who in ("candidate", "champion", "reference", "constant", "rule"):
        for name in PROBABILITY_SCORES:
            score = second["scores"][who][name]
            assert score["low"] <= score["value"] <= score["high"], (who, name)
    write_use_case(shop, use_case_text(shop).replace("learning_rate=0.05, epochs=4", "learning_rate=1e-6, epochs=1"))
    third = shop.document("2024-03-17")
    assert third["decision"] == "KEEP"
    found = verdicts_of(third)
    assert found["MinMetric log_loss"] == "PASS"
    assert found["NotWorseThanChampion log_loss"] == found["NotSurelyWorse brier"] == "FAIL"
    assert "%" in third["reason"]
    everyone_shows_the_interval(shop, second)
    evidence_is_small(shop)


def everyone_shows_the_interval(shop: Shop, second: dict[str, Any]) -> None:
    """The report, the list of nights and MLflow's page of the version."""
    shown = re.compile(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]")
    report = page.markdown(second)
    table = next(line for line in report.splitlines() if line.startswith("| candidate"))
    assert len(shown.findall(table)) == 5  # log loss, F1, both areas and Brier
    assert "In log loss the model is better than the best rule on one column (+" in report
    assert "always the classes' shares of the train rows" in report
    assert "a probability of " in report
    assert shown.search(_score_of(shop.entries(), 2) or "")
    described = Registry(shop.settings, "shop").client.get_model_version("shop", "2").description
    assert re.search(rf"\| log loss \| {shown.pattern}", described)


def evidence_is_small(shop: Shop) -> None:
    """A few kilobytes for each opponent, and gates read from it what they said."""
    store = open_store(shop.settings.store)
    files = [key for key in store.keys("stages") if key.endswith("evidence.json")]
    assert len(files) == 3
    for key in files:
        data = store.get(key)
        assert data is not None
        assert len(data) < 50_000
        assert all(pair.scores is not None for pair in from_json(Evidence, data).pairs.values())
