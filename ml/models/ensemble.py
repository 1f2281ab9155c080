"""Ensembles: learners of any kinds are fitted to the same rows, and what they answer is averaged.

A part is fitted as it would be alone: it has a folder, a diary and a seed of its own, and knows of no other part.
"""

import io
import logging
import shutil
import zipfile
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import PositiveFloat

from ml.data.split import groups_of
from ml.declarations import Broken, Demands
from ml.models.composite import Composite
from ml.models.handles import Step
from ml.models.part_weights import Held, Weights, weighed
from ml.models.protocol import Fitted, Floats, Job, Learner
from ml.serving.columns import conform
from ml.serving.output import Output, probabilities, sigmoid
from ml.storage.json_form import from_json, to_json

log = logging.getLogger("retrain.model")
SEEDS = 2**63
FITTED, CHECKPOINT = "fitted.json", "checkpoint"  # in the checkpoint of an ensemble


def _without_fit(ensemble: "Ensemble") -> Broken:
    """The first part whose class has no fit_rows, in words; False if each of them has one."""
    titles = [part.title for part in ensemble.learners if type(part).fit_rows is Learner.fit_rows]
    return bool(titles) and f"{titles[0]} does not"


class Ensemble(Composite):
    """The weighted mean of what several learners of any kinds answer: of probabilities, or of a regression's values.

    `weights` says how much each learner counts: all alike ("equal"), or in these proportions. With "validation" they
    are chosen on validation rows, and count only if choosing them there is surely better than equal ones.
    """

    own_served = ("ensemble",)
    own_code = ("ml/models/ensemble.py", "ml/models/part_weights.py")
    own_libraries = ("scipy",)
    step_name = "step"
    demands: ClassVar[Demands[Any, Any]] = (
        ("learners", "name two learners at least", lambda m, _: len(m.learners) < 2, "add one"),
        ("learners", "define fit_rows", lambda m, _: _without_fit(m), "define fit_rows(self, job) in its class"),
        (
            "weights",
            "be as many as the learners",
            lambda m, _: isinstance(m.weights, tuple) and len(m.weights) != len(m.learners),
            "write one for each",
        ),
    )

    def __init__(
        self,
        learners: tuple[Learner, ...],
        weights: Literal["equal", "validation"] | tuple[PositiveFloat, ...] = "equal",
    ) -> None:
        self.learners = learners
        self.weights = weights

    @property
    def parts(self) -> tuple[Learner, ...]:  # type: ignore[override]
        return self.learners

    @property
    def title(self) -> str:
        return f"{type(self).__name__} of {' and '.join(part.title for part in self.learners)}"

    def fit_rows(self, job: Job) -> Fitted:
        """Fits each learner in a folder of its own, weighs them, and writes how they are put together.

        A fit that was killed goes on inside the part that it was at. What `job.chosen` gave no weight is not fitted.
        Raises what the fits of its parts raise.
        """
        job.require_every_class()
        given: Weights | None = None if job.chosen is None else tuple(job.chosen["weights"])
        progress = Progress(job)
        for place, part in enumerate(self.learners):
            if given is None or given[place]:
                progress.fit(place, part)
        weights, notes = given, []
        if job.validation is not None:
            weights, note = weighed(_held(job, self.learners), self.weights, names_of(self.learners))
            notes.append(note)
        assert weights is not None  # there are validation rows, or what they chose
        self._write(job, weights)
        fitted, names = progress.fitted, names_of(self.learners)
        return Fitted(
            chosen={
                "weights": list(weights),
                "parts": [dict(fitted[n].chosen) if n in fitted else {} for n in range(len(weights))],
            },
            device=next((part.device for part in fitted.values() if part.device != "cpu"), "cpu"),
            notes=(*notes, *(f"{names[n]}: {note}" for n, part in fitted.items() for note in part.notes)),
        )

    def _write(self, job: Job, weights: Weights) -> None:
        """Writes how the parts are put together, and deletes those that count for nothing."""
        from ml.serving.kinds.ensemble import Part, save

        parts = []
        for place, (learner, weight) in enumerate(zip(self.learners, weights, strict=True)):
            if weight:
                parts.append(Part(folder=folder_of(place), kind=learner.served[0], weight=weight))
            else:
                shutil.rmtree(job.folder / folder_of(place), ignore_errors=True)
        save(job.folder, job.table.target.kind, parts)


def names_of(learners: tuple[Learner, ...]) -> list[str]:
    """What a report calls the parts: by their titles, and by their places too where titles are alike."""
    titles = [learner.title for learner in learners]
    return [title if titles.count(title) == 1 else f"{title} (part {n})" for n, title in enumerate(titles, 1)]


def folder_of(place: int) -> str:
    """The folder of a part, below that of its ensemble."""
    return f"part-{place + 1}"


class Progress:
    """How far the fit of an ensemble is: what each finished part told of its fit, and its files in its folder.

    The ensemble's checkpoint holds both, with the checkpoint of the part that is being fitted.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.fitted = job, dict[int, Fitted]()
        self.of_part: bytes | None = None
        checkpoint = job.diary.load()
        if checkpoint is not None:
            self._restore(checkpoint)

    def fit(self, place: int, learner: Learner) -> None:
        """Fits one part, unless it is finished, and keeps it in a new checkpoint."""
        from ml.models.training import fit

        if place in self.fitted:
            return
        log.info("Fitting part %d: %s.", place + 1, learner.title)
        folder = self.job.folder / folder_of(place)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        chosen = None if self.job.chosen is None else self.job.chosen["parts"][place]
        diary = PartsDiary(self)
        self.fitted[place] = fit(
            learner,
            replace(
                self.job,
                folder=folder,
                seed=(self.job.seed + place) % SEEDS,
                device=learner.device_on(self.job.device),
                diary=diary,
                chosen=chosen,
            ),
        )
        self.of_part = None
        self.save()

    def save(self) -> None:
        """Replaces the ensemble's checkpoint, as its diary does it."""
        self.job.diary.save(self._packed())

    def _packed(self) -> bytes:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for place, fitted in self.fitted.items():
                folder = self.job.folder / folder_of(place)
                archive.writestr(f"{place}/{FITTED}", to_json(fitted))
                for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                    archive.write(file, f"{place}/files/{file.relative_to(folder).as_posix()}")
            if self.of_part is not None:
                archive.writestr(CHECKPOINT, self.of_part)
        return packed.getvalue()

    def _restore(self, checkpoint: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:
            for name in archive.namelist():
                place, _, inside = name.partition("/")
                if name == CHECKPOINT:
                    self.of_part = archive.read(name)
                elif inside == FITTED:
                    self.fitted[int(place)] = from_json(Fitted, archive.read(name))
                else:
                    file = self.job.folder / folder_of(int(place)) / inside.removeprefix("files/")
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(archive.read(name))


@dataclass(frozen=True)
class PartsDiary:
    """The diary of the part that is being fitted, kept in that of the ensemble."""

    progress: Progress

    def step(self, step: Step, total: int) -> None:
        """Tells the part's step."""
        self.progress.job.diary.step(step, total)

    def load(self) -> bytes | None:
        """The part's own checkpoint; None if there is none."""
        return self.progress.of_part

    def save(self, checkpoint: bytes) -> None:
        """Puts the part's checkpoint into that of the ensemble."""
        self.progress.of_part = checkpoint
        self.progress.save()


def _held(job: Job, learners: tuple[Learner, ...]) -> Held:
    """What each fitted part says about the validation rows."""
    from ml.serving.model import load_served

    assert job.validation is not None
    served = [
        load_served(learner.served[0], job.folder / folder_of(place), job.threads, job.own)
        for place, learner in enumerate(learners)
    ]
    told, labels, weights = list[Floats](), list[Floats](), list[Floats]()
    units = list[pd.Series]()
    for frame in job.validation:
        if len(frame):
            typed, y = conform(frame, job.table.features), job.labels(frame)
            told.append(np.column_stack([_told(job, part.outputs(typed), y) for part in served]))
            labels.append(y)
            of_rows = job.weights(frame)
            weights.append(np.ones(len(frame)) if of_rows is None else of_rows)
            units.append(_units(job, frame, len(units)))
    return Held(
        task=job.table.target.kind,
        told=np.concatenate(told),
        labels=np.concatenate(labels),
        weights=np.concatenate(weights),
        units=pd.factorize(pd.concat(units))[0],
        dated=job.table.dated,
    )


def _told(job: Job, outputs: Floats, labels: Floats) -> Floats:
    """(rows,) the probability of each row's own class, or the value."""
    if job.table.target.kind == "regression":
        return outputs[:, 0]
    if job.table.target.kind == "binary":
        return sigmoid(np.where(labels == 1, outputs[:, 0], -outputs[:, 0]))
    of_classes = probabilities(Output(kind=job.table.target.kind), outputs)
    return of_classes[np.arange(len(labels)), labels.astype(int)]


def _units(job: Job, frame: pd.DataFrame, number: int) -> pd.Series:
    """(rows,) the unit of each row: the day, which has one frame, or the row's group, or the row itself."""
    if job.table.dated:
        return pd.Series([(number, 0)] * len(frame))
    own = pd.Series([(number, row) for row in range(len(frame))])
    if job.table.group is None:
        return own
    groups = groups_of(job.table, frame).reset_index(drop=True)
    return own.where(groups.isna(), groups)
