"""Runs a use case's `derive` on a partition's rows, and says of what the failure is when it fails.

What it must return is checked where a version derives too (ml/serving/derived.py).
"""

from typing import Any

import pandas as pd

from ml.data.dataset import Reading, Table
from ml.data.reading import UnusablePartition, refuse_missing, refuse_other_columns
from ml.errors import ConfigError, RetrainError, is_passing
from ml.serving.derived import in_order, numbered
from ml.serving.refusal import failure


def derived(use_case: Table, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as `derive` returns them, in the order of `rows`, which stay unchanged.

    Raises UnusablePartition if derive fails, or if it leaves out, repeats or adds rows, or rows can no longer be told
    apart; ConfigError if it fails because of something else than the rows.
    """
    if use_case.derive is None:
        return rows
    result = _returned(use_case, rows)
    key = [name for name in use_case.key if name in rows.columns]  # a file to score may have none
    telling = key or [column.name for column in use_case.columns if column.name in rows.columns]
    return in_order(f"derive of {use_case.name}", rows, result, telling)


def _returned(use_case: Table, rows: pd.DataFrame) -> Any:
    """What derive returns, whatever it is. If it fails, the rows' columns are checked first: they may be the cause."""
    assert use_case.derive is not None
    try:
        return use_case.derive(numbered(rows))
    except (RetrainError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a company's own code; its message may quote a row
        if isinstance(error, OSError) or is_passing(error):  # this says nothing about the day's rows
            raise ConfigError(
                f"derive of {use_case.name} must run on the rows alone", failure(error), "mend it, then run it again"
            ) from None
        _blame_columns(use_case, rows, error)
        raise UnusablePartition(
            f"derive of {use_case.name} {failure(error)} (mend derive, or the day's file)"
        ) from None


def _blame_columns(use_case: Reading, rows: pd.DataFrame, error: BaseException) -> None:
    """Raises UnusablePartition if a declared column is not of its type, or is missing and derive looked for it."""
    refuse_other_columns(use_case, rows, tuple(column for column in use_case.columns if column.name in rows.columns))
    wanted = error.args[:1] if isinstance(error, KeyError) else [getattr(error, "name", None)]
    names = tuple(column.name for column in use_case.columns)
    refuse_missing(rows, tuple(name for name in names if name in wanted), names)
