"""What of our code, and which libraries, the judging of a fitted model executes."""

from ml.code import Code

JUDGING = Code(("ml/metrics", "ml/evaluation", "ml/pipeline/evaluate.py"), ("numpy", "pandas", "scikit-learn", "scipy"))
