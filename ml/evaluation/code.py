"""What of our code, and which libraries, the judging of a fitted model executes."""

from ml.code import Code

JUDGING = Code(
    (
        "ml/metrics",
        "ml/models/description.py",
        "ml/evaluation/baselines.py",
        "ml/evaluation/decision.py",
        "ml/evaluation/gates.py",
        "ml/evaluation/handles.py",
        "ml/evaluation/judging.py",
        "ml/pipeline/evaluate.py",
    ),
    ("numpy", "pandas", "scikit-learn", "scipy"),
)
REFITTING = Code(("ml/evaluation/twin.py", "ml/pipeline/refit.py"))  # beside what fits, reads rows and judges
