"""The verdict on one partition: which rules its rows break, which rows are set aside, whether it may be used.

The masks attribute; `expectations.suite` lets Great Expectations confirm their counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml.artifacts import PartitionCheck, RuleCount
from ml.config import UseCase
from ml.serving.rules import Between, Rule, first_broken

ROW_NUMBER = "row_number"


@dataclass(frozen=True)
class CheckedRows:
    """A partition's check, its rows without exact duplicates, and those set aside with the rule they broke."""

    check: PartitionCheck
    rows: pd.DataFrame
    quarantine: pd.DataFrame


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


def check_partition(
    use_case: UseCase, rules: Sequence[Rule], day: str, rows: pd.DataFrame, unknown_columns: tuple[str, ...]
) -> CheckedRows:
    """Counts every rule on the rows of one day and sets aside the rows that break one of severity error."""
    unique = rows[~rows.duplicated()].reset_index(drop=True)
    counts = [_count(rule, unique) for rule in rules if rule.scope == "row"]
    broken = first_broken(rules, unique)
    aside = unique[broken.notna()].assign(broken_rule=broken[broken.notna()])
    aside.insert(0, ROW_NUMBER, aside.index)
    kept = unique[broken.isna()]
    facts = pd.DataFrame(
        {
            "rows": [float(len(kept))],
            "duplicates": [float(len(rows) - len(unique))],
            "quarantined": [float(len(aside))],
            "quarantined_fraction": [len(aside) / max(len(unique), 1)],
            "unlabelled": [float(np.isnan(use_case.target.labels(kept[use_case.target.column])).sum())],
            "unknown_columns": [float(len(unknown_columns))],
        }
    )
    of_partition = [rule for rule in rules if rule.scope == "partition"]
    check = PartitionCheck(
        day=day,
        rows=len(rows),
        duplicates=int(facts.duplicates[0]),
        quarantined=len(aside),
        unlabelled=int(facts.unlabelled[0]),
        unknown_columns=unknown_columns,
        rejected=rejection(of_partition, facts, counts),
        counts=(*counts, *(_count(rule, facts) for rule in of_partition)),
    )
    return CheckedRows(check, unique, aside)


def rejected_check(day: str, reason: str) -> PartitionCheck:
    """The verdict on a partition that could not even be read as declared."""
    return PartitionCheck(
        day=day, rows=0, duplicates=0, quarantined=0, unlabelled=0, unknown_columns=(), rejected=reason, counts=()
    )


def rejection(rules: Sequence[Rule], facts: pd.DataFrame, counts: Sequence[RuleCount]) -> str | None:
    """Why a row of facts breaks a rule of severity error, with the row rules that did most of it; None if they break none."""
    broken = [r for r in rules if r.severity == "error" and r.unexpected(facts)[0]]
    if not broken:
        return None
    seen = ", ".join(f"{rule.sentence} (it is {facts[rule.columns[0]][0]:.3g})" for rule in broken)
    worst = sorted((count for count in counts if count.unexpected), key=lambda count: -count.unexpected)[:3]
    rows = "; ".join(f"{count.unexpected} rows break '{count.rule}'" for count in worst)
    return f"the rule is that {seen}" + (f": {rows}" if rows else "")


def _count(rule: Rule, frame: pd.DataFrame) -> RuleCount:
    return RuleCount(
        rule=rule.sentence,
        scope=rule.scope,
        severity=rule.severity,
        evaluated=len(frame),
        unexpected=int(rule.unexpected(frame).sum()),
    )
