"""What a use case may say about its model. Each row of the tables is one demand.

What a kind of model demands of its own parameters stands with the kind (`Learner.demands`).
"""

from ml.data.dataset import NUMBERS
from ml.data.demands import is_not_of_type, undeclared
from ml.declarations import Broken, Demands
from ml.metrics.scores import METRICS
from ml.models.calibration import OF_KIND
from ml.models.protocol import Learner
from ml.models.recipe import Recipe


def unmeasured(metric: str, recipe: Recipe) -> Broken:
    """Says which metrics the target has if this is none of them; False if it is one."""
    known = METRICS[recipe.target.kind]
    return metric not in known and f"it is {metric!r} where {recipe.target.kind} has {', '.join(known)}"


def _may_be_no_weight(recipe: Recipe) -> Broken:
    """Why a value of the weight's column may be no weight; False if each of them is one."""
    for column in recipe.columns:
        if column.name == recipe.weight:
            if column.nullable:
                return f"{column.name} may be null"
            return (column.minimum is None or column.minimum < 0) and f"{column.name} has no minimum of 0 or more"
    return False


def _text_for_a_tuple(learner: Learner) -> Broken:
    """The attribute of a company's own class that is one text instead of a tuple of texts; False if none is."""
    texts = [name for name in ("learns", "served") if isinstance(getattr(learner, name), str)]
    return bool(texts) and f"{texts[0]} of {learner.title} is {getattr(learner, texts[0])!r}"


RECIPE: Demands[Recipe, Recipe] = (
    ("metric", "be one that its target has", lambda u, _: unmeasured(u.metric, u), "choose one of them"),
    (
        "model",
        "fit its target",
        lambda u, _: u.target.kind not in u.model.learns and f"it is a {u.model.title} for {u.target.kind}",
        "take Trees(), a classifier for classes, or a regressor for numbers",
    ),
    (
        "model",
        "define fit_rows",
        lambda u, _: type(u.model).fit_rows is Learner.fit_rows and f"{u.model.title} does not",
        "define fit_rows(self, job) in its class",
    ),
    (
        "model",
        "have `learns` and `served` that are tuples",
        lambda u, _: _text_for_a_tuple(u.model),
        "write it with brackets and a comma, like ('my_kind',)",
    ),
    (
        "calibration",
        "be one that its target has",
        lambda u, _: (
            u.calibration not in {"auto", "none", *OF_KIND[u.target.kind]}
            and f"it is {u.calibration!r} where {u.target.kind} has {', '.join(('auto', 'none', *OF_KIND[u.target.kind]))}"
        ),
        "choose one of them",
    ),
    ("weight", "be a declared column", lambda u, _: undeclared([u.weight], u), "name one of its columns"),
    ("weight", "be a number", lambda u, _: is_not_of_type(u.weight, NUMBERS, u), "name a column of numbers"),
    ("weight", "not be the target", lambda u, _: u.weight == u.target.column, "name another column"),
    (
        "weight",
        "be a number of 0 or more in every row",
        lambda u, _: _may_be_no_weight(u),
        "declare the column's minimum, and that it is not nullable",
    ),
)
