"""A night whose source has changed asks a person, keeps the champion, and takes the answer."""

from collections.abc import Iterator

import pandas as pd
import pytest

from tests.story import SHOP, Shop

GATE = 'SourceUnchanged(why="what changed in the source is no merit of a candidate"),\n        MinMetric('


@pytest.fixture
def watched_shop(shop: Shop) -> Iterator[Shop]:
    """The shop with the gate, and a champion that has seen the days until 2024-03-09."""
    assert shop.settings.project is not None
    text = SHOP.replace("    MinMetric,", "    MinMetric,\n    SourceUnchanged,", 1).replace(
        "        MinMetric(", f"        {GATE}"
    )
    (shop.settings.project / "use_cases" / "shop.py").write_text(text)
    assert shop.document("2024-03-10")["decision"] == "FIRST"
    yield shop


def test_a_night_asks(watched_shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop = watched_shop
    for day in ("2024-03-11", "2024-03-12", "2024-03-13"):
        shop.rewrite(day, amount=pd.read_parquet(shop.file(day)).amount + 300)
    document = shop.document("2024-03-14")
    print(document["reason"], document.get("source_changes"), document["verdicts"])
    assert document["asks"]
