"""From cleaned rows to a packaged model: kinds of models, the fit, the threshold, and the files that are registered.

A kind of model is a `protocol.Learner`; `networks` and the modules beside it are kinds. The front doors are
`Learner.fit_rows`, `training.package` and `packaging.write_model`; `recipe.Recipe` is what a use case says about its
model.
"""
