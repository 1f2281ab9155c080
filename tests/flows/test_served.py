"""What serves is scored on the days that it served, night by night."""

import json
from typing import Any

import numpy as np
import pytest

from deployments import cli
from ml.evaluation.day_scores import as_first_judged, as_they_are, read_days
from ml.operations import moves
from ml.pipeline import served
from ml.reporting.page import markdown
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import open_store
from tests.data.test_data import edit_use_case
from tests.story import Shop


class Killed(BaseException):
    """As if the process died here."""


def killed(*_: object) -> None:
    raise Killed


def status(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["status", "shop", "--json"]) == 0
    row: dict[str, Any] = json.loads(capsys.readouterr().out)["use_cases"][0]
    return row


def test_three_nights_show_what_served_on_each_day(
    shop_after_a_night: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = shop_after_a_night
    first, second, third = (shop.document(f"2024-03-{day}") for day in (15, 16, 17))
    assert first["served"] is None, "nothing has served before the first night"
    assert [(day["day"], day["version"]) for day in second["served"]["newest_days"]] == [("2024-03-15", 1)]
    served = third["served"]
    assert [(day["day"], day["version"]) for day in served["newest_days"]] == [("2024-03-15", 1), ("2024-03-16", 2)]
    assert (served["days"], served["rows"], served["version"], served["versions"]) == (2, 120, 2, 2)
    assert served["promised"]["low"] < first["scores"]["candidate"]["f1"]["value"] < served["promised"]["high"]
    assert served["relative"] < 1, "the models are better than the best constant"
    counted = [night["computed"]["score what serves"] for night in (second, third)]
    assert (counted, third["reused"]["score what serves"]) == ([1, 1], 1), "each day is answered once"
    shown = status(capsys)["served"]
    assert {name: shown[name] for name in served if name in shown} == {
        name: served[name] for name in served if name in shown
    }
    assert shown["sentence"] in markdown(third)


@pytest.mark.slow
def test_days_that_changed_are_answered_anew_and_a_version_that_is_lost_is_named(shop: Shop) -> None:
    champions = [shop.document(f"2024-03-{day}") and shop.ledger.head() for day in (15, 16)]
    before = as_first_judged(read_days(open_store(shop.settings.store), "shop").values())
    shop.rewrite("2024-03-15", days_to_pay=45.0)
    third = shop.document("2024-03-17")
    days = read_days(open_store(shop.settings.store), "shop").values()
    assert third["computed"]["score what serves"] == 2, "the new day and the changed one"
    assert as_first_judged(days)["2024-03-15"] == before["2024-03-15"]
    in_time, late = np.array(as_they_are(days)["2024-03-15"].served.values[:4]).reshape(2, 2).sum(axis=1)
    assert (in_time, late) == (0, 60), "all of its baskets are late now"
    champion = champions[-1].champion if champions[-1] else None
    assert champion is not None
    open_store(shop.settings.store).delete(champion.files[0].key)
    shop.rewrite("2024-03-16", days_to_pay=12.0)
    fourth = shop.document("2024-03-18")
    assert list(fourth["served"]["unscored"]) == ["2024-03-16"]
    assert "is gone or changed" in fourth["served"]["unscored"]["2024-03-16"]
    assert f"version {champion.version} could not be scored" in markdown(fourth)


@pytest.mark.slow
def test_a_twin_takes_over_once_even_if_the_night_is_killed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_use_case(shop, '    refit="never",\n', "")
    shop.document("2024-03-15")
    first = shop.ledger.head()
    assert first is not None and first.champion is not None and first.champion.refit is not None
    registry = Registry(shop.settings, "shop")
    assert registry.alias(CHAMPION) == first.champion.refit.version
    with monkeypatch.context() as patch:
        patch.setattr(served, "why_twin_is_better", lambda _days, head, _metric: head.champion.refit and "so it is")
        patch.setattr(moves, "follow_ledger", killed)
        with pytest.raises(Killed):
            shop.document("2024-03-16")
        assert [entry.decision for entry in shop.ledger.entries()] == ["FIRST", "TAKE_OVER"]
        second = shop.document("2024-03-16")
    decisions = [entry.decision for entry in shop.ledger.entries()]
    assert decisions == ["FIRST", "TAKE_OVER", second["decision"]]
    assert shop.ledger.alias_confirmed(shop.ledger.entry(2)), "the night that came after set the alias"
    (day,) = second["served"]["newest_days"]
    assert (day["day"], day["version"]) == ("2024-03-15", first.champion.refit.version)
    assert "is surely worse than it: so it is. Version 1 takes over." in markdown(second)
    result = read_days(open_store(shop.settings.store), "shop")
    assert all(one.twin is not None and one.twin != one.served for one in result.values())
