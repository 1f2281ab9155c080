"""What a use case is: one typed object that says what to learn, from which rows, and what a model must prove.

A use case is a file `ml/use_cases/<name>.py`, or `<RETRAIN_PROJECT>/use_cases/<name>.py`, that defines `USE_CASE`.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ml.data.calendars import BusinessDays
from ml.data.demands import CALENDAR, COLUMN, DATASET, SIDE_TABLE, SOURCE, TARGET
from ml.data.source_kinds import Text
from ml.declarations import Broken, Demands, cannot_be_called, plain, plain_fields, twice
from ml.digests import digest_value
from ml.evaluation.demands import GATE
from ml.evaluation.gates import Gate
from ml.evaluation.source_unchanged import SourceUnchanged
from ml.models.demands import RECIPE
from ml.models.protocol import Learner
from ml.models.recipe import Recipe
from ml.use_case.checks import refuse, refuse_types
from ml.use_case.operation import OPERATION, Operation

AUTO = "auto"  # which a file may write for Auto()
TRAINING_FIELDS = tuple(field.name for field in fields(Recipe) if field.name != "name")


@dataclass(frozen=True, kw_only=True)
class UseCase(Recipe, Operation):
    """One thing to learn. Its fields belong to its parts, which say what they mean: Reading, Table, UsedDays, Limits
    (ml/data/dataset.py), Recipe (ml/models/recipe.py) and Operation (ml/use_case/operation.py).

    `gates` say what a candidate must prove. `refit` says whether the recipe of a promoted candidate is fitted once more
    on all due rows, test rows included, and that model serves; or `never`, and the judged one serves. `question` is the
    title of reports; `demo` writes example data. `model="auto"` means Auto(). `default_trees` says whether
    boosted trees with default settings are fitted beside the candidate, as a baseline.
    """

    question: Text
    gates: tuple[Gate, ...]
    refit: Literal["promoted", "never"] = "promoted"
    default_trees: bool = True
    demo: Callable[[Path], None] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, str) and self.model == AUTO:
            from ml.models.auto import Auto  # with the kinds that it may have, which no other use case needs

            object.__setattr__(self, "model", Auto())
        _refuse_impossible(self)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of every field that can change a result: functions by their source, the model by its parameters.

        The fields of Operation are left out, for they only say when and how nights are run.
        """
        operational = {field.name for field in fields(Operation)}
        return digest_value({name: value for name, value in plain_fields(self).items() if name not in operational})

    @functools.cached_property
    def training_digest(self) -> str:
        """Digest of the fields that can change a model. Its name and what is demanded of it can not."""
        return digest_value({name: value for name, value in plain_fields(self).items() if name in TRAINING_FIELDS})

    @functools.cached_property
    def gates_digest(self) -> str:
        """Digest of what a model must prove, and of whether it then serves as it was judged."""
        gates = plain(self.gates)
        return digest_value(gates if self.refit == "promoted" else [gates, self.refit])


def _refuse_impossible(use_case: UseCase) -> None:
    """Raises ConfigError for the first field that would otherwise fail only during a night."""
    refuse_types(use_case, f"the use case {use_case.name}")
    for place, part, _ in _parts(use_case):
        refuse_types(part, place)
    name = f"the use case {use_case.name}"
    refuse(DATASET, use_case, use_case, name)
    refuse(OPERATION, use_case, use_case, name)
    refuse(RECIPE, use_case, use_case, name)
    refuse(USE_CASE, use_case, use_case, name)
    for place, part, table in _parts(use_case):
        refuse(table, part, use_case, place)


def _parts(use_case: UseCase) -> Iterator[tuple[str, Any, Demands[Any, Any]]]:
    """Every part of the use case: what error messages call it, the part itself, and the table of demands on it."""
    name = use_case.name
    yield f"the source of {name}", use_case.source, SOURCE
    yield from ((f"column {column.name} of {name}", column, COLUMN) for column in use_case.columns)
    if isinstance(use_case.calendar, BusinessDays):
        yield f"the calendar of {name}", use_case.calendar, CALENDAR
    yield f"the target of {name}", use_case.target, TARGET
    yield from _learners(f"the model of {name}", use_case.model)
    if use_case.threshold is not None and not isinstance(use_case.threshold, str):
        yield f"the threshold of {name}", use_case.threshold, ()
    yield from ((f"the gate {gate.name} of {name}", gate, GATE) for gate in use_case.gates)
    for side in use_case.side_tables:
        yield f"side table {side.name} of {name}", side, SIDE_TABLE
        yield f"the source of side table {side.name} of {name}", side.source, SOURCE


def _learners(place: str, learner: Learner) -> Iterator[tuple[str, Any, Demands[Any, Any]]]:
    """The learner, and what it is made of."""
    yield place, learner, learner.demands
    if isinstance(learner, Learner) and isinstance(learner.parts, tuple):  # its type is not checked yet
        for number, part in enumerate(learner.parts, 1):
            yield from _learners(f"part {number} of {place}", part)


def _has_no_digest(use_case: UseCase) -> Broken:
    try:
        return not use_case.digest
    except (TypeError, ValueError, OSError) as error:
        return f"one is not ({error})"


USE_CASE: Demands[UseCase, UseCase] = (
    ("gates", "have one at least", lambda u, _: not u.gates, "add one: without any nothing is promoted"),
    (
        "default_trees",
        "be True for a gate that compares with them",
        lambda u, _: not u.default_trees and any(gate.opponent == "trees" for gate in u.gates),
        "leave it out, or remove the gate",
    ),
    ("gates", "have no two of one kind and metric", lambda u, _: twice(gate.name for gate in u.gates), "remove one"),
    (
        "gates",
        "compare days only if there are days",
        lambda u, _: (
            not u.dated
            and any(isinstance(gate, SourceUnchanged) for gate in u.gates)
            and "SourceUnchanged is one, and time_column is None"
        ),
        "remove the gate",
    ),
    ("demo", "take one folder", lambda u, _: cannot_be_called(u.demo), "define it with one argument"),
    ("fields", "be plain data or functions of a file", lambda u, _: _has_no_digest(u), "mend the file"),
)
