"""What of our code, and which libraries, every fit executes, whatever its kind; and what a kind adds."""

from ml.code import Code
from ml.models.protocol import Learner

FITTING = Code(
    (
        "ml/serving",
        "ml/models/handles.py",
        "ml/models/packaging.py",
        "ml/models/proof_process.py",
        "ml/models/protocol.py",
        "ml/models/recipe.py",
        "ml/models/training.py",
        "ml/pipeline/train.py",
        "ml/pipeline/upload.py",
    ),
    ("mlflow", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy"),
)


def learner_code(learner: Learner) -> Code:
    """What the fit and the served half of this kind execute."""
    served = (f"ml/serving/kinds/{name}.py" for name in learner.served)
    return Code((*learner.code, *served), learner.libraries)
