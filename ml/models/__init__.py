"""From an encoded part to a packaged model: learners, the fit, what validation chooses, the files that are registered.

The front doors are `training.fit_candidate`, `training.package` and `packaging.write_model`; `recipe.Recipe` is what a
use case says about its model.
"""
