"""The figures of a night as PNG files, meant for readers who do not know the code."""

import io
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from typing import Any

import numpy as np
import pandas as pd

from ml.evaluation.handles import ModelScores
from ml.evaluation.promise import Band
from ml.evaluation.served import Served
from ml.metrics.calibration_curve import CalibrationCurve
from ml.models.handles import Fit
from ml.reporting.score_section import LABELS
from ml.use_case.definition import UseCase


def night_figures(
    use_case: UseCase, fit: Fit, answers: pd.DataFrame, models: Mapping[str, ModelScores]
) -> dict[str, bytes]:  # fmt: skip
    """The figures by file name. `answers` has a row for each test row, with the columns label, answer and, for classes,
    probability_<class index>. `models` have the scores on these rows. A fit without steps has no learning curve."""
    figures = {"learning_curve.png": _learning_curve(use_case, fit)} if fit.steps else {}
    if use_case.target.kind == "regression":
        return {**figures, "predicted_and_true.png": _predicted_and_true(use_case, answers)}
    figures["confusion_matrix.png"] = _confusion_matrix(use_case, answers)
    shown = {who: models[who].calibration for who in ("candidate", "champion") if who in models}
    curves = {who: curve for who, curve in shown.items() if curve is not None}
    if curves:
        figures["calibration.png"] = _calibration(use_case, curves)
    if use_case.target.kind == "binary":
        figures["precision_recall.png"] = _precision_recall(use_case, answers)
    return figures


def served_figure(use_case: UseCase, served: Served | None) -> dict[str, bytes]:
    """The score of each day that versions served, beside what their judgements promised; none without such a day."""
    if served is None or not served.curve or served.score is None:
        return {}
    figure, axes = new_figure(width=9.0)
    name, days = LABELS[served.score.metric], [date.fromisoformat(point.day) for point in served.curve]
    if served.judgement is not None:
        judged = {date.fromisoformat(day): of_day.score for day, of_day in served.judgement.days.items()}
        label = "a day on which what served last was judged"
        axes.plot(list(judged), _or_nan(judged.values()), "o-", color="0.7", markersize=3, lw=0.8, label=label)
    _fill(axes, days, [point.one_day for point in served.curve], "promised of a day: nine of ten lie here", "0.88")
    axes.plot(days, _or_nan(point.score for point in served.curve), "o", color="C0", markersize=4, label="a served day")
    several = f"the newest served days, up to {use_case.test_days}, together"
    _fill(axes, days, [point.promised for point in served.curve], f"promised of {several}", "C1", alpha=0.25)
    axes.plot(days, _or_nan(point.newest for point in served.curve), color="C1", label=several)
    if served.score.left:
        label = f"{served.score.left_side} than promised since {served.score.left}"
        axes.axvline(date.fromisoformat(served.score.left), color="C3", linestyle=":", label=label)
    axes.set(ylabel=name, title=f"{use_case.name}: {name} of what served")
    _mark_days(axes)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return {"served_score.png": png(figure)}


def _fill(axes: Any, days: list[date], bands: list[Band | None], label: str, color: str, alpha: float = 1.0) -> None:
    """Fills the interval of each day, half a day to both sides of its noon; a day without one leaves a gap."""
    ends = {"x": [], "low": [], "high": []}  # type: dict[str, list[Any]]
    for day, band in zip(days, bands, strict=True):
        noon = datetime.combine(day, time())
        ends["x"] += [noon - timedelta(hours=12), noon + timedelta(hours=12)]
        ends["low"] += [band.low if band else float("nan")] * 2
        ends["high"] += [band.high if band else float("nan")] * 2
    if any(bands):
        axes.fill_between(ends["x"], ends["low"], ends["high"], color=color, alpha=alpha, lw=0, label=label)


def _mark_days(axes: Any) -> None:
    """A time axis whose labels are as short as they can be."""
    from matplotlib import dates

    untyped: Any = dates
    locator = untyped.AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator))


def _or_nan(scores: Iterable[float | None]) -> list[float]:
    return [float("nan") if score is None else score for score in scores]


def new_figure(width: float = 7.0, height: float = 4.5) -> tuple[Any, Any]:
    """A new figure of that size in inches, and its axes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # otherwise a class called $a_b$ would be drawn as a formula
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _learning_curve(use_case: UseCase, fit: Fit) -> bytes:
    figure, axes = new_figure()
    numbers = [step.number for step in fit.steps]
    kind = "RMSE" if use_case.target.kind == "regression" else "log loss"
    name = "R2" if use_case.target.kind == "regression" else "F1 at threshold 0.5"
    curves = {"train loss": "train_loss", f"validation {kind}": "validation_loss"}
    for (label, field), color in zip(curves.items(), ("0.6", "C0"), strict=True):
        if None not in (values := [getattr(step, field) for step in fit.steps]):
            axes.plot(numbers, values, color=color, label=label)
    if fit.best is not None:
        axes.axvline(fit.best, color="C0", linestyle=":", label=f"{fit.step_name} {fit.best}: the model that is kept")
    axes.set(xlabel=fit.step_name, ylabel="loss", title=f"{use_case.name}: learning curve")
    axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = axes.get_legend_handles_labels()
    scores = [step.validation_score for step in fit.steps if step.validation_score is not None]
    if len(scores) == len(fit.steps):
        right = axes.twinx()
        right.plot(numbers, scores, color="C1", label=f"validation {name} (right)")
        right.set(ylabel=name, ylim=(min(0.0, *scores), 1.0))
        right_handles, right_labels = right.get_legend_handles_labels()
        handles, labels = handles + right_handles, labels + right_labels
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
    return png(figure)


def _confusion_matrix(use_case: UseCase, answers: pd.DataFrame) -> bytes:
    classes = use_case.target.classes
    cells = np.zeros((len(classes), len(classes)), int)
    np.add.at(cells, (answers.label.astype(int), answers.answer.astype(int)), 1)
    figure, axes = new_figure(2.6 + 1.3 * len(classes), 2.2 + 1.1 * len(classes))
    share = cells / cells.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(classes)):
        for column in range(len(classes)):
            text = f"{cells[row, column]:,}\n{share[row, column]:.1%}"
            dark = share[row, column] > 0.5
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set(xticks=range(len(classes)), yticks=range(len(classes)), xticklabels=classes, yticklabels=classes)
    axes.set(xlabel="the model said", ylabel="it was", title="Test rows (share of each row)")
    return png(figure)


def _precision_recall(use_case: UseCase, answers: pd.DataFrame) -> bytes:
    from sklearn.metrics import precision_recall_curve

    figure, axes = new_figure()
    precision, recall, _ = precision_recall_curve(answers.label, answers.probability_1)
    axes.plot(recall, precision, color="C0", label="model, all thresholds")
    hits = int(((answers.label == 1) & (answers.answer == 1)).sum())
    predicted, actual = int((answers.answer == 1).sum()), int((answers.label == 1).sum())
    if predicted:
        axes.plot([hits / actual], [hits / predicted], "o", color="C1", label="at the threshold in use")
    axes.axhline(actual / len(answers), color="0.6", linestyle=":", label="no skill (share of the class)")
    positive = use_case.target.classes[1]
    axes.set(
        xlabel=f"recall: share of '{positive}' that is found",
        ylabel=f"precision: share of said '{positive}' that is right",
    )
    axes.set(title=f"{use_case.name}: precision and recall on test rows", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, loc="best")
    return png(figure)


def _calibration(use_case: UseCase, curves: Mapping[str, CalibrationCurve]) -> bytes:
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="perfect")
    for (who, curve), color in zip(curves.items(), ("C0", "C1"), strict=False):
        axes.plot(curve.said, curve.came_true, "o-", color=color, label=f"{who}: calibration error {curve.error:.3f}")
    classes, binary = use_case.target.classes, use_case.target.kind == "binary"
    of = f"of '{classes[1]}' that the model gave" if binary else "that the model gave its answer"
    axes.set(xlabel=f"probability {of}", ylabel="share that it was" if binary else "share that was right")
    axes.set(title=f"{use_case.name}: calibration on test rows", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, loc="upper left", title="points are groups of about equally many rows")
    return png(figure)


def _predicted_and_true(use_case: UseCase, answers: pd.DataFrame) -> bytes:
    figure, axes = new_figure()
    axes.plot(answers.label, answers.answer, ".", color="C0", alpha=0.5, label="a test row")
    ends = [float(answers.min().min()), float(answers.max().max())]
    axes.plot(ends, ends, color="0.6", linestyle=":", label="perfect")
    if use_case.target.log:
        axes.set(xscale="log", yscale="log")
    unit = f" ({use_case.target.unit})" if use_case.target.unit else ""
    axes.set(xlabel=f"true value{unit}", ylabel=f"the model said{unit}", title=f"{use_case.name}: test rows")
    axes.legend(frameon=False, loc="upper left")
    return png(figure)
