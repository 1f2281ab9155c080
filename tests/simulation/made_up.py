"""Made-up rows, nights and candidates, whose answers are as good as a test wants them."""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ml.serving.output import Output
from ml.simulation.candidates import Candidate, KeptCandidate
from ml.simulation.learning import Learnt
from ml.simulation.nights import SimulatedNight, nights_of
from ml.simulation.source import SourceRows
from ml.storage.store import DiskStore, put_file
from tests.tiny import tills

ROWS_A_DAY = 60
FIRST_DAY = date(2024, 1, 1)


def source(days: int = 130, rows_a_day: int = ROWS_A_DAY, **changes: Any) -> SourceRows:
    """Rows of `tills`, of which a third are positive; the test has 20 days, validation has 3."""
    use_case = tills(**{"test_days": 20, "window_days": 60, **changes})
    generator = np.random.default_rng(5)
    names = tuple(str(FIRST_DAY + timedelta(days=number)) for number in range(days))
    size = days * rows_a_day
    y = (generator.random(size) < 1 / 3).astype(np.float64)
    return SourceRows(
        use_case=use_case, days=names, starts=tuple(range(0, size + 1, rows_a_day)),
        x=np.column_stack([y + generator.normal(size=size), generator.normal(size=size)]).astype(np.float32),
        y=y, weights=None, known_at=None, numbers=("amount", "items"), category_places=(), day_digests=names, due=None,
    )  # fmt: skip


def wrong(rows: SourceRows, share: float, seed: int) -> Any:
    """(rows, 1) probabilities that are wrong about this share of all rows."""
    generator = np.random.default_rng(seed)
    right = np.where(generator.random(len(rows.y)) < share, 1 - rows.y, rows.y)
    return (0.1 + 0.8 * right[:, None]).astype(np.float32)


def candidate(
    folder: Path, rows: SourceRows, night: SimulatedNight, judged: float, refitted: float | None = None, seed: int = 0
) -> Candidate:
    """A candidate whose judged model is wrong about the share `judged` of all rows, and its refit about `refitted`."""
    store = DiskStore(folder)
    one, other = (wrong(rows, share, seed) for share in (judged, judged if refitted is None else refitted))
    output = Output(kind="binary", classes=("kept", "returned"))
    learnt = Learnt(trees=1, output=output, judged=one[night.validation.start :], refitted=other[night.test.stop :])
    name = f"{night.as_of} {judged} {refitted} {seed}"
    kept = KeptCandidate(
        as_of=night.as_of, fit_until=night.fit_until, trees=1, output=output, judged_from=night.validation.start,
        refitted_from=night.test.stop, answers=put_file(store, f"stages/tills/{name}", learnt.to_bytes()),
    )  # fmt: skip
    return Candidate(store=store, night=night, kept=kept, name=name)


def year(
    folder: Path, rows: SourceRows, shares: Mapping[int, float], usual: float = 0.2, *, alike: bool = False
) -> Any:
    """Nights, and a candidate for each: the share of errors of a night's candidate, by its place among them.

    If they are `alike`, a worse candidate is wrong about all rows that a better one is wrong about, and about more.
    """
    nights = nights_of(rows)
    candidates = [
        candidate(folder, rows, night, shares.get(place, usual), seed=0 if alike else place)
        for place, night in enumerate(nights)
    ]
    return nights, candidates
