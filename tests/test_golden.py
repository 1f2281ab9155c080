"""Golden answers of today's code: every shipped use case on its real data (slow), and small ones through plain stages.

A change that must not move an answer leaves these files as they are. One that moves answers on purpose records them
anew, and the difference of the files says what moved.
"""

import dataclasses
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_limits

from ml import packaging
from ml.config import load_use_case, use_case_files
from ml.ledger import Ledger, NightEntry
from ml.settings import Settings
from ml.store import open_store
from tests import golden_answers
from tests.conftest import _answers_here

SHIPPED = sorted(use_case_files(None))
UNDATED_AS_OF = date(2026, 1, 1)  # any day of the past: no row has a date
OTHER_SEED = 7


@pytest.fixture(scope="module")
def one_blas_thread() -> Iterator[None]:
    """Another number of threads may sum in another order."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="module")
def golden_home(prefect: str, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Settings]:
    """One home for the nights of all use cases, whose models answer in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_HOME", str(tmp_path_factory.mktemp("golden")))
        patch.setattr(packaging, "answers_of_a_fresh_process", _answers_here)
        yield Settings.from_environment()


def two_nights(name: str) -> list[dict[str, Any]]:
    """The requests: of a dated use case the night after, of another one the same night with another seed."""
    first = load_use_case(name, None).replay_from
    if first is None:
        return [{"as_of": str(UNDATED_AS_OF)}, {"as_of": str(UNDATED_AS_OF), "seed": OTHER_SEED}]
    return [{"as_of": str(first)}, {"as_of": str(first + timedelta(days=1))}]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_two_nights_of_a_shipped_use_case_answer_as_ever(
    name: str, golden_home: Settings, one_blas_thread: None
) -> None:
    from deployments.night import run_here

    answers = {}
    for which, request in zip(("first", "second"), two_nights(name), strict=True):
        done = run_here({"use_case": name, **request})
        entry = Ledger(open_store(golden_home.store), name).entry(done["entry"])
        assert isinstance(entry, NightEntry)
        answers[which] = golden_answers.night_answers(golden_home, entry)
    golden_answers.compare(name, answers)
