"""Estimators with scikit-learn's contract around the one tabular network."""
