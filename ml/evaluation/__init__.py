"""Whether a candidate is good enough: predictors' answers on the same rows, evidence, verdicts, the decision.

The front doors are `judging.judge_all` (evidence), `gates` (one class a rule) and `decision.decide`. A new gate is one
class in `gates` and one line in the public face.
"""
