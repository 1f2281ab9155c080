"""Two checkouts side by side: `python benchmarks/compare.py BEFORE AFTER [ROUNDS]` prints CPU seconds and their ratio.

In every round each checkout runs flights in a fresh home: a first night, a second night, and the second again (a
replay). CPU seconds are those of the command with all of its children, Prefect's server included. The scores of both
must be equal. Both run with the libraries of the Python that runs this.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "deployments.cli"]
STEPS = {
    "first night": ["run", "flights", "--as-of", "2013-10-01"],
    "second night": ["run", "flights", "--as-of", "2013-10-02"],
    "replay": ["run", "flights", "--as-of", "2013-10-02"],
}


def used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def run(checkout: Path, home: Path, words: list[str]) -> tuple[Any, float]:
    """The command's document, and the CPU seconds of its processes."""
    before = used()
    done = subprocess.run(
        [*COMMAND, *words, "--json", "--quiet"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(checkout), "RETRAIN_HOME": str(home)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout), used() - before


def round_of(checkout: Path) -> tuple[dict[str, float], list[float]]:
    """CPU seconds of each step, and the scores of the nights without their intervals."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run(checkout, home, ["demo-data", "flights"])
        documents, seconds = zip(*(run(checkout, home, words) for words in STEPS.values()), strict=True)
    told = [score for night in documents for score in night["scores"]["candidate"].values()]
    scores = [score["value"] for score in told if isinstance(score, dict) and "value" in score]
    return dict(zip(STEPS, seconds, strict=True)), scores


def main() -> None:
    before, after = (Path(word).resolve() for word in sys.argv[1:3])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    seconds: dict[Path, list[dict[str, float]]] = {before: [], after: []}
    for _ in range(rounds):
        scores = []
        for checkout in (before, after):
            spent, scored = round_of(checkout)
            seconds[checkout].append(spent)
            scores.append(scored)
        assert scores[0] == scores[1], "equal answers"
    print(f"| flights, CPU seconds, median of {rounds} | before | after | ratio |\n| --- | ---: | ---: | ---: |")
    for step in STEPS:
        old, new = (statistics.median(spent[step] for spent in seconds[checkout]) for checkout in (before, after))
        print(f"| {step} | {old:.1f} | {new:.1f} | {new / old:.2f} |")


if __name__ == "__main__":
    main()
