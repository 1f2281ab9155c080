"""The picture of a simulation, for readers who do not know the code: the served score over the year for each policy."""

import io
from datetime import date
from pathlib import Path
from typing import Any

from ml.metrics.scores import LOWER_IS_BETTER
from ml.simulation.policies import OURS
from ml.simulation.report import Simulation

DRAWN = {
    "never": ("0.55", "never retrained"),
    "monthly": ("C1", "a new model every 28 days"),
    "every night": ("C2", "every night's model"),
    OURS: ("C0", "the gates of the use case"),
}
SMOOTH_WEEKS = 4


def draw(result: Simulation, path: Path) -> None:
    """Writes the picture; the ending of `path` says in which form."""
    figure, axes = _new()
    metric = result.metrics[0]
    for name, (color, words) in DRAWN.items():
        scores = result.weeks.get(name)
        if scores:
            days, values = [date.fromisoformat(day) for day in scores], _smooth(list(scores.values()))
            total = next(r.scores[metric].value for r in result.rows if (r.policy, r.serving) == (name, "refitted"))
            label = words if total is None else f"{words} ({total:.3f} over all days)"
            axes.plot(days, values, color=color, label=label, linewidth=2.2 if name == OURS else 1.4)
    better = "lower" if metric in LOWER_IS_BETTER else "higher"
    axes.set(
        ylabel=f"{metric} of what served ({better} is better)",
        title=f"{result.use_case}: the score of the model that served, mean of {SMOOTH_WEEKS} weeks",
    )
    axes.grid(axis="y", alpha=0.3)
    figure.autofmt_xdate()
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    path.write_bytes(buffer.getvalue())


def _smooth(values: list[float]) -> list[float]:
    """The mean of each week and the weeks before it, up to four."""
    parts = [values[max(0, place - SMOOTH_WEEKS + 1) : place + 1] for place in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _new() -> tuple[Any, Any]:
    """A new figure and its axes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # otherwise a use case called $a_b$ would be drawn as a formula
    figure = Figure(figsize=(8.0, 4.6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
