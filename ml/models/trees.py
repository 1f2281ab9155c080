"""Boosted trees by LightGBM: the learner, what its parameters must be, and how its trees grow.

Declaring a learner imports no LightGBM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ml.data.dataset import Dataset
from ml.data.statistics import Statistics, numbers
from ml.declarations import Broken, Demands
from ml.errors import ConfigError
from ml.models.encoding import fit_categories
from ml.models.handles import Step
from ml.models.protocol import Fitted, Floats, Job, Learner, Rows
from ml.models.tree_options import OPTIONS
from ml.serving.output import TaskKind

if TYPE_CHECKING:
    import lightgbm

    from ml.serving.kinds.trees import PlainFeatures

Share = Annotated[float, Field(gt=0, le=1)]
Parameters = dict[str, Any]

OBJECTIVES: dict[TaskKind, str] = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}
# Bit for bit the same trees on each run. With rows in its outer loop, LightGBM adds up in the order of its threads.
REPEATABLE: Parameters = {"deterministic": True, "force_col_wise": True, "device_type": "cpu"}
COARSE = 1e-3  # of the labels' standard deviation: LightGBM keeps labels as float32
FRUITLESS = 30  # trees in a row without a split, after which growth ends; other samples of rows may have one
SMALLEST = 1e-15  # the probability that a log loss goes down to
THREADS = re.compile(r"\[num_threads: \d+\]")
WHERE = re.compile(r" at \S+, line \d+ ?\.?$")  # in LightGBM's C++, at the end of what it says


class Trees(Learner):
    """Boosted trees for classes and for numbers (Ke et al. 2017, as in LightGBM). They grow on the CPU.

    `rounds` is how many trees grow at most, for each class where there are more than two. `patience` ends the fit
    after so many trees without a better validation loss; `None` never does. The trees up to the one with the best
    validation loss are kept. `monotone` names columns of numbers with 1 or -1: a larger value then never lowers, or
    never raises, the output. `subsample` is the share of rows that each tree sees, `colsample_bytree` that of features.
    `options` are further parameters of LightGBM, under its own names.
    """

    served = ("trees",)
    code = ("ml/models/trees.py", "ml/models/tree_options.py", "ml/models/encoding.py")
    libraries = ("lightgbm", "joblib", "threadpoolctl")  # it imports scikit-learn, which imports the other two
    needs = ("lightgbm",)
    step_name = "tree"
    uses_gpu = False
    demands: ClassVar[Demands[Any, Any]] = (
        (
            "class_weight",
            "be left out of a regression",
            lambda m, u: m.class_weight is not None and u.target.kind == "regression",
            "remove it",
        ),
        (
            "monotone",
            "name columns that are learnt as numbers",
            lambda m, u: _no_number(m.monotone, u),
            "name one of them",
        ),
        (
            "monotone",
            "be left out where there are more than two classes",
            lambda m, u: bool(m.monotone) and u.target.kind == "multiclass",
            "remove it",
        ),
        *OPTIONS,
    )

    def __init__(
        self,
        learning_rate: PositiveFloat = 0.05,
        rounds: PositiveInt = 1000,
        patience: PositiveInt | None = 30,
        num_leaves: Annotated[int, Field(ge=2, le=131_072)] = 31,
        min_child_samples: Annotated[int, Field(ge=1, lt=2**31)] = 20,
        class_weight: Literal["balanced"] | None = None,
        monotone: dict[str, Literal[1, -1]] | None = None,
        subsample: Share = 1.0,
        colsample_bytree: Share = 1.0,
        reg_lambda: NonNegativeFloat = 0.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        self.rounds = rounds
        self.patience = patience
        self.num_leaves = num_leaves
        self.min_child_samples = min_child_samples
        self.class_weight = class_weight
        self.monotone = monotone
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.reg_lambda = reg_lambda
        self.options = options

    def fit_rows(self, job: Job) -> Fitted:
        """Grows trees on the job's rows, one by one, and writes those that are kept.

        Raises ConfigError for an option with a value that LightGBM refuses, for a `subsample` of no rows, and for
        labels that are equal to LightGBM. Raises DataRejected if train rows lack a class, or if all weights are 0.
        """
        from ml.serving.kinds.trees import save

        job.require_every_class()
        _refuse_empty_samples(self, job)
        self.try_parameters(job.table)
        features = fit_features(job.table, job.statistics)
        parameters = self.parameters(job.table, features.columns, job.seed, job.threads)
        growth = Growth(self, job, features, parameters)
        growth.run()
        save(job.folder, features, growth.text())
        return Fitted(chosen={"trees": growth.best}, steps=tuple(growth.steps), best=growth.best)

    def try_parameters(self, table: Dataset) -> None:
        """Raises ConfigError for an option whose value LightGBM refuses. It is asked with rows that are made up, so
        that what it says quotes no row."""
        import lightgbm

        x, y = np.arange(8.0)[:, None], np.arange(8.0) % max(2, len(table.target.classes))
        asked = self.parameters(table, [*(self.monotone or ["x"])][:1], seed=0, threads=1)
        try:
            lightgbm.Booster(asked, lightgbm.Dataset(x, y, params=asked)).update()
        except lightgbm.basic.LightGBMError as error:
            said = WHERE.sub("", str(error).strip())
            raise ConfigError(
                f"the parameters of {table.name}'s trees must be values that LightGBM takes", f"it says '{said}'",
                "change that one in `options`",
            ) from None  # fmt: skip

    def parameters(self, table: Dataset, columns: Iterable[str], seed: int, threads: int) -> Parameters:
        """What LightGBM is told, apart from the rows. `columns` are those that its features are made of."""
        kind = table.target.kind
        return {
            "objective": OBJECTIVES[kind],
            **({"num_class": len(table.target.classes)} if kind == "multiclass" else {}),
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_child_samples,
            "bagging_fraction": self.subsample,
            "bagging_freq": int(self.subsample < 1),
            "feature_fraction": self.colsample_bytree,
            "lambda_l2": self.reg_lambda,
            **({"monotone_constraints": [self.monotone.get(name, 0) for name in columns]} if self.monotone else {}),
            "data_random_seed": 1,  # LightGBM's default: of many rows it takes some to choose the bins of numbers
            **(self.options or {}),
            "seed": seed % 2**31,
            "num_threads": threads,
            "metric": "none",
            "verbosity": -1,
            **REPEATABLE,
        }


def fit_features(table: Dataset, train: Statistics) -> PlainFeatures:
    """The features, with the categories that are not rare in train rows."""
    from ml.serving.kinds.trees import PlainFeatures

    return PlainFeatures(
        numbers=tuple(column.name for column in numbers(table)), categories=fit_categories(table, train)
    )


class Growth:
    """Trees that grow one by one, with the losses after each."""

    def __init__(self, learner: Trees, job: Job, features: PlainFeatures, parameters: Parameters) -> None:
        import lightgbm

        self.job, self.features, self.patience = job, features, learner.patience
        self.limit = learner.rounds if job.chosen is None else int(job.chosen["trees"])
        self.class_weights = job.class_weights() if learner.class_weight else None
        self.steps: list[Step] = []
        self.best = 0
        train, self.train_loss = self._read(job.train, parameters)
        self.booster = lightgbm.Booster(parameters, train)
        self.validation_loss: MeanLoss | None = None
        if job.validation is not None:
            held_out, self.validation_loss = self._read(job.validation, parameters, train)
            self.booster.add_valid(held_out, "validation")

    def _read(
        self, rows: Rows, parameters: Parameters, train: lightgbm.Dataset | None = None
    ) -> tuple[lightgbm.Dataset, MeanLoss]:
        """The rows as LightGBM keeps them, with numbers in the bins of the train rows, and the loss on these rows."""
        import lightgbm

        x, y, weights_of_rows = self.job.read(rows, self.features.transform)
        _refuse_equal_labels(self.job, y)
        weights = self._weights(y, weights_of_rows)
        dataset = lightgbm.Dataset(
            x,
            y,
            weight=weights,
            reference=train,
            feature_name=[f"f{place}" for place in range(x[0].shape[1])],  # LightGBM refuses some letters in names
            categorical_feature=self.features.category_places,
            params=parameters,
        )
        return dataset, MeanLoss(self.job.table.target.kind, y, weights)

    def _weights(self, y: Floats, weights: Floats | None) -> Floats | None:
        """(rows,) the weights of rows, with a mean of 1, times those of their classes; None if there are neither.

        With a mean of 1, `reg_lambda` is as strong in any unit of the weights.
        """
        if weights is not None:
            weights = weights / weights.mean()
        if self.class_weights is None:
            return weights
        of_class = self.class_weights[y.astype(int)]
        return of_class if weights is None else of_class * weights

    def run(self) -> None:
        """Grows trees up to the limit, or until validation has not become better for as many as `patience`.

        A tree that finds no split is none. Growth ends after FRUITLESS of them in a row.
        """
        fruitless = 0
        while len(self.steps) < self.limit and fruitless < FRUITLESS and not self._out_of_patience():
            without_split = self.booster.update()
            if without_split and self.steps:
                fruitless += 1
                continue
            fruitless = 0
            self._keep_step()

    def _out_of_patience(self) -> bool:
        held_out = self.validation_loss is not None
        return held_out and self.patience is not None and len(self.steps) - self.best >= self.patience

    def _keep_step(self) -> None:
        train = self.booster.eval_train(self.train_loss)[0][2]
        loss = None if self.validation_loss is None else self.booster.eval_valid(self.validation_loss)[0][2]
        step = Step(number=len(self.steps) + 1, train_loss=train, validation_loss=loss)
        if loss is None or not self.steps or loss < self._best_loss():
            self.best = step.number
        self.steps.append(step)
        self.job.diary.step(step, self.limit)

    def _best_loss(self) -> float:
        loss = self.steps[self.best - 1].validation_loss
        return np.inf if loss is None else loss

    def text(self) -> str:
        """The trees that are kept, as LightGBM writes them, but with one thread among their parameters: every number of
        threads gives equal bytes."""
        return THREADS.sub("[num_threads: 1]", self.booster.model_to_string(num_iteration=self.best))


class MeanLoss:
    """The weighted log loss or RMSE of some rows, as LightGBM calls it after a tree.

    Its own sums depend in their last bits on the number of threads.
    """

    def __init__(self, kind: TaskKind, y: Floats, weights: Floats | None) -> None:
        self.kind, self.y, self.weights = kind, y, weights
        self.codes = y.astype(int) if kind == "multiclass" else None
        self.other = 1 - y  # of two classes

    def __call__(self, answers: Floats, _: lightgbm.Dataset) -> tuple[str, float, bool]:
        """Its name, its value, and that larger is not better. `answers` are values (rows,), probabilities of the second
        class (rows,) or of each class (rows, classes)."""
        if self.kind == "regression":
            return "rmse", self._mean(np.square(answers - self.y)) ** 0.5, False
        of_label = np.abs(answers - self.other) if self.codes is None else answers[np.arange(len(answers)), self.codes]
        return "log loss", -self._mean(np.log(np.maximum(of_label, SMALLEST))), False

    def _mean(self, losses: Floats) -> float:
        return float(np.average(losses, weights=self.weights))


def _refuse_empty_samples(learner: Trees, job: Job) -> None:
    rows = job.statistics.rows
    if int(learner.subsample * rows) < 1:
        raise ConfigError(
            f"each tree of {job.table.name}'s model must see a train row",
            f"a share of {learner.subsample:g} of {rows:,} train rows is none",
            "raise `subsample`",
        )


def _refuse_equal_labels(job: Job, y: Floats) -> None:
    """Raises ConfigError if float32, in which LightGBM keeps labels, moves one by much of their standard deviation."""
    if job.table.target.kind != "regression":
        return
    with np.errstate(over="ignore"):
        moved, std = float(np.abs(y.astype(np.float32) - y).max()), float(y.std())
    if std > 0 and moved > COARSE * std:
        raise ConfigError(
            f"the labels of {job.table.name} must differ in their first seven digits, as LightGBM keeps no more",
            f"its rounding moves one by {moved / std:.2g} standard deviations",
            "learn the difference from a constant, made by `derive`",
        )


def _no_number(monotone: dict[str, Any] | None, table: Dataset) -> Broken:
    """The first name that is no feature learnt as a number, in words; False if each of them is one."""
    known = {column.name for column in numbers(table)}
    others = [name for name in monotone or {} if name not in known]
    return bool(others) and f"{others[0]!r} is none (they are {', '.join(sorted(known)) or 'none at all'})"
