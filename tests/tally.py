"""How often a fault was tried in this session of tests, and what it cost: the table of docs/faults.md."""

from collections.abc import Iterator
from dataclasses import dataclass

ROWS: dict[str, "Row"] = {}


@dataclass
class Row:
    """A fault, what happens, and counts over all that was tried."""

    happens: str
    tried: int = 0
    lost: int = 0
    duplicated: int = 0


def tally(fault: str, happens: str, *, wanted: int, entries: int, versions: int, times: int = 1) -> None:
    """Counts one case: so many decisions and versions were wanted, and so many are there."""
    row = ROWS.setdefault(fault, Row(happens))
    row.tried += times
    row.lost += max(0, wanted - min(entries, versions))
    row.duplicated += max(0, entries - wanted) + max(0, versions - wanted)


def table() -> Iterator[str]:
    """The lines of the table, none where nothing was tried."""
    if ROWS:
        yield "| fault | what happens | tried | lost | duplicated |"
        yield "| --- | --- | ---: | ---: | ---: |"
    for fault, row in ROWS.items():
        yield f"| {fault} | {row.happens} | {row.tried} | {row.lost} | {row.duplicated} |"
