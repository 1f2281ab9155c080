"""Reasons: the columns that moved a row's answer most, each as a sentence with the row's own value."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .columns import Column
from .output import Output
from .refusal import refusal

USUAL, MOST = 3, 20  # reasons of a row
LONGEST = 40  # letters of a text
EXACT = 2**53  # from here on a whole number is written with an exponent


def reason_names(count: int) -> list[str]:
    """The columns of reasons, the strongest first."""
    return [f"reason_{place}" for place in range(1, count + 1)]


def reason_count(value: Any) -> int:
    """How many reasons are asked for. Raises ValueError for what is no such number."""
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MOST:
        raise refusal(f"reasons must be a whole number from 1 to {MOST}, but it is {text[:LONGEST]!r}")
    return int(text)


def reasons_in_words(
    typed: pd.DataFrame, contributions: pd.DataFrame, columns: Sequence[Column], output: Output,
    answered: Sequence[str], count: int,
) -> pd.DataFrame:  # fmt: skip
    """(rows, count) the sentences of each row, the strongest first; null where fewer columns moved it.

    `contributions` has those to the output that is explained, which `answered` (rows,) names: a class, or "" for a
    value. A sentence says the column, the row's value, what it did, and its share of all contributions' sizes. Values
    of sensitive columns are not quoted.
    """
    declared = {column.name: column for column in columns}
    told = contributions.to_numpy(np.float64)
    sizes = np.abs(told)
    order = np.argsort(-sizes, axis=1, kind="stable")[:, :count]
    effect, totals = _effect_of(output), sizes.sum(axis=1)
    sentences = np.full((len(typed), count), None, dtype=object)
    names, values = list(contributions), {name: typed[name].array for name in contributions}
    for row, places in enumerate(order):
        for rank, place in enumerate(places):
            if sizes[row, place] > 0:
                shown = _named(declared[names[place]], values[names[place]][row])
                share = _share(sizes[row, place] / totals[row])
                sentences[row, rank] = f"{shown} {effect(told[row, place], answered[row])}{share} of all that moved it)"
    return pd.DataFrame(sentences, index=typed.index, columns=reason_names(count))


def explained_classes(output: Output, chosen: NDArray[np.int_]) -> list[str]:
    """(rows,) whose output a row's reasons explain: of two classes the second's, of more the answered one's."""
    if output.kind == "regression":
        return [""] * len(chosen)
    return [output.classes[place if output.kind == "multiclass" else 1] for place in chosen]


def _effect_of(output: Output) -> Callable[[float, str], str]:
    """What a contribution did, in words that end where its share follows in brackets."""
    if output.kind != "regression":
        return lambda told, name: f"speaks {'for' if told > 0 else 'against'} {name} ({told:+.3g}, "
    if output.log:  # contributions to the logarithm multiply the value
        return lambda told, _: f"{_raises(told)} it by {_number(100 * abs(np.expm1(told)))} % ("
    unit = f" {output.unit}" if output.unit else ""
    return lambda told, _: f"{_raises(told)} it by {_number(abs(told))}{unit} ("


def _raises(told: float) -> str:
    return "raises" if told > 0 else "lowers"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1_000 <= value < EXACT else f"{value:.3g}"


def _share(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _named(column: Column, value: Any) -> str:
    """The column and the row's value in words, like `dep_delay 62 minutes`, `carrier 'UA'` or `dest missing`."""
    if column.sensitive:
        return f"{column.name} (value not shown)"
    if pd.isna(value):
        return f"{column.name} missing"
    if column.type == "text":
        text = str(value) if len(str(value)) <= LONGEST else f"{str(value)[: LONGEST - 3]}..."
        return f"{column.name} {text!r}"
    if column.type == "timestamp":
        return f"{column.name} {pd.Timestamp(value).isoformat(sep=' ', timespec='minutes')}"
    number = f"{value:.0f}" if float(value).is_integer() and abs(value) < EXACT else f"{value:.6g}"
    return f"{column.name} {number}{f' {column.unit}' if column.unit else ''}"
