"""The candidates of all nights, clean and with a fault planted: each is learnt once, and its answers are kept.

A candidate's content key covers the rows that it learnt and those that it answers, the night's split, the seed, the
fault, and the code that learns. So a simulation that was killed goes on where it was, and a policy trains nothing.
"""

import io
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from datetime import date
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from ml.code import Code
from ml.digests import digest_value
from ml.metrics.scores import Answers, Floats
from ml.serving.output import Output, along, decided, probabilities
from ml.settings import Settings
from ml.simulation.faults import Fault
from ml.simulation.learning import Float32s, learn
from ml.simulation.nights import SimulatedNight
from ml.simulation.source import SourceRows
from ml.storage import paths
from ml.storage.kept import Kept
from ml.storage.records import FileRef
from ml.storage.store import Store, get_file, open_store, put_file
from ml.use_case.loading import load_use_case

STAGE = "simulate"
AHEAD = 28  # days with rows on which a candidate with a fault is compared with the champion that it replaced
CODE = Code(
    (
        "ml/simulation/faults.py", "ml/simulation/learning.py", "ml/simulation/source.py", "ml/models/training.py",
        "ml/models/calibration.py", "ml/models/trees.py", "ml/models/encoding.py", "ml/serving/features.py",
        "ml/serving/output.py", "ml/serving/kinds/trees.py", "ml/data/statistics.py", "ml/metrics/intervals.py",
        "ml/metrics/scores.py", "ml/metrics/thresholds.py",
    ),
    ("lightgbm", "numpy", "pandas", "scikit-learn", "scipy"),
)  # fmt: skip
TINY = 1e-7  # float32 keeps no probability nearer to 1
Told = Callable[[int, int], None]  # is told how many of how many candidates are there


class Wanted(NamedTuple):
    """One candidate: of which night, with which seed, and with which fault in its training copy, if any."""

    night: SimulatedNight
    seed: int
    fault: Fault | None


@dataclass(frozen=True, kw_only=True)
class KeptCandidate:
    """What is kept of a candidate: how its outputs become answers, and the file with its answers to later days.

    The judged model's answers begin with the row `judged_from`, the refit's with `refitted_from`.
    """

    as_of: date
    fit_until: str
    trees: int
    output: Output
    judged_from: int
    refitted_from: int
    answers: FileRef


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A candidate whose answers can be read."""

    store: Store
    night: SimulatedNight
    kept: KeptCandidate
    name: str

    def answers(self, rows: slice, *, refitted: bool, output: Output | None = None) -> Answers:
        """The answers to these rows of the source, by the judged model or its refit.

        `output` is another calibration and threshold than those that the night chose.
        """
        file = self.kept.answers
        arrays, first = (
            _read(cast(Hashable, self.store), file),
            self.kept.refitted_from if refitted else self.kept.judged_from,
        )
        array = arrays["refitted" if refitted else "judged"][rows.start - first : rows.stop - first]
        assert rows.start >= first and len(array) == rows.stop - rows.start, (self.name, rows, first)
        return as_answers(self.kept.output, array, output)


def as_answers(output: Output, array: Float32s, other: Output | None = None) -> Answers:
    """Answers as gates and scores take them. `other` replaces the calibration and threshold of the kept `output`."""
    numbers = array.astype(np.float64)
    if other is not None:
        numbers = probabilities(other, logits_of(output, numbers))[:, 1:]
    if output.kind == "regression":
        return Answers(numbers[:, 0])
    if output.kind == "multiclass":
        return Answers(decided(output, numbers).astype(np.float64), numbers)
    both = np.column_stack([1 - numbers[:, 0], numbers[:, 0]])
    return Answers(decided(other or output, both).astype(np.float64), both)


def logits_of(output: Output, positive: Floats) -> Floats:
    """The logits that were calibrated to these probabilities of the second of two classes."""
    kept = np.clip(positive, TINY, 1 - TINY)
    back = [(after, before) for before, after in output.curve]
    return (along(back, np.log(kept / (1 - kept))) - output.offset) / output.slope


@lru_cache(maxsize=24)
def _read(store: Any, file: FileRef) -> dict[str, Float32s]:
    """The arrays of a file, which few replays read twice in a row."""
    with np.load(io.BytesIO(get_file(store, file))) as arrays:
        return dict(arrays)


@dataclass(frozen=True)
class Candidates:
    """Learns candidates of one source, unless they are kept."""

    store: Store
    rows: SourceRows

    @cached_property
    def kept(self) -> Kept[KeptCandidate]:
        return Kept(self.store, KeptCandidate, partial(paths.stage, self.rows.use_case.name, STAGE))

    @cached_property
    def _decided(self) -> list[Any]:
        """What decides every candidate: the use case's learning part, and the code."""
        use_case = self.rows.use_case
        columns = [use_case.reading_digest, use_case.statistics_digest, use_case.metric, use_case.weight]
        return [*columns, use_case.rare_below, self.rows.numbers, CODE.digest]

    def last_day(self, wanted: Wanted) -> str:
        """The last day that the candidate answers. One with a fault is only followed for as long as it is compared."""
        days = self.rows.days
        if wanted.fault is None:
            return days[-1]
        ahead = self.rows.days_between(str(wanted.night.as_of), days[-1])
        return ahead[:AHEAD][-1] if ahead else days[-1]

    def key(self, wanted: Wanted) -> str:
        """The content key of a candidate."""
        night = wanted.night
        parts = [[part.stop - part.start] for part in (night.train, night.validation, night.test)]
        rows = self.rows.digest(night.first_day, self.last_day(wanted))
        fault = wanted.fault and wanted.fault.name
        return digest_value([*self._decided, rows, parts, str(night.as_of), wanted.seed, fault])

    def find(self, wanted: Sequence[Wanted]) -> list[Candidate | None]:
        """The kept candidates in the order of `wanted`, None where there is none yet, or its answers are damaged."""
        keys = [self.key(one) for one in wanted]
        found = [self.kept.whole(key) for key in keys]
        return [
            Candidate(store=self.store, night=one.night, kept=kept, name=key) if kept is not None else None
            for one, key, kept in zip(wanted, keys, found, strict=True)
        ]

    def keep(self, wanted: Wanted) -> None:
        """Learns one candidate and keeps it. The record is written last, so that a kill leaves none without answers."""
        key, night = self.key(wanted), wanted.night
        learnt = learn(self.rows, night, wanted.seed, wanted.fault, self.last_day(wanted))
        place = paths.stage_file(self.rows.use_case.name, STAGE, key, "answers.npz")
        record = KeptCandidate(
            as_of=night.as_of,
            fit_until=night.fit_until,
            trees=learnt.trees,
            output=learnt.output,
            judged_from=night.validation.start,
            refitted_from=night.test.stop,
            answers=put_file(self.store, place, learnt.to_bytes()),
        )
        self.kept.keep(key, record)


def learn_all(candidates: Candidates, wanted: Sequence[Wanted], jobs: int, told: Told) -> list[Candidate]:
    """Every wanted candidate, in their order. Those that are not kept are learnt, by as many processes as `jobs`."""
    found = candidates.find(wanted)
    missing = [one for one, kept in zip(wanted, found, strict=True) if kept is None]
    there = len(wanted) - len(missing)
    told(there, len(wanted))
    for number, _ in enumerate(_each_learnt(candidates, missing, jobs), start=1):
        told(there + number, len(wanted))
    return [candidate for candidate in candidates.find(wanted) if candidate is not None]


def _each_learnt(candidates: Candidates, missing: Sequence[Wanted], jobs: int) -> Iterator[None]:
    """Learns the candidates, and yields after each."""
    if jobs == 1 or len(missing) < 2:
        for one in missing:
            candidates.keep(one)
            yield
        return
    with tempfile.TemporaryDirectory() as folder:
        matrix = Path(folder) / "x.npy"  # is read by all processes, and is in memory once
        np.save(matrix, candidates.rows.x)
        others = {field.name: getattr(candidates.rows, field.name) for field in fields(SourceRows)}
        del others["x"], others["use_case"]  # the functions of a company's own file cannot be sent
        start = (candidates.store.uri, candidates.rows.use_case.name, others, matrix, os.getpid())
        spawn = multiprocessing.get_context("spawn")  # a forked process may hang in the threads of LightGBM
        pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin, initargs=start)
        try:
            for future in as_completed([pool.submit(_keep, one) for one in missing]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_HERE: list[Candidates] = []  # in a process of the pool: what it learns from


def _begin(uri: str, name: str, others: dict[str, Any], matrix: Path, parent: int) -> None:
    """Begins a process of the pool. Ctrl-C is its parent's, and it ends soon after a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    use_case = load_use_case(name, Settings.from_environment().project)
    rows = SourceRows(use_case=use_case, x=np.load(matrix, mmap_mode="r"), **others)
    _HERE.append(Candidates(open_store(uri), rows))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(2.0)
    os._exit(1)


def _keep(wanted: Wanted) -> None:
    _HERE[0].keep(wanted)
