"""A command that is killed while the ledger answers it: the same command again finds one entry, or makes it."""

import os
import subprocess
import sys

import pytest

from tests.story import Shop, undated

KILLED = """
import sys
from tests.zygote import _patch_link
_patch_link(before={before})
from deployments.cli import main
main(["run", "shop", "--as-of", "{as_of}", "--quiet"])
"""


@pytest.mark.slow
def test_a_kill_around_the_entry_of_a_night_with_nothing_new_changes_nothing(shop: Shop) -> None:
    """15 s."""
    undated(shop)
    assert shop.document("2024-03-15")["decision"] == "FIRST"
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    for entry, before in enumerate((True, False), start=2):
        as_of = f"2024-03-{14 + entry}"
        killed = [sys.executable, "-c", KILLED.format(before=before, as_of=as_of)]
        assert subprocess.run(killed, env=environment, check=False).returncode == -9
        assert len(shop.entries()) == (entry - 1 if before else entry)
        again = [sys.executable, "-m", "deployments.cli", "run", "shop", "--as-of", as_of, "--quiet"]
        assert subprocess.run(again, env=environment, check=False, stdout=subprocess.DEVNULL).returncode == 0
        assert [each.decision for each in shop.entries()] == ["FIRST", *["NOTHING_NEW"] * (entry - 1)]
