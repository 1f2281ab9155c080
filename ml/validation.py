"""The verdict on partitions: which rules their rows break, which rows are set aside, whether they may be used.

The masks attribute; `expectations.suite` lets Great Expectations confirm their counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.artifacts import PartitionCheck, RuleCount
from ml.config import UseCase
from ml.serving.rules import Between, Mask, Rule, UniqueKey

ROW_NUMBER = "row_number__"
PARTITION = "partition__"
PARTITION_FACTS = {"read", "rows", "duplicates", "quarantined", "quarantined_fraction", "unlabelled", "unknown_columns"}
SNAPSHOT_FACTS = {"rows", "left_out_days"}


@dataclass(frozen=True)
class Batch:
    """Rows of several partitions, exact duplicates dropped, with their partition in a column of its own."""

    rows: pd.DataFrame
    duplicates: dict[str, int]
    unknown_columns: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, frames: dict[str, pd.DataFrame], unknown_columns: dict[str, tuple[str, ...]]) -> "Batch":
        unique = {day: drop_duplicates(rows) for day, rows in frames.items()}
        marked = [rows.assign(**{PARTITION: day, ROW_NUMBER: rows.index}) for day, rows in unique.items()]
        duplicates = {day: len(rows) - len(unique[day]) for day, rows in frames.items()}
        return cls(pd.concat(marked, ignore_index=True), duplicates, unknown_columns)


@dataclass(frozen=True)
class BatchVerdict:
    """A check for every partition of a batch, the rows set aside with the rule each broke, and totals a row rule."""

    checks: dict[str, PartitionCheck]
    quarantine: dict[str, pd.DataFrame]
    totals: list[int]


def drop_duplicates(rows: pd.DataFrame) -> pd.DataFrame:
    """One row of each set of exactly equal ones, numbered anew: what row numbers in a quarantine count."""
    return rows[~rows.duplicated()].reset_index(drop=True)


def partition_rules(use_case: UseCase) -> tuple[Rule, ...]:
    """Rules over the facts of a partition that a use case's own fields imply."""
    return (
        Between(scope="partition", column="rows", minimum=use_case.min_rows),
        Between(scope="partition", column="quarantined_fraction", maximum=use_case.max_quarantined_fraction),
    )


def snapshot_rules(use_case: UseCase) -> tuple[Rule, ...]:
    """Rules over the facts of all partitions together."""
    return (
        Between(scope="snapshot", column="left_out_days", maximum=use_case.max_missing_days),
        Between(scope="snapshot", column="rows", minimum=1),
    )


def within_partition(rule: Rule) -> Rule:
    """The rule as it is judged on a batch: a key is unique within a partition."""
    return UniqueKey(key=(PARTITION, *rule.key), severity=rule.severity) if isinstance(rule, UniqueKey) else rule


def check_batch(use_case: UseCase, rules: Sequence[Rule], batch: Batch) -> BatchVerdict:
    """Judges every rule once over all rows, attributes what it finds to partitions, and then judges each partition."""
    of_row = [rule for rule in rules if rule.scope == "row"]
    masks = [within_partition(rule).unexpected(batch.rows) for rule in of_row]
    broken = _first_broken(of_row, masks, len(batch.rows))
    facts = _facts(use_case, batch, broken)
    found = batch.rows.groupby(PARTITION).indices
    by_day = {day: found.get(day, np.empty(0, int)) for day in facts}
    checks, quarantine = {}, {}
    for day, rows in by_day.items():
        counts = [_count(rule, len(rows), int(mask[rows].sum())) for rule, mask in zip(of_row, masks, strict=True)]
        checks[day] = _check(rules, day, facts[day], counts, batch)
        aside = rows[broken[rows] >= 0]
        if len(aside):
            sentences = [of_row[position].sentence for position in broken[aside]]
            quarantine[day] = batch.rows.loc[aside].drop(columns=PARTITION).assign(broken_rule=sentences)
    return BatchVerdict(checks, quarantine, [int(mask.sum()) for mask in masks])


def _first_broken(rules: Sequence[Rule], masks: Sequence[Mask], rows: int) -> NDArray[np.int_]:
    """(rows,) position of the first rule of severity error that the row breaks, -1 for none."""
    broken = np.full(rows, -1)
    for position, (rule, mask) in enumerate(zip(rules, masks, strict=True)):
        if rule.severity == "error":
            broken[mask & (broken < 0)] = position
    return broken


def _facts(use_case: UseCase, batch: Batch, broken: NDArray[np.int_]) -> dict[str, dict[str, float]]:
    """What partition rules speak of, by day."""
    aside = broken >= 0
    no_label = np.isnan(use_case.target.labels(batch.rows[use_case.target.column])) & ~aside
    counts = pd.DataFrame({PARTITION: batch.rows[PARTITION], "quarantined": aside, "unlabelled": no_label, "read": 1})
    found = counts.groupby(PARTITION).sum().astype("float64").reindex(list(batch.duplicates), fill_value=0.0)
    found = found.assign(
        rows=found["read"] - found["quarantined"],
        quarantined_fraction=found["quarantined"] / found["read"].clip(lower=1),
        duplicates=pd.Series(batch.duplicates, dtype="float64"),
        unknown_columns=pd.Series({day: len(names) for day, names in batch.unknown_columns.items()}, dtype="float64"),
    )
    return {str(day): {str(name): float(value) for name, value in row.items()} for day, row in found.iterrows()}


def _check(
    rules: Sequence[Rule], day: str, facts: dict[str, float], counts: list[RuleCount], batch: Batch
) -> PartitionCheck:
    of_partition = [rule for rule in rules if rule.scope == "partition"]
    frame = pd.DataFrame([facts])
    more = [_count(rule, 1, int(rule.unexpected(frame).sum())) for rule in of_partition]
    return PartitionCheck(
        day=day,
        rows=int(facts["read"]) + batch.duplicates[day],
        duplicates=batch.duplicates[day],
        quarantined=int(facts["quarantined"]),
        unlabelled=int(facts["unlabelled"]),
        unknown_columns=batch.unknown_columns[day],
        rejected=rejection(of_partition, frame, counts),
        counts=(*counts, *more),
    )


def rejected_check(day: str, reason: str) -> PartitionCheck:
    """The verdict on a partition that could not even be read as declared."""
    return PartitionCheck(
        day=day, rows=0, duplicates=0, quarantined=0, unlabelled=0, unknown_columns=(), rejected=reason, counts=()
    )


def rejection(rules: Sequence[Rule], facts: pd.DataFrame, counts: Sequence[RuleCount]) -> str | None:
    """Why facts break a rule of severity error, with the row rules that did most of it; None if they do not."""
    broken = [r for r in rules if r.severity == "error" and r.unexpected(facts)[0]]
    if not broken:
        return None
    seen = ", ".join(f"{rule.sentence} (it is {facts[rule.columns[0]][0]:.3g})" for rule in broken)
    worst = sorted((count for count in counts if count.unexpected), key=lambda count: -count.unexpected)[:3]
    rows = "; ".join(f"{count.unexpected} rows break '{count.rule}'" for count in worst)
    return f"the rule is that {seen}" + (f": {rows}" if rows else "")


def _count(rule: Rule, evaluated: int, unexpected: int) -> RuleCount:
    return RuleCount(
        rule=rule.sentence, scope=rule.scope, severity=rule.severity, evaluated=evaluated, unexpected=unexpected
    )
