"""What of our code, and which libraries, each kind of result of the data stages executes.

A change in one of them makes those results again, and no others. What a copy of a source holds (`brought`) is in no
run's key: its bytes are, through the snapshot's digest.
"""

from ml.code import Code

TABLES = Code(libraries=("numpy", "pandas", "pyarrow"))
READING = TABLES + Code(
    (
        "ml/days.py",
        "ml/serving/columns.py",
        "ml/serving/derived.py",
        "ml/serving/joins.py",
        "ml/serving/refusal.py",
        "ml/data/csv_fields.py",
        "ml/data/dataset.py",
        "ml/data/source_kinds.py",
        "ml/data/derived.py",
        "ml/data/handles.py",
        "ml/data/joins.py",
        "ml/data/partitions.py",
        "ml/data/reading.py",
        "ml/data/side_tables.py",
        "ml/data/sources/folder.py",
    )
)
CLEANED = READING + Code(
    (
        "ml/data/cleaning.py",
        "ml/data/validation.py",  # which drops duplicates
        "ml/pipeline/clean.py",
        "ml/pipeline/partitions.py",
    )
)
VERDICT = CLEANED + Code(
    (
        "ml/serving/features.py",
        "ml/serving/rules.py",
        "ml/data/meaning.py",
        "ml/data/row_alone.py",
        "ml/pipeline/validate.py",
    )
)
STATISTICS = TABLES + Code(
    (
        "ml/days.py",
        "ml/serving/columns.py",
        "ml/serving/features.py",
        "ml/data/cleaned.py",
        "ml/data/cleaning.py",
        "ml/data/dataset.py",
        "ml/data/handles.py",
        "ml/data/split.py",
        "ml/data/statistics.py",
        "ml/data/window.py",
        "ml/data/window_sums.py",
    )
)
BROUGHT = TABLES + Code(
    (
        "ml/days.py",
        "ml/serving/columns.py",
        "ml/serving/refusal.py",
        "ml/data/csv_fields.py",
        "ml/data/source_kinds.py",
        "ml/data/reading.py",
        "ml/data/sources/bringing.py",
        "ml/data/sources/brought.py",
        "ml/data/sources/database.py",
        "ml/data/sources/database_values.py",
        "ml/data/sources/days.py",
        "ml/data/sources/file.py",
        "ml/data/sources/folder.py",
        "ml/data/sources/objects.py",
    )
)
COUNTED = TABLES + Code(
    ("ml/data/day_counts.py", "ml/data/meaning.py", "ml/data/statistics.py", "ml/serving/features.py")
)
KEPT = {"brought": BROUGHT, "verdict": VERDICT, "cleaned": CLEANED, "statistics": STATISTICS}  # of single partitions
# From the snapshot to the rows of train, validation and test.
ROWS = (
    VERDICT
    + STATISTICS
    + Code(
        (
            "ml/data/calendars.py",
            "ml/data/snapshots.py",
            "ml/pipeline/split.py",
        )
    )
)


def state_code_digest(kind: str) -> str:
    """Digest of the modules and libraries that decide the results of this kind, a key of KEPT."""
    return KEPT[kind].digest
