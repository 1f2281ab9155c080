"""From encoded rows to a packaged model: the estimators, the fit, the threshold, and the files that are registered.

The front doors are `training.fit_candidate`, `training.package` and `packaging.write_model`; `recipe.Recipe` is what a
use case says about its model.
"""
