"""A kind of model that answers every row alike, made in this one file: nothing else in the project knows it."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ml import Fitted, Job, Learner
from ml.errors import ConfigError
from ml.models.packaging import write_model
from ml.models.training import package
from ml.serving.output import TaskKind
from ml.serving.own_code import OwnCode
from tests.tiny import KINDS, cleaned, job, parcel_rows, parcels, raw_parcels

SERVED = b'''
"""How a constant answers."""

import json

import numpy as np


class Served:
    vocabulary = {}

    def __init__(self, answer):
        self.answer = answer

    def outputs(self, typed):
        return np.tile(self.answer, (len(typed), 1))


def load(folder, threads):
    return Served(json.loads((folder / "answer.json").read_text()))
'''


class Constant(Learner):
    """The mean of a value, or the share of each class, is the answer to every row."""

    served = ("constant",)

    def fit_rows(self, job: Job) -> Fitted:
        labels = pd.concat([pd.Series(job.labels(frame)) for frame in job.train])
        shares = labels.value_counts(normalize=True).sort_index().tolist()
        answer = {"binary": [0.0], "multiclass": shares, "regression": [labels.mean()]}[job.table.target.kind]
        (job.folder / "answer.json").write_text(json.dumps(answer))
        return Fitted(chosen={})


ANSWER = """
import sys, mlflow.pyfunc, pandas as pd
mlflow.pyfunc.load_model("model").predict(pd.read_parquet("rows.parquet")).to_parquet("answers.parquet")
assert not {"ml", "torch", "sklearn", "lightgbm"} & set(sys.modules)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_model_is_one_file(kind: TaskKind, tmp_path: Path) -> None:
    """It is declared, fitted, packaged, registered as files, and answers where nothing of ours is installed."""
    use_case = parcels(kind, model=Constant())
    block = cleaned(use_case, parcel_rows(200))
    use_case.model.fit_rows(job(use_case, tmp_path / "fit", block, None))
    model = package(use_case, use_case.column_rules, tmp_path / "fit", 1, block, OwnCode({"constant": SERVED}))
    answers = model.predict(raw_parcels(50))
    assert len(answers.drop(columns="broken_rule").drop_duplicates()) == 1
    assert use_case.digest != parcels(kind).digest
    if kind == "binary":  # one process is enough: it imports for seconds
        raw_parcels(50).to_parquet(tmp_path / "rows.parquet")
        write_model(model, use_case.model, tmp_path / "model")
        subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", ANSWER], cwd=tmp_path, check=True)
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "answers.parquet"), answers)


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (b"(self.answer, (len(typed), 2))", r"1 number, but its answer to 50 validation rows has the shape \(50, 2\)"),
        (b"(self.answer, (1, 1))", r"has the shape \(1, 1\)"),
        (b"([np.nan], (len(typed), 1))", "50 of its 50 answers to validation rows are no numbers"),
        (b"(['0'], (len(typed), 1))", "and type"),
    ],
)
def test_an_answer_of_another_shape_is_refused_in_a_sentence(mistake: bytes, says: str, tmp_path: Path) -> None:
    use_case = parcels(model=Constant())
    block = cleaned(use_case, parcel_rows(50))
    use_case.model.fit_rows(job(use_case, tmp_path / "fit", block, None))
    wrong = OwnCode({"constant": SERVED.replace(b"(self.answer, (len(typed), 1))", mistake)})
    with pytest.raises(ConfigError, match=says):
        package(use_case, use_case.column_rules, tmp_path / "fit", 1, block, wrong)
