"""What a use case may say about its model. Each row of the tables is one demand."""

from sklearn.base import is_classifier, is_regressor

from ml.declarations import Broken, Demands
from ml.metrics.scores import METRICS
from ml.models.networks.estimators import NetworkEstimator
from ml.models.recipe import Recipe


def unmeasured(metric: str, recipe: Recipe) -> Broken:
    """Says which metrics the target has if this is none of them; False if it is one."""
    known = METRICS[recipe.target.kind]
    return metric not in known and f"it is {metric!r} where {recipe.target.kind} has {', '.join(known)}"


RECIPE: Demands[Recipe, Recipe] = (
    ("metric", "be one that its target has", lambda u, _: unmeasured(u.metric, u), "choose one of them"),
    (
        "model",
        "fit its target",
        lambda u, _: (
            not (is_regressor if u.target.kind == "regression" else is_classifier)(u.model)
            and f"it is a {type(u.model).__name__} for {u.target.kind}"
        ),
        "use NetworkRegressor for a regression, NetworkClassifier for classes",
    ),
)

MODEL: Demands[NetworkEstimator, Recipe] = (
    (
        "class_weight",
        "be left out of a regression",
        lambda m, u: u.target.kind == "regression" and m.class_weight is not None,
        "remove it",
    ),
    (
        "loss",
        "be 'mse' or left out in a regression",
        lambda m, u: u.target.kind == "regression" and m.loss == "cross_entropy",
        "remove it",
    ),
)
