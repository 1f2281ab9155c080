"""Is the lump whose cells were just measured malignant?

Data: 569 fine needle aspirates of breast lumps, with 30 measures of the cell nuclei in each image (Wisconsin
Diagnostic Breast Cancer of the UCI Machine Learning Repository, CC BY 4.0; scikit-learn's copy). The moment of
prediction is after the image was measured and before anybody gave a diagnosis. Caveat: about 100 patients in test show
only large differences between models.
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

# The largest value that each measure of a nucleus can plausibly have; lengths are in the image's own unit.
LIMITS = {
    "radius": 100,
    "texture": 100,
    "perimeter": 700,
    "area": 10_000,
    "smoothness": 1,
    "compactness": 5,
    "concavity": 5,
    "concave_points": 1,
    "symmetry": 1,
    "fractal_dimension": 1,
}


def write_demo_data(folder: Path) -> None:
    """all.parquet: a row a patient, numbered in the order of the set."""
    from sklearn.datasets import load_breast_cancer

    patients = load_breast_cancer(as_frame=True)
    table = patients.data.rename(columns=lambda name: name.replace(" ", "_"))
    table.insert(0, "patient", range(1, len(table) + 1))
    table["diagnosis"] = patients.target.map(dict(enumerate(patients.target_names))).astype("str")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "all.parquet", index=False)


def _measures(pattern: str) -> tuple[Column, ...]:
    return tuple(Column(name=pattern.format(name), minimum=0, maximum=limit) for name, limit in LIMITS.items())


USE_CASE = UseCase(
    name="breast_cancer",
    question="Is a breast lump malignant, from the nuclei of its cells?",
    source=Source(folder="breast_cancer"),
    key=("patient",),
    columns=(
        Column(name="patient", type="integer", minimum=1, feature=False),
        *_measures("mean_{}"),
        *_measures("{}_error"),
        *_measures("worst_{}"),
        Column(name="diagnosis", type="text", values=("benign", "malignant"), feature=False),
    ),
    target=Target(column="diagnosis", positive="malignant", classes=("benign", "malignant")),
    model=logistic_regression(batch_size=32, epochs=30, learning_rate=1e-2, weight_decay=1e-2, noise_std=0.3),
    metric="f1",
    gates=(
        MinMetric(
            metric="f1",
            floor=0.85,
            why="20 splits of train and validation rows gave 0.93 to 1.00; under 0.85 something is broken",
        ),
        BetterThanTrivial(metric="f1", why="calling every lump malignant needs no microscope"),
        NotWorseThanChampion(
            metric="f1",
            max_drop=0.05,
            why="one more error in about 100 patients costs 0.01, and under 0.05 chance decides",
        ),
        NotWorseThanReference(metric="f1", max_drop=0.05, why="small losses may not add up to more than this"),
    ),
    min_rows=300,
    demo=write_demo_data,
)
