"""Seconds a stage and peak memory of the main job: `python benchmarks/main_job.py` prints a table.

Runs two nights of flights in a fresh home, each as a process of its own, and reads what the process itself reports.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NIGHTS = ("2013-10-01", "2013-10-02")
RETRAIN = Path(sys.executable).parent / "retrain"


def night(home: Path, as_of: str) -> tuple[dict[str, Any], float]:
    """The night's document, and the wall seconds of the whole process."""
    start = time.perf_counter()
    done = subprocess.run(
        [RETRAIN, "run", "flights", "--as-of", as_of, "--json", "--quiet"],
        env={**os.environ, "RETRAIN_HOME": str(home)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout), time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [RETRAIN, "demo-data", "flights", "--quiet"],
            env={**os.environ, "RETRAIN_HOME": folder},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        documents, walls = zip(*(night(Path(folder), as_of) for as_of in NIGHTS), strict=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"| stage | {' | '.join(NIGHTS)} |\n| --- | ---: | ---: |")
    for stage in documents[0]["seconds"]:
        print(f"| {stage} | {documents[0]['seconds'][stage]:.1f} s | {documents[1]['seconds'][stage]:.1f} s |")
    print(f"| whole process | {walls[0]:.1f} s | {walls[1]:.1f} s |")
    print(f"\nPeak resident memory of the largest process: {peak:,.0f} MB.")


if __name__ == "__main__":
    main()
