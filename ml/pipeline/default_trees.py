"""The stage that fits the third baseline: boosted trees with LightGBM's default settings.

They learn tonight's train rows, and get calibration and threshold from its validation rows as the candidate does. What
they answer to the test rows is kept, so that one snapshot costs one fit, whatever is trained and judged on it.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from ml.data.cleaning import to_parquet
from ml.data.handles import Cleaned, Snapshot, Split
from ml.data.statistics import Statistics
from ml.digests import digest_value
from ml.errors import ConfigError
from ml.evaluation.code import DEFAULT_TREES
from ml.evaluation.handles import DefaultTrees
from ml.evaluation.judging import answer_table, model_answers
from ml.models.handles import Step
from ml.models.protocol import Job, Rows
from ml.models.trees import Trees
from ml.pipeline.run_key import training_key
from ml.pipeline.site import Site, kept_results, resume
from ml.pipeline.train import require_same_code_and_machine
from ml.storage import paths
from ml.storage.json_form import from_json
from ml.storage.locks import fit_turn
from ml.storage.records import Night
from ml.storage.store import get_file, put_file

log = logging.getLogger("retrain.model")
MOST_ROWS = 100_000  # of train rows: so many take LightGBM about a second
LEARNER = Trees(learning_rate=0.1, rounds=100, patience=None)  # LightGBM's defaults, by our names
WORDS = "boosted trees with LightGBM's default settings"


class Silent:
    """A diary that tells nothing: so short a fit begins again after a kill."""

    def step(self, step: Step, total: int) -> None:
        """Tells nobody."""

    def load(self) -> bytes | None:
        """Nothing was saved."""
        return None

    def save(self, checkpoint: bytes) -> None:
        """Saves nothing."""


def fit_default_trees(
    site: Site, night: Night, snapshot: Snapshot, cleaned: Cleaned, split: Split, *, nightly: bool
) -> DefaultTrees:
    """What default trees answer to tonight's test rows.

    If they cannot be fitted here, the result says why, and the night goes on without them.
    """
    absent = _why_no_library()
    if absent is not None:
        return DefaultTrees(description=WORDS, reason=absent)
    of_trees, night = _with_trees(site, night)
    key = digest_value([training_key(night, snapshot.digest), DEFAULT_TREES.digest, split.test_digest, MOST_ROWS])
    kept = kept_results(site, DefaultTrees, "trees").whole(key)
    with nullcontext() if kept else fit_turn(site.settings.home, nightly=nightly):
        return resume(site, DefaultTrees, "trees", key, lambda: _fit(of_trees, night, key, cleaned, split))


def _why_no_library() -> str | None:
    try:
        import lightgbm  # noqa: F401
    except (ImportError, OSError) as error:  # where the system's libgomp is missing, it is an OSError
        return f"LightGBM cannot be imported on this machine ({type(error).__name__})"
    return None


def _with_trees(site: Site, night: Night) -> tuple[Site, Night]:
    """The site as if its use case had the default trees, and its night, whose digests are those of that use case."""
    of_trees = replace(site, use_case=replace(site.use_case, model=LEARNER))
    return of_trees, replace(night, use_case_digest=of_trees.training, code_digest=of_trees.code, device="cpu")


def _fit(site: Site, night: Night, key: str, cleaned: Cleaned, split: Split) -> DefaultTrees:
    from ml.models.training import fit, package

    require_same_code_and_machine(site, night)
    statistics, reader = from_json(Statistics, get_file(site.store, split.statistics)), site.reader(cleaned)
    every = -(-statistics.rows // MOST_ROWS)
    description = WORDS if every == 1 else f"{WORDS}, on one in {every} train rows"
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            folder=Path(scratch),
            table=site.use_case,
            statistics=statistics,
            train=Rows(partial(_sampled, lambda: reader.part_frames(night.as_of, "train"), every)),
            validation=None,
            chosen={"trees": LEARNER.rounds},
            seed=night.seed,
            device=night.device,
            threads=night.threads,
            diary=Silent(),
            weight=site.use_case.weight,
        )
        try:
            fit(LEARNER, job)
            held_out, test = (reader.raw_rows(night.as_of, part) for part in ("validation", "test"))
            model = package(site.use_case, site.rules, Path(scratch), night.threads, held_out)
            answers = model_answers(site.use_case, model.answers, test)
        except ConfigError as error:  # such as labels that LightGBM cannot tell apart: no fault of the candidate's
            return DefaultTrees(description=description, reason=f"{error.rule}, but {error.value}")
    file = paths.stage_file(night.use_case, "trees", key, "answers.parquet")
    return DefaultTrees(
        description=description, answers=put_file(site.store, file, to_parquet(answer_table(test, answers)))
    )


def _sampled(read: Callable[[], Iterator[pd.DataFrame]], every: int) -> Iterator[pd.DataFrame]:
    """The frames with every so many rows of them."""
    seen = 0
    for frame in read():
        yield frame.iloc[-seen % every :: every]
        seen += len(frame)
