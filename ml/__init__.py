"""The public face: what use cases and gates are made of, as in `from ml import Column, UseCase`.

The names are listed once, below, for type checkers; each is imported when it is first asked for.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml.data.calendars import BusinessDays as BusinessDays
    from ml.data.dataset import SideTable as SideTable
    from ml.data.dataset import Target as Target
    from ml.data.source_kinds import DatabaseSource as DatabaseSource
    from ml.data.source_kinds import DaySource as DaySource
    from ml.data.source_kinds import FileSource as FileSource
    from ml.data.source_kinds import Source as Source
    from ml.evaluation.gates import BetterThanRule as BetterThanRule
    from ml.evaluation.gates import BetterThanTrivial as BetterThanTrivial
    from ml.evaluation.gates import Comparison as Comparison
    from ml.evaluation.gates import Difference as Difference
    from ml.evaluation.gates import Evidence as Evidence
    from ml.evaluation.gates import Gate as Gate
    from ml.evaluation.gates import MinMetric as MinMetric
    from ml.evaluation.gates import NotSurelyWorse as NotSurelyWorse
    from ml.evaluation.gates import NotWorseThanChampion as NotWorseThanChampion
    from ml.evaluation.gates import NotWorseThanReference as NotWorseThanReference
    from ml.evaluation.gates import NotWorseThanTrees as NotWorseThanTrees
    from ml.evaluation.gates import metric_interval as metric_interval
    from ml.evaluation.handles import Interval as Interval
    from ml.evaluation.handles import Verdict as Verdict
    from ml.evaluation.handles import VerdictName as VerdictName
    from ml.evaluation.source_unchanged import SourceUnchanged as SourceUnchanged
    from ml.metrics.intervals import Pair as Pair
    from ml.metrics.thresholds import AtLeast as AtLeast
    from ml.metrics.thresholds import Cost as Cost
    from ml.metrics.thresholds import CostMatrix as CostMatrix
    from ml.models.auto import Auto as Auto
    from ml.models.ensemble import Ensemble as Ensemble
    from ml.models.handles import Step as Step
    from ml.models.networks.estimators import NetworkClassifier as NetworkClassifier
    from ml.models.networks.estimators import NetworkRegressor as NetworkRegressor
    from ml.models.networks.estimators import linear_regression as linear_regression
    from ml.models.networks.estimators import logistic_regression as logistic_regression
    from ml.models.packs.learners import EmbeddedNetwork as EmbeddedNetwork
    from ml.models.packs.learners import TabM as TabM
    from ml.models.protocol import Fitted as Fitted
    from ml.models.protocol import Job as Job
    from ml.models.protocol import Learner as Learner
    from ml.models.scikit_learn import ScikitLearn as ScikitLearn
    from ml.models.trees import Trees as Trees
    from ml.serving.columns import Column as Column
    from ml.use_case.definition import UseCase as UseCase
    from ml.use_case.operation import Retention as Retention


def _listed() -> dict[str, str]:
    """Every public name with the module that has it, read from the list above."""
    imports = [node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.ImportFrom)]
    return {name.asname: node.module or "" for node in imports for name in node.names if name.asname}


FACE = _listed()
__all__ = sorted(FACE)


def __getattr__(name: str) -> Any:
    if name not in FACE:
        raise AttributeError(f"ml has no {name}; it has {', '.join(FACE)}")
    return getattr(import_module(FACE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *FACE})
