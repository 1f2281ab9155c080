"""The fast learner of a simulation: boosted trees with early stopping, fitted for one night and then refitted.

It is LightGBM on rows that are a slice of one matrix: a simulation fits hundreds of models, and reading, encoding and
writing files for each would take as long as the trees. Each tree sees a share of the rows and features, so that another
seed gives other trees. On half a year of flights, fit and refit took 5 CPU seconds with these settings, and 19 with the
learning rate, patience and bins of `ml.Trees`; the refit's log loss on the later half was 0.250 and 0.251.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.models.training import choose_output
from ml.models.trees import OBJECTIVES, REPEATABLE
from ml.serving.output import Output, probabilities, values
from ml.simulation.faults import Fault, TrainingCopy
from ml.simulation.nights import SimulatedNight
from ml.simulation.source import SourceRows

Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]
SETTINGS: dict[str, Any] = {
    "learning_rate": 0.1,
    "num_leaves": 31,
    "max_bin": 63,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.8,
    "num_threads": 1,
    "verbosity": -1,
    **REPEATABLE,
}
ROUNDS, PATIENCE = 500, 20


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What a night learnt: the judged model's answers from the first validation day on, the refit's from the first day
    that it has not seen.

    Answers are (rows, width) float32: the probability of the second of two classes, of each of more classes, or a
    value. `trees` is how many trees validation chose, `output` how outputs become answers.
    """

    trees: int
    output: Output
    judged: Float32s
    refitted: Float32s

    def to_bytes(self) -> bytes:
        """Both answers as one file of NumPy."""
        buffer = io.BytesIO()
        np.savez(buffer, judged=self.judged, refitted=self.refitted)
        return buffer.getvalue()


def learn(rows: SourceRows, night: SimulatedNight, seed: int, fault: Fault | None, last_day: str) -> Learnt:
    """Fits the night's candidate, and refits it with as many trees on all due rows. Answers go up to `last_day`.

    A fault is planted in the rows that the fits read, and nowhere else.
    """
    fit = _Fit(rows, night, seed, fault)
    judged, output = fit.judge()
    trees = judged.current_iteration() if judged.best_iteration <= 0 else judged.best_iteration
    refitted = fit.refit(trees)
    after = rows.between(last_day, last_day).stop
    return Learnt(
        trees=trees,
        output=output,
        judged=answers_of(output, judged, rows.x[night.validation.start : after]),
        refitted=answers_of(output, refitted, rows.x[night.test.stop : after]),
    )


def answers_of(output: Output, booster: Any, x: Float32s) -> Float32s:
    """(rows, width) the answers as they are kept."""
    if not len(x):
        return np.empty((0, len(output.classes) if output.kind == "multiclass" else 1), np.float32)
    outputs = _outputs(booster, x)
    if output.kind == "regression":
        return values(output, outputs)[:, None].astype(np.float32)
    kept = probabilities(output, outputs)
    return (kept[:, 1:] if output.kind == "binary" else kept).astype(np.float32)


def _outputs(booster: Any, x: Float32s) -> Floats:
    raw = booster.predict(x, raw_score=True, num_threads=1)
    return np.asarray(raw, np.float64).reshape(len(x), -1)


class _Fit:
    """The two fits of one night."""

    def __init__(self, rows: SourceRows, night: SimulatedNight, seed: int, fault: Fault | None) -> None:
        self.rows, self.night, self.fault = rows, night, fault
        target = rows.use_case.target
        self.parameters: dict[str, Any] = {
            **SETTINGS,
            "objective": OBJECTIVES[target.kind],
            **({"num_class": len(target.classes)} if target.kind == "multiclass" else {}),
            "learning_rate": SETTINGS["learning_rate"] * (fault.learning_rate if fault else 1.0),
            "seed": (seed + (fault.seed if fault else 0)) % 2**31,
        }
        self.generator = np.random.default_rng([seed, night.as_of.toordinal()])
        self._column: int | None = None

    def judge(self) -> tuple[Any, Output]:
        """The judged model, and the calibration and threshold that validation rows choose."""
        import lightgbm

        read = slice(self.night.train.start, self.night.validation.stop)
        x, y = self._copy(read)
        cut = self.night.train.stop - read.start
        train_rows, held_out_rows = (
            self._known(part) for part in (slice(read.start, self.night.train.stop), self.night.validation)
        )
        train = self._dataset(x[:cut], y[:cut], slice(read.start, self.night.train.stop), train_rows)
        held_out = self._dataset(x[cut:], y[cut:], self.night.validation, held_out_rows, train)
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        booster = lightgbm.train(self.parameters, train, ROUNDS, valid_sets=[held_out], callbacks=[stop])
        outputs = _outputs(booster, x[cut:][held_out_rows])
        days = self.rows.day_names[self.night.validation][held_out_rows]
        return booster, choose_output(self.rows.use_case, outputs, y[cut:][held_out_rows], days)

    def refit(self, trees: int) -> Any:
        """The same recipe on all due rows."""
        import lightgbm

        read = slice(self.night.train.start, self.night.test.stop)
        x, y = self._copy(read)
        return lightgbm.train(self.parameters, self._dataset(x, y, read, self._known(read)), trees)

    def _copy(self, read: slice) -> tuple[Float32s, Floats]:
        """The rows that a fit reads, with the fault in them."""
        x, y = self.rows.x[read], self.rows.y[read]
        if self.fault is None or self.fault.plant is None:
            return x, y
        days = self.rows.day_numbers[read]
        classes = len(self.rows.use_case.target.classes) if self.rows.use_case.target.kind != "regression" else 0
        column = self._best_number() if self.fault.name == "other unit" else None
        copy = TrainingCopy(x=x, y=y, ages=days[-1] - days, classes=classes, column=column)
        planted = self.fault.plant(copy, self.generator)
        return planted.x, planted.y

    def _best_number(self) -> int:
        """The place of the number by which a few clean trees gain most."""
        import lightgbm

        if self._column is None:
            train = self.night.train
            dataset = self._dataset(self.rows.x[train], self.rows.y[train], train, self._known(train))
            booster = lightgbm.train(self.parameters, dataset, 10)
            gain = booster.feature_importance("gain")[: len(self.rows.numbers)]
            self._column = int(gain.argmax())
        return self._column

    def _known(self, part: slice) -> NDArray[np.bool_]:
        """(rows,) which rows of the part were known before the night."""
        if self.rows.known_at is None:
            return np.full(part.stop - part.start, True)
        return self.rows.known_at[part] < np.datetime64(str(self.night.as_of))

    def _dataset(self, x: Float32s, y: Floats, part: slice, known: NDArray[np.bool_], train: Any = None) -> Any:
        import lightgbm

        weights = None if self.rows.weights is None else self.rows.weights[part]
        if not known.all():
            x, y, weights = x[known], y[known], None if weights is None else weights[known]
        return lightgbm.Dataset(
            x, y, weight=weights, reference=train, params=self.parameters,
            categorical_feature=list(self.rows.category_places),
        )  # fmt: skip
