"""What serves is scored on the days that it served, night by night."""

import json
from typing import Any

import pytest

from deployments import cli
from ml.reporting.page import markdown
from tests.story import Shop


def status(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["status", "shop", "--json"]) == 0
    row: dict[str, Any] = json.loads(capsys.readouterr().out)["use_cases"][0]
    return row


def test_three_nights_show_what_served_on_each_day(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
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
