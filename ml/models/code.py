"""What of our code, and which libraries, every fit executes, whatever its kind; and what a kind adds."""

from ml.code import ROOT, Code
from ml.models.protocol import Learner

FITTING = Code(
    (
        "ml/metrics/intervals.py",
        "ml/metrics/scores.py",
        "ml/metrics/thresholds.py",
        "ml/serving",
        "ml/models/calibration.py",
        "ml/models/handles.py",
        "ml/models/packaging.py",
        "ml/models/proof_process.py",
        "ml/models/protocol.py",
        "ml/models/recipe.py",
        "ml/models/source_rows.py",
        "ml/models/training.py",
        "ml/pipeline/train.py",
        "ml/pipeline/upload.py",
    ),
    ("mlflow", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy"),
)


def learner_code(learner: Learner) -> Code:
    """What the fit and the served half of this kind execute of ours."""
    served = (_kind_file(name) for name in learner.served if name not in own_kinds(learner))
    return Code((*learner.code, *served), learner.libraries)


def own_kinds(learner: Learner) -> tuple[str, ...]:
    """The modules of its served half that are none of ours: they lie in the company's project."""
    return tuple(name for name in learner.served if not (ROOT / _kind_file(name)).is_file())


def _kind_file(name: str) -> str:
    return f"ml/serving/kinds/{name}.py"
