"""Every shipped use case on its real data: full trainings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RETRAIN = Path(sys.executable).parent / "retrain"
NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "ml" / "use_cases").glob("[a-z]*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_first_night_passes_its_gates(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [RETRAIN, "run", name, "--json"],
        env={**os.environ, "RETRAIN_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["decision"] == "FIRST", document["reason"]
    assert document["quarantined_rows"] <= 0.001 * document["data"]["rows"]
