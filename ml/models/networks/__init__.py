"""Linear models and multilayer perceptrons as scikit-learn's estimators, and the loop that trains them."""
