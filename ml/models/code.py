"""What of our code, and which libraries, every fit executes, whatever its kind; and what a kind adds."""

from typing import Any

from ml.code import Code

FITTING = Code(
    (
        "ml/serving",
        "ml/models/handles.py",
        "ml/models/packaging.py",
        "ml/models/proof_process.py",
        "ml/models/recipe.py",
        "ml/models/training.py",
        "ml/pipeline/train.py",
        "ml/pipeline/upload.py",
    ),
    ("mlflow", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy"),
)
NETWORKS = Code(("ml/models/networks", "ml/serving/kinds/network.py"), ("safetensors", "torch"))


def learner_code(learner: Any) -> Code:
    """What the fit and the served half of this kind execute."""
    code = getattr(learner, "code", NETWORKS)
    assert isinstance(code, Code), type(code)
    return code
