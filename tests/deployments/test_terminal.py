"""A table that is wider than the terminal is shown as blocks."""

import os
import shutil

import pytest

from deployments.terminal import fitting

TABLE = [["use case", "champion", "held"], ["tills", "3", "-"], ["parcels", "-", "by ada: later"]]
BLOCKS = ["use case  tills", "champion  3", "", "use case  parcels", "held      by ada: later"]


@pytest.mark.parametrize(("terminal", "columns", "lines"), [(True, 20, 5), (True, 34, 3), (False, 20, 3)])
def test_a_table_that_is_too_wide_for_a_terminal_becomes_blocks(
    terminal: bool, columns: int, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 50)))
    told = fitting(TABLE)
    assert len(told) == lines
    assert (told == BLOCKS) == (lines == 5)
