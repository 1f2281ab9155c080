"""A partition's cleaned rows: every unique row that has a label, with its row number and the declared columns.

Cleaned rows do not depend on the rules: rows that a verdict sets aside are left out later, when rows are read. So a
changed rule cleans nothing again. What needs the statistics of a window (imputation, outliers, scaling, categories) is
fitted in `ml.data.statistics` and applied inside the model.
"""

import io
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from ml.data.dataset import Reading

LABEL = "label__"
DAY = "day__"
ROW_NUMBER = "row_number__"


def clean(use_case: Reading, unique: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a label, with the label as float64 in `label__` and the row number in `row_number__`.

    `unique`: the rows without exact duplicates; the row number counts these. The target's own column is left out.
    """
    labels = use_case.target.labels(unique[use_case.target.column])
    numbered = unique.drop(columns=use_case.target.column).assign(**{LABEL: labels, ROW_NUMBER: np.arange(len(unique))})
    return numbered[np.isfinite(labels)].reset_index(drop=True)


def whole_from(use_case: Reading, cleaned: pd.DataFrame) -> date:
    """The first as_of at which all rows are known; date.min without `known_at_column`.

    It is date.max if some row does not say when it becomes known, or says a day like 9999-12-31, which means the same.
    """
    if use_case.known_at_column is None or not len(cleaned):
        return date.min
    known_at = cleaned[use_case.known_at_column]
    if known_at.isna().any() or known_at.max() >= pd.Timestamp(date.max):
        return date.max
    return known_at.max().date() + timedelta(days=1)


def to_arrow(cleaned: pd.DataFrame) -> bytes:
    """Rows as an uncompressed Arrow file, which is read without parsing. Columns keep their order.

    Numbers are float32 if that loses nothing, else float64; texts are int32 codes with their dictionary.
    """
    table = pa.table({str(name): _stored(column) for name, column in cleaned.items()})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _stored(column: pd.Series) -> pa.Array:
    """The column in the type in which it is stored."""
    if column.dtype == np.float64:
        values = column.to_numpy()
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        return pa.array(narrow if np.array_equal(narrow, values, equal_nan=True) else values, from_pandas=False)
    if column.dtype == np.int64:
        return pa.array(column.to_numpy().astype(np.int32))
    if isinstance(column.dtype, pd.StringDtype):
        return coded(column)
    return pa.array(column)


def coded(texts: pd.Series) -> pa.DictionaryArray:
    """The texts as int32 codes, numbered in the order in which texts first appear, however the column is chunked."""
    whole = pa.array(texts, pa.large_string())
    return (whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole).dictionary_encode()


def from_arrow(data: bytes, set_aside: pd.Series | None = None) -> pd.DataFrame:
    """The rows as `to_arrow` stored them, with texts as categoricals and without the column of row numbers.

    `set_aside`: the row numbers of rows that are left out.
    """
    rows = pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pandas()
    kept = rows if set_aside is None else rows[~rows[ROW_NUMBER].isin(set_aside)].reset_index(drop=True)
    return kept.drop(columns=ROW_NUMBER)


def to_parquet(frame: pd.DataFrame) -> bytes:
    """The frame as a Parquet file, without its index."""
    return frame.to_parquet(index=False)


def from_parquet(data: bytes) -> pd.DataFrame:
    """Inverse of `to_parquet`."""
    return pd.read_parquet(io.BytesIO(data))
