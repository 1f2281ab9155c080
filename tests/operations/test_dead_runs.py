"""One answer to whether a run is dead, from its lock and from what was heard of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml.errors import Busy
from ml.operations.dead_runs import SILENT, STARTS_WITHIN, Signs, is_dead
from ml.storage.locks import held_lock, holder_name, run_lock

BUSY = Busy("a lock is free", "it is held", "wait")


def ago(time: timedelta) -> datetime:
    return datetime.now(UTC) - time


@pytest.mark.parametrize(
    ("signs", "dead"),
    [
        ({}, False),
        ({"last_heard": timedelta(0)}, False),
        ({"last_heard": SILENT * 2}, True),
        ({"about_to_start": timedelta(0)}, False),
        ({"about_to_start": STARTS_WITHIN * 2}, True),
    ],
)
@pytest.mark.parametrize("where", ["", "elsewhere"])
def test_time_alone_answers_for_a_run_without_a_lock_of_this_home(
    tmp_path: Path, signs: dict[str, timedelta], dead: bool, where: str
) -> None:
    lock = holder_name(tmp_path / where, "shop") if where else ""
    assert is_dead(tmp_path, Signs(lock=lock, **{name: ago(time) for name, time in signs.items()})) is dead


@pytest.mark.parametrize(
    ("signs", "while_held", "when_free"),
    [
        ({}, False, True),
        ({"last_heard": SILENT * 2}, False, True),
        ({"last_heard": timedelta(0)}, False, False),
        ({"about_to_start": timedelta(0)}, False, False),
    ],
)
def test_the_lock_answers_for_a_run_of_this_home(
    tmp_path: Path, signs: dict[str, timedelta], while_held: bool, when_free: bool
) -> None:
    """But for one that gave it back a moment ago, and one that is about to start again."""
    run = Signs(lock=holder_name(tmp_path, "shop"), **{name: ago(time) for name, time in signs.items()})
    with held_lock(run_lock(tmp_path, "shop"), 0, BUSY):
        assert is_dead(tmp_path, run) is while_held
    assert is_dead(tmp_path, run) is when_free


def test_who_holds_a_lock_knows_that_the_run_does_not(tmp_path: Path) -> None:
    run = Signs(lock=holder_name(tmp_path, "shop"))
    with held_lock(run_lock(tmp_path, "shop"), 0, BUSY):
        assert is_dead(tmp_path, run, held="shop")
        assert not is_dead(tmp_path, run, held="another")
