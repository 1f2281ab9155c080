"""Decides whether a candidate is good enough: answers on the same rows become evidence, verdicts and a decision.

The front doors are `judging.judge_all` (evidence), `gates` (one class for each kind of gate) and `decision.decide`. A
new gate is one class in `gates` and one line in the public face.
"""
