"""What of our code, and which libraries, the judging of a fitted model executes, and the scoring of what serves."""

from ml.code import Code

SERVED_DAYS = Code(  # what is kept of a day on which a version served
    (
        "ml/metrics/day_sums.py",
        "ml/metrics/scores.py",
        "ml/models/description.py",
        "ml/evaluation/baselines.py",
        "ml/evaluation/day_scores.py",
        "ml/evaluation/decision.py",
        "ml/evaluation/judging.py",
        "ml/pipeline/evaluate.py",
        "ml/pipeline/served.py",
    ),
    ("numpy", "pandas", "scikit-learn", "scipy"),
)
JUDGING = Code(
    (
        "ml/metrics",
        "ml/models/description.py",
        "ml/evaluation/baselines.py",
        "ml/evaluation/day_scores.py",
        "ml/evaluation/decision.py",
        "ml/evaluation/gates.py",
        "ml/evaluation/handles.py",
        "ml/evaluation/judging.py",
        "ml/evaluation/promise.py",
        "ml/evaluation/source_changes.py",
        "ml/evaluation/source_evidence.py",
        "ml/evaluation/source_unchanged.py",
        "ml/data/day_counts.py",
        "ml/data/rewritten.py",
        "ml/pipeline/evaluate.py",
        "ml/pipeline/watch.py",
    ),
    ("numpy", "pandas", "scikit-learn", "scipy"),
)
DEFAULT_TREES = Code(  # beside what fits and reads rows
    ("ml/evaluation/gates.py", "ml/evaluation/judging.py", "ml/pipeline/default_trees.py")
)
EXPLAINING = Code(  # beside what answers and reads rows: the digests of the model and of the rows stand for it
    (
        "ml/metrics",
        "ml/models/description.py",
        "ml/evaluation/baselines.py",
        "ml/evaluation/explanation.py",
        "ml/evaluation/gates.py",
        "ml/evaluation/handles.py",
        "ml/evaluation/judging.py",
        "ml/pipeline/evaluate.py",
        "ml/pipeline/explain.py",
    ),
    ("numpy", "pandas", "scikit-learn", "scipy"),
)
REFITTING = Code(("ml/evaluation/twin.py", "ml/pipeline/refit.py"))  # beside what fits, reads rows and judges
