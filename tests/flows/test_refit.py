"""A winner is fitted once more on all due rows, and that model serves; gates and references see the judged one."""

import json
from typing import Any

import pytest

from deployments.cli import main
from ml.storage.records import Champion
from ml.storage.registry import CHAMPION, REFERENCE, Registry
from tests.data.test_data import edit_use_case
from tests.story import Shop

BY_NAME = ("--reason", "a test says so", "--yes")
REFIT_STAGES = ["refit candidate", "upload refit", "verify refit"]


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
    typed(capsys, "promote", "shop", "--version", "4", *BY_NAME)
    assert champion(refitted) == two
    assert (registry(refitted).alias(CHAMPION), registry(refitted).alias(REFERENCE)) == (4, 3)
