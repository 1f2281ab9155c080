"""Models of other libraries for `models.py`, with their default settings, where they are installed."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from ml import UseCase
from ml.data.cleaning import LABEL

PEERS = ("xgboost", "catboost")


def installed() -> list[str]:
    """The peers that can be imported."""
    return [name for name in PEERS if find_spec(name)]


def outputs(name: str, case: UseCase, train: pd.DataFrame, others: Iterable[pd.DataFrame], seed: int) -> list[Any]:
    """(rows, 1) logits of the second class, or values as they are learnt, for each of the other frames."""
    texts = [column.name for column in case.features if column.type == "text"]
    names = [column.name for column in case.features]
    known = {text: sorted(train[text].dropna().unique()) for text in texts}
    labels = train[LABEL].to_numpy(np.float64)
    y = np.log(labels) if case.target.log else labels
    model = _model(name, case.target.kind, seed, texts)
    model.fit(_prepared(name, train[names], known), y)
    return [_told(name, model, _prepared(name, rows[names], known), case) for rows in others]


def _prepared(name: str, rows: pd.DataFrame, known: dict[str, list[str]]) -> pd.DataFrame:
    if name == "catboost":  # it takes no missing text
        return rows.assign(**{text: rows[text].astype(object).fillna("missing") for text in known})
    return rows.assign(**{text: pd.Categorical(rows[text], levels) for text, levels in known.items()})


def _model(name: str, kind: str, seed: int, texts: list[str]) -> Any:
    if name == "xgboost":
        import xgboost  # type: ignore[import-not-found]

        make = xgboost.XGBRegressor if kind == "regression" else xgboost.XGBClassifier
        return make(enable_categorical=True, random_state=seed, n_jobs=1)
    import catboost  # type: ignore[import-not-found]

    make = catboost.CatBoostRegressor if kind == "regression" else catboost.CatBoostClassifier
    return make(cat_features=texts, random_seed=seed, thread_count=1, verbose=False, allow_writing_files=False)


def _told(name: str, model: Any, rows: pd.DataFrame, case: UseCase) -> Any:
    if case.target.kind == "regression":
        return np.asarray(model.predict(rows), np.float64)[:, None]
    if name == "xgboost":
        return np.asarray(model.predict(rows, output_margin=True), np.float64)[:, None]
    return np.asarray(model.predict(rows, prediction_type="RawFormulaVal"), np.float64)[:, None]
