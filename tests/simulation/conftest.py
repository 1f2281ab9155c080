"""Intervals from fewer resamples: these tests ask which candidates are promoted, not how wide an interval is."""

import pytest

import ml.metrics.intervals


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ml.metrics.intervals, "RESAMPLES", 400, raising=False)
