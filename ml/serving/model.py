"""A registered model: raw rows in, predictions out, with every constant that it needs inside."""

import json
import shutil
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .columns import Column, conform, with_tuples, wrong_type
from .output import BASE, Output, contribution_names, decided, probabilities, values
from .own_code import NO_OWN_CODE, OwnCode
from .reasons import USUAL, explained_classes, reason_count, reasons_in_words
from .refusal import UnusableRows, refusal
from .rules import Rule, first_broken, rule_from_dict, rule_to_dict
from .source import Source

FORMAT = 2
KIND = "kind"  # the folder with the files of the fitted model
ALL, LABEL, PROBABILITY, CONTRIBUTIONS, REASONS = ANSWER_FORMS = (
    "all",
    "label",
    "probability",
    "contributions",
    "reasons",
)
EITHER, RAW, OF_SOURCE = ROW_FORMS = ("either", "raw", "source")
OWN = "own"  # the folder of a version's code with a company's own modules
ADDS_UP = 1e-6  # of the output, or of 1 if that is more: how far the sum of contributions may lie from it


class Served(Protocol):
    """A fitted model of some kind, loaded from its folder."""

    def outputs(self, typed: pd.DataFrame) -> NDArray[np.float64]:
        """(rows, outputs): a logit of the second class, a logit of each class, or the value that was learnt.

        A row's outputs depend neither on the rows beside it nor on their order.
        """

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """The values that were learnt, by category column."""


# Read now: later the folder may be gone, as MLflow downloads a version into one that it deletes.
OUR_KINDS = frozenset(path.stem for path in (Path(__file__).parent / "kinds").glob("*.py"))


def load_served(kind: str, folder: Path, threads: int, own: OwnCode = NO_OWN_CODE) -> Served:
    """The fitted model in the folder, loaded by the module `kind` of `kinds/`, or else of the company's own, of which
    `derive` may import one with the name of one of `kinds/`.

    A module that says HAS_PARTS is given the function that loads a part, of any kind, from its folder.
    """
    module = import_module(f".kinds.{kind}", __package__) if kind in OUR_KINDS else own.load(kind)
    if not getattr(module, "HAS_PARTS", False):
        return cast(Served, module.load(folder, threads))

    def load_part(kind_of_part: str, place: Path) -> Served:
        return load_served(kind_of_part, place, threads, own)

    return cast(Served, module.load(folder, threads, load_part))


class PackagedModel:
    """Columns, rules, a fitted model and its output: the whole path from a raw row to an answer.

    `kind` is the module that loads the fitted model from `folder`: one of `kinds/`, or one of the company's `own`.
    `source` says how rows of the source become raw rows. If it is None the model takes raw rows only, for the reason
    `raw_only`, which is empty where both are the same rows.
    """

    def __init__(
        self,
        *,
        columns: tuple[Column, ...],
        rules: tuple[Rule, ...],
        kind: str,
        folder: Path,
        output: Output,
        threads: int,
        time_zone: str = "UTC",
        own: OwnCode = NO_OWN_CODE,
        source: Source | None = None,
        raw_only: str = "",
    ) -> None:
        self.columns, self.rules, self.kind, self.folder = columns, rules, kind, folder
        self.output, self.threads, self.time_zone, self.own = output, threads, time_zone, own
        self.source, self.raw_only, self.answer, self.rows = source, raw_only, ALL, EITHER
        self.served = load_served(kind, folder, threads, own)

    def get_raw_model(self) -> "PackagedModel":
        """MLflow's name for what it has wrapped."""
        return self

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame | NDArray[Any]:
        """One answer a row, in the same order. `answer` in `params` says which, one of ANSWER_FORMS, and `rows` says
        what the rows are, one of ROW_FORMS. Without them the model's own `answer` and `rows` count, which whoever loads
        the model may choose. `reasons` says how many reasons a row gets.

        If the rows may be either, those that have all of the model's columns are raw rows. Other rows are rows of the
        source, if the model takes these. Raises ValueError where a column is missing or has another type; extra columns
        are ignored.
        """
        answer = _choice("answer", ANSWER_FORMS, (params or {}).get("answer") or self.answer)
        form = _choice("rows", ROW_FORMS, (params or {}).get("rows") or self.rows)
        if answer == CONTRIBUTIONS:
            return self.contributions(rows, form)
        if answer == REASONS:
            return self.reasons(rows, form, reason_count((params or {}).get("reasons") or USUAL))
        answers = self.answers(rows, form)
        if answer == LABEL:
            return answers["prediction"].to_numpy()
        return answers if answer == ALL else self._plain_probabilities(answers)

    def answers(self, rows: pd.DataFrame, form: str = EITHER) -> pd.DataFrame:
        """All that the model answers, under the rows' index.

        Columns: `prediction` (class name, or the value), `probability` (binary: of the second class) or
        `probability_<class>` (multiclass), and `broken_rule`: the rule that a row breaks, its answers being null.
        """
        typed, broken = self._typed(rows, form)
        return _unless_broken(self._of_outputs(self.served.outputs(typed), rows.index), broken)

    def contributions(self, rows: pd.DataFrame, form: str = EITHER) -> pd.DataFrame:
        """What each column adds to the output of each row, under the rows' index, and the output without any column.

        Columns are `contribution_<column>` and `contribution_base`; of more classes, for each one's output,
        `contribution_<class>_<column>`. They add up to the output, before calibration, within ADDS_UP. Raises
        ValueError for a kind of model that cannot say it.
        """
        typed, broken = self._typed(rows, form)
        of_outputs = self._of_each_output(typed, self.served.outputs(typed))
        names = contribution_names(self.output.kind, self.output.classes, of_outputs[0].columns[:-1])
        told = pd.concat(of_outputs, axis=1).set_axis(names, axis=1)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise refusal(f"each contribution must have a name of its own, but {twice} are there twice")
        return _unless_broken(told.set_axis(rows.index), broken)

    def reasons(self, rows: pd.DataFrame, form: str = EITHER, count: int = USUAL) -> pd.DataFrame:
        """All that the model answers, and before `broken_rule` so many columns `reason_1` and on: the columns that
        moved a row most, in words. Of more than two classes they explain the answered one.

        Raises ValueError for a kind of model that cannot tell contributions.
        """
        typed, broken = self._typed(rows, form)
        outputs = self.served.outputs(typed)
        of_outputs = self._of_each_output(typed, outputs)
        chosen = np.zeros(len(typed), np.intp)
        if self.output.kind == "multiclass":
            chosen = decided(self.output, probabilities(self.output, outputs))
        told = np.stack([whole.iloc[:, :-1].to_numpy(np.float64) for whole in of_outputs])[
            chosen, np.arange(len(typed))
        ]
        contributions = pd.DataFrame(told, columns=of_outputs[0].columns[:-1])
        classes = explained_classes(self.output, chosen)
        words = reasons_in_words(typed, contributions, self.columns, self.output, classes, count)
        answers = self._of_outputs(outputs, rows.index)
        return _unless_broken(pd.concat([answers, words.set_axis(rows.index)], axis=1), broken)

    def _of_each_output(self, typed: pd.DataFrame, outputs: NDArray[np.float64]) -> list[pd.DataFrame]:
        """The contributions to each of the outputs. Raises ValueError for a kind of model that cannot tell them."""
        if not hasattr(self.served, "contributions"):
            words = (
                f"answer must be one that this kind of model has, but the kind {self.kind} cannot tell contributions"
            )
            raise refusal(words)
        return [self._added_up(typed, place, output) for place, output in enumerate(outputs.T)]

    def _added_up(self, typed: pd.DataFrame, place: int, output: NDArray[np.float64]) -> pd.DataFrame:
        """The contributions to one of the outputs, with its base last. Raises ValueError if they do not add up to
        it."""
        served: Any = self.served
        told: pd.DataFrame = served.contributions(typed, place)
        whole = pd.concat([told, pd.Series(served.base_values[place], told.index, name=BASE)], axis=1)
        away = np.abs(whole.to_numpy(np.float64).sum(axis=1) - output)
        if not (away <= ADDS_UP * np.maximum(1, np.abs(output))).all():
            raise refusal("contributions must add up to the output, but those of this kind of model do not")
        return whole

    def _typed(self, rows: pd.DataFrame, form: str) -> tuple[pd.DataFrame, pd.Series]:
        """The rows as the model computes with them, and which rule each one breaks."""
        raw = self._raw_rows(rows, form)
        self._refuse_other_columns(raw)
        typed = conform(raw, self.columns, self.time_zone)
        return typed, first_broken(self.rules, typed)

    def _plain_probabilities(self, answers: pd.DataFrame) -> pd.DataFrame | NDArray[Any]:
        """(rows,) of the second class; of more classes a frame with a column for each."""
        if self.output.kind == "regression":
            raise refusal("answer must be one that this model has, but a regression has no probability")
        if self.output.kind == "binary":
            return answers["probability"].to_numpy()
        return answers[[f"probability_{name}" for name in self.output.classes]].set_axis(
            list(self.output.classes), axis=1
        )

    def _raw_rows(self, rows: pd.DataFrame, form: str) -> pd.DataFrame:
        """The rows as raw rows. Raises ValueError where that cannot be, or where they may be read in two ways."""
        if form == OF_SOURCE and self.source is None and self.raw_only:
            raise refusal(f"rows must be raw rows, as the model takes no rows of the source ({self.raw_only})")
        if form == RAW or self.source is None:
            return rows
        absent = [column.name for column in self.columns if column.name not in rows.columns]
        lacking = self.source.missing(rows)
        if absent and lacking:
            raise refusal(
                f"rows must have the columns that the model was trained on, but {absent} are missing; as rows of the "
                f"source they lack {lacking}"
            )
        if lacking and form == OF_SOURCE:
            raise refusal(f"rows of the source must have the columns that the model needs, but {lacking} are missing")
        _refuse_twice(rows, [*self.source.known, *self.source.joined])
        if absent and not len(rows):  # of which a derive need not make anything
            return rows.assign(**dict.fromkeys(absent, np.nan))
        try:
            if absent or form == OF_SOURCE:
                return self.source.completed(rows)[0]
        except UnusableRows as error:
            raise refusal(str(error)) from None
        changed = None if lacking else self.source.rewritten(rows, self.columns)
        if changed:
            words = f"rows must be read in one way, but derive changes {changed}: they may be before it or after"
            raise refusal(f"{words} (say rows='raw' or rows='source')")
        return rows

    def _refuse_other_columns(self, rows: pd.DataFrame) -> None:
        missing = [column.name for column in self.columns if column.name not in rows.columns]
        if missing:
            only = f" ({self.raw_only})" if self.raw_only else ""
            raise refusal(f"rows must have the columns that the model was trained on, but {missing} are missing{only}")
        _refuse_twice(rows, [column.name for column in self.columns])
        for column in self.columns:
            seen = wrong_type(column, rows[column.name])
            if seen:
                raise refusal(f"column {column.name} must be {column.type}, but it is {_without_fields(seen)}")

    def _of_outputs(self, outputs: NDArray[np.float64], index: pd.Index) -> pd.DataFrame:
        if self.output.kind == "binary":
            p = probabilities(self.output, outputs)
            named = {"prediction": self._names(decided(self.output, p)), "probability": p[:, 1]}
            return pd.DataFrame(named, index=index)
        if self.output.kind == "multiclass":
            p = probabilities(self.output, outputs)
            columns = {f"probability_{name}": p[:, i] for i, name in enumerate(self.output.classes)}
            return pd.DataFrame({"prediction": self._names(decided(self.output, p)), **columns}, index=index)
        return pd.DataFrame({"prediction": values(self.output, outputs)}, index=index)

    def _names(self, chosen: NDArray[np.int_]) -> NDArray[np.object_]:
        return np.array(self.output.classes, dtype=object)[chosen]

    def save(self, folder: Path) -> None:
        """Writes model.json and a copy of the fitted model's files: no pickle."""
        shutil.copytree(self.folder, folder / KIND)
        contents = {
            "format": FORMAT,
            "kind": self.kind,
            "columns": [asdict(column) for column in self.columns],
            "rules": [rule_to_dict(rule) for rule in self.rules],
            "vocabulary": self.served.vocabulary,
            "output": asdict(self.output),
            "threads": self.threads,
            "time_zone": self.time_zone,
            "raw_only": self.raw_only,
            "source": None if self.source is None else self.source.save(folder),
        }
        (folder / "model.json").write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "PackagedModel":
        contents = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        own, source = OwnCode.of_folder(Path(__file__).parent / OWN), contents["source"]
        return cls(
            columns=tuple(Column(**with_tuples(fields)) for fields in contents["columns"]),
            rules=tuple(rule_from_dict(fields) for fields in contents["rules"]),
            kind=contents["kind"],
            folder=folder / KIND,
            output=Output(**with_tuples(contents["output"])),
            threads=contents["threads"],
            time_zone=contents["time_zone"],
            own=own,
            source=None if source is None else Source.load(source, folder, own),
            raw_only=contents["raw_only"],
        )


def _choice(name: str, known: tuple[str, ...], value: Any) -> str:
    """The value of a parameter of `predict`. Raises ValueError for one that is not known."""
    if value not in known:
        raise refusal(f"{name} must be one of {', '.join(known)}, but it is {str(value)[:40]!r}")
    return str(value)


def _unless_broken(answers: pd.DataFrame, broken: pd.Series) -> pd.DataFrame:
    """The answers with the broken rules beside them, and null for the rows that break one."""
    if broken.notna().any():  # None, not NaN: a server's JSON must say null
        answers = answers.astype("object").where(broken.isna(), None)
    return answers.assign(broken_rule=broken)


def _refuse_twice(rows: pd.DataFrame, names: list[str]) -> None:
    present = [name for name in dict.fromkeys(names) if name in rows.columns]
    repeated = set(rows.columns[rows.columns.duplicated()])
    twice = [name for name in present if name in repeated]
    twice = twice or [name for name in present if _holds_its_name(rows[name])]
    if twice:
        raise refusal(f"rows must have each column once, but {twice} are there twice")


def _holds_its_name(values: pd.Series) -> bool:
    """Where a request has a column twice, and two rows, MLflow hands over the column's name in place of each value."""
    return len(values) > 1 and all(isinstance(value, str) and value == values.name for value in values)


def _without_fields(seen: str) -> str:
    """The name of a type without those of a struct's fields: whoever sent it named them, maybe by a value."""
    before, struct, _ = seen.partition("struct<")
    return before + struct.rstrip("<")
