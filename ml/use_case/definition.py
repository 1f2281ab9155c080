"""What a use case is: one typed object that says what to learn, from which rows, and what a model must prove.

A use case is a file `ml/use_cases/<name>.py`, or `<RETRAIN_PROJECT>/use_cases/<name>.py`, that defines `USE_CASE`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from ml.data.sources.declared import Text
from ml.declarations import plain_fields
from ml.digests import digest_value
from ml.evaluation.gates import Gate
from ml.models.recipe import Recipe
from ml.use_case.declaration import refuse_impossible
from ml.use_case.operation import Operation


@dataclass(frozen=True, kw_only=True)
class UseCase(Recipe, Operation):
    """One thing to learn. Its fields belong to its parts, which say what they mean: Reading, Table, UsedDays, Limits
    (ml/data/dataset.py), Recipe (ml/models/recipe.py) and Operation (ml/use_case/operation.py).

    `gates` say what a candidate must prove. `question` is the title of reports; `demo` writes example data.
    """

    question: Text
    gates: tuple[Gate, ...]
    demo: Callable[[Path], None] | None = None

    def __post_init__(self) -> None:
        refuse_impossible(self)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of all that decides a result: functions count by their source, the estimator by its parameters."""
        operational = {field.name for field in fields(Operation)}
        return digest_value({name: value for name, value in plain_fields(self).items() if name not in operational})
