"""What a use case may say about its model. Each row of the tables is one demand.

What a kind of model demands of its own parameters stands with the kind (`Learner.demands`).
"""

from ml.data.dataset import NUMBERS
from ml.data.demands import is_not_of_type, undeclared
from ml.declarations import Broken, Demands
from ml.metrics.scores import METRICS
from ml.metrics.thresholds import AIMS, AtLeast, Cost, CostMatrix
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


def _has_no_calibration(recipe: Recipe) -> Broken:
    """Says which calibrations the target has if this is none of them; False if it is one."""
    known = ("auto", "none", *OF_KIND[recipe.target.kind])
    return (
        recipe.calibration not in known
        and f"it is {recipe.calibration!r} where {recipe.target.kind} has {', '.join(known)}"
    )


def _serves_nothing(recipe: Recipe) -> Broken:
    """Why the threshold cannot serve what it is to serve; False if it can, or if the use case does not say."""
    aim, kind, classes = recipe.threshold, recipe.target.kind, len(recipe.target.classes)
    if aim is None:
        return False
    if isinstance(aim, CostMatrix):
        return _is_no_matrix(aim, classes) if kind == "multiclass" else f"a {kind} target takes no CostMatrix"
    if kind != "binary":
        return f"it is {aim!r}, and a {kind} target has no threshold"
    if isinstance(aim, Cost):
        return not (aim.false_positive or aim.false_negative) and "both of its costs are 0"
    if isinstance(aim, AtLeast):
        return (aim.precision is None) == (aim.recall is None) and "AtLeast takes a precision or a recall"
    return aim not in AIMS and f"it is {aim!r}, and a threshold serves {', '.join(AIMS)}, Cost or AtLeast"


def _is_no_matrix(matrix: CostMatrix, classes: int) -> Broken:
    """Why these are no costs of so many classes; False if they are."""
    if {len(matrix.costs), *map(len, matrix.costs)} != {classes}:
        return f"there are {classes} classes, and its costs are not {classes} rows of {classes}"
    right = all(row[place] <= min(row) for place, row in enumerate(matrix.costs))
    return not right and "a wrong answer costs less than the right one"


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
    ("calibration", "be one that its target has", lambda u, _: _has_no_calibration(u), "choose one of them"),
    ("threshold", "serve something that its target has", lambda u, _: _serves_nothing(u), "mend it, or leave it out"),
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
