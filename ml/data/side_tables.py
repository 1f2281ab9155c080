"""Joins a side table to a partition's rows, as a version does it to the rows that it is given (ml/serving/joins.py)."""

from dataclasses import asdict

import pandas as pd

from ml.data.dataset import SideTable
from ml.data.handles import JoinCounts
from ml.data.reading import refuse_missing
from ml.serving import joins


def join(rows: pd.DataFrame, table: SideTable, side: pd.DataFrame) -> tuple[pd.DataFrame, JoinCounts]:
    """The rows with the columns that the table gives (null where it matches nothing), and how many rows it matches.

    Raises UnusablePartition if a column is missing, if the rows have one of the table's columns already, or if keys
    cannot be compared or stand twice in the table.
    """
    refuse_missing(rows, table.on)
    joined, counts = joins.join(rows, table, side)
    return joined, JoinCounts(rows=len(rows), **asdict(counts))
