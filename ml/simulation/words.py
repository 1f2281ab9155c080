"""The tables of a simulation in words, for a terminal."""

from collections.abc import Callable, Iterator

from ml.simulation.policies import OURS
from ml.simulation.report import FaultRow, PolicyRow, Simulation, summed_faults
from ml.simulation.served import Serving

Aligned = Callable[[list[list[str]]], list[str]]
FORMS: dict[Serving, str] = {
    "judged": "as judged", "refitted": "refitted", "threshold anew": "refitted, threshold anew",
    "calibration anew": "refitted, calibrated anew", "uncalibrated": "refitted, uncalibrated",
    "judged uncalibrated": "as judged, uncalibrated",
}  # fmt: skip


def lines(result: Simulation, aligned: Aligned) -> Iterator[str]:
    """The lines of the whole result."""
    every = "" if result.every == 1 else f", every {result.every} nights"
    seeds = "" if result.seeds == 1 else f" with {result.seeds} seeds each"
    yield (
        f"{result.use_case}: {result.nights} nights from {result.first_night} to {result.last_night}{every}{seeds}. "
        f"Scores are those of what served from {result.first_served} to {result.last_served}."
    )
    if result.without_champion:
        yield f"Nothing ever served under: {', '.join(result.without_champion)}."
    yield ""
    yield from aligned(policy_table(result))
    if result.faults:
        yield ""
        yield from aligned(fault_table(result))


def policy_table(result: Simulation) -> list[list[str]]:
    """A row for each policy, with the header."""
    header = ["policy", "serves"]
    for metric in result.metrics:
        header += [metric, f"against {OURS}, refitted", "regret"]
    return [[*header, "promotions", "harmful"], *(_policy_cells(row, result.metrics) for row in result.rows)]


def _policy_cells(row: PolicyRow, metrics: tuple[str, ...]) -> list[str]:
    cells = [row.policy, FORMS[row.serving]]
    for metric in metrics:
        score = row.scores[metric]
        cells += [
            "-" if score.value is None else f"{score.value:.4f}",
            _interval(score.difference, score.low, score.high),
            f"{row.regret.get(metric, float('nan')):.4f}",
        ]
    return [*cells, f"{row.promotions:g}", f"{row.harmful} of {row.followed}"]


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.4f}" + ("" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]")


def fault_table(result: Simulation) -> list[list[str]]:
    """A row for each policy: promoted and harmful candidates with a fault, over all kinds and by kind."""
    kinds = list(dict.fromkeys(row.fault for row in result.faults))
    names = list(dict.fromkeys(row.policy for row in result.faults))
    forms: tuple[Serving, ...] = ("judged", "refitted")
    header = ["policy", "serves", "nights", "promoted", "harmful", "at most", "of kinds that harm", "at most", *kinds]
    table = [header]
    for name in names:
        for form in forms:
            sums = summed_faults(result.faults, name, form)
            whole, much = sums["all kinds"], sums["kinds that harm"]
            by_kind = {row.fault: row for row in result.faults if (row.policy, row.serving) == (name, form)}
            table.append([
                name, FORMS[form], str(whole.nights), str(whole.promoted), str(whole.harmful), f"{whole.bound:.1%}",
                f"{much.harmful} of {much.nights}", f"{much.bound:.1%}", *(_counts(by_kind[kind]) for kind in kinds),
            ])  # fmt: skip
    return table


def _counts(row: FaultRow) -> str:
    return f"{row.promoted}/{row.harmful}"
