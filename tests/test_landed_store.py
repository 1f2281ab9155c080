"""A store that the version of 2026-11-27 wrote (two nights of the shop, without MLflow's files) goes on."""

import logging
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ml import paths
from ml.artifacts import Evaluations, Fit, Split, Upload, Verified, from_json
from ml.digests import unsealed
from ml.ledger import Ledger
from ml.store import Store, open_store
from tests import test_data
from tests.story import Shop, open_shop
from tests.test_data import Done, edit_use_case, forget_all

LANDED = Path(__file__).parent / "fixtures" / "landed.tar.gz"
HANDLES: dict[str, Any] = {
    "split": Split, "train": Fit, "upload": Upload, "verify": Verified, "evaluate": Evaluations,
}  # fmt: skip


@pytest.fixture
def landed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The home of those nights, with the data that they had and one day more."""
    shop = open_shop(tmp_path, monkeypatch)
    with tarfile.open(LANDED) as archive:
        archive.extractall(shop.settings.store, filter="data")
    edit_use_case(shop, "    gates=(", "    window_days=14, test_days=4, validation_days=3,\n    gates=(")
    for file in shop.settings.data.glob("shop/*.parquet"):
        if file.stem > "2024-01-17":
            file.unlink()
    return shop


def store_of(shop: Shop) -> Store:
    return open_store(shop.settings.store)


def test_its_ledger_is_read(landed: Shop) -> None:
    ledger = Ledger(store_of(landed), "shop")
    assert [(night.seq, night.as_of, night.decision) for night in ledger.nights()] == [
        (1, date(2024, 1, 16), "REJECT"),
        (2, date(2024, 1, 17), "REJECT"),
    ]
    head = ledger.head()
    assert head is not None
    assert head.champion is not None


@pytest.mark.parametrize("name", HANDLES)
def test_its_stages_are_read(name: str, landed: Shop) -> None:
    store = store_of(landed)
    keys = [key for key in store.keys(f"{paths.stages('shop')}/{name}") if key.count("/") == 3]
    assert len(keys) == 2
    for key in keys:
        body = unsealed(store.get(key) or b"")
        assert body is not None
        assert isinstance(from_json(HANDLES[name], body), HANDLES[name])


def test_its_champion_stays_comparable(landed: Shop) -> None:
    """By the digests of its target and of its split, with those of the same use case tonight."""
    from ml.split import split_digest

    champion, use_case = Ledger(store_of(landed), "shop").head().champion, test_data.site().use_case  # type: ignore[union-attr]
    assert champion is not None
    assert champion.target_digest == use_case.target.digest
    assert champion.split_digest == split_digest(use_case)


def test_the_next_night_reads_it_says_once_what_is_made_again_and_ends_as_from_scratch(
    landed: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        after = Done(date(2024, 1, 18))
    assert sum(test_data.READ_AGAIN in text or test_data.COUNTED_AGAIN in text for text in caplog.messages) == 1
    assert "damaged" not in caplog.text
    found = after.found
    forget_all(landed)
    assert Done(date(2024, 1, 18)).found == found
