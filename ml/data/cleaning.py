"""A partition's cleaned rows: every unique labelled row, with its number, its label, declared columns and types.

Which of them a verdict sets aside is not said here, so that other rules clean nothing again. What needs the statistics
of a window (imputation, outliers, scaling, categories) is fitted in `ml.data.statistics` and applied inside the model.
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
    """Rows with a label, that label as float64 in `label__`, and their row number in `row_number__`."""
    labels = use_case.target.labels(unique[use_case.target.column])
    numbered = unique.drop(columns=use_case.target.column).assign(**{LABEL: labels, ROW_NUMBER: np.arange(len(unique))})
    return numbered[np.isfinite(labels)].reset_index(drop=True)


def whole_from(use_case: Reading, cleaned: pd.DataFrame) -> date:
    """The first as_of by which all rows are known; the calendar's last day where a row does not say when, or says a day
    like 9999-12-31, which means the same."""
    if use_case.known_at_column is None or not len(cleaned):
        return date.min
    known_at = cleaned[use_case.known_at_column]
    if known_at.isna().any() or known_at.max() >= pd.Timestamp(date.max):
        return date.max
    return known_at.max().date() + timedelta(days=1)


def to_arrow(cleaned: pd.DataFrame) -> bytes:
    """Rows as an uncompressed Arrow file, which can be mapped into memory: no parsing, columns in their order.

    Numbers are float32 where that loses nothing, else float64; texts are int32 codes with their dictionary.
    """
    table = pa.table({str(name): _stored(column) for name, column in cleaned.items()})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _stored(column: pd.Series) -> pa.Array:
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
    """int32 codes in the order in which texts first appear, whatever the pieces that the column lies in."""
    whole = pa.array(texts, pa.large_string())
    return (whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole).dictionary_encode()


def from_arrow(data: bytes, set_aside: pd.Series | None = None) -> pd.DataFrame:
    """The rows of `to_arrow` as stored, texts as categoricals, without the row numbers that are set aside."""
    rows = pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pandas()
    kept = rows if set_aside is None else rows[~rows[ROW_NUMBER].isin(set_aside)].reset_index(drop=True)
    return kept.drop(columns=ROW_NUMBER)


def to_parquet(frame: pd.DataFrame) -> bytes:
    return frame.to_parquet(index=False)


def from_parquet(data: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(data))
