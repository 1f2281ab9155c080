"""Scores of answers, and intervals of scores. Arrays in, numbers out: nothing here knows a model or a use case."""
