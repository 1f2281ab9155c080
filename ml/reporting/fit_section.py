"""What a report says about the fit, in the same words for every kind of model."""

from ml.reporting.document import Document
from ml.reporting.words import counted

STAGE, REFIT_STAGE = "train candidate", "refit candidate"
OF_OLD = {"model": "network", "step": "epoch", "device": "cpu"}  # what entries do not name that knew networks only


def fit_sentence(document: Document) -> str:
    """What was fitted, in how many steps and seconds, and which step was kept: `Fitted: Trees on cpu, 198 trees in
    3.5 s. The model of tree 168 is kept.` It is "" where the document has no fit."""
    training, seconds = document.get("training"), document["seconds"].get(STAGE)
    if training is None or seconds is None:
        return ""
    model, step, device = (training.get(name, of_old) for name, of_old in OF_OLD.items())
    by_an_earlier_run = bool(document["reused"].get(STAGE))
    cost = [counted(training["epochs"], step)] if training["epochs"] else []
    cost += [] if by_an_earlier_run else [f"in {seconds:.1f} s"]
    kept = "" if training["best_epoch"] is None else f" The model of {step} {training['best_epoch']} is kept."
    fitted = "Fitted by an earlier run" if by_an_earlier_run else "Fitted"
    return f"{fitted}: {model} on {device}{', ' if cost else ''}{' '.join(cost)}.{kept}"


def output_sentences(document: Document) -> str:
    """Which calibration the model has and why, and what its threshold serves; "" for a regression, and for a night of
    before this was told."""
    training = document.get("training") or {}
    return " ".join(filter(None, (training.get("calibration"), training.get("decides"))))


def refit_fit_sentence(document: Document) -> str:
    """On how many rows the winner was fitted once more, and in how many seconds; "" where it was not."""
    refit, seconds = document.get("refit"), document["seconds"].get(REFIT_STAGE)
    if refit is None or seconds is None:
        return ""
    cost = " by an earlier run" if document["reused"].get(REFIT_STAGE) else f" in {seconds:.1f} s"
    return f"Fitted once more, on all {counted(refit['rows'], 'due row')}{cost}."
