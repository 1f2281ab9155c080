"""What tests of faults share: a night as a process of its own, and everything that it leaves for others."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.commands.doctor import found_in
from ml.settings import Settings
from ml.storage.ledger import Ledger
from ml.storage.registry import CHAMPION, REFERENCE, Registry
from ml.storage.store import open_store
from tests.tally import tally

VARYING = {"mlflow_run", "seconds", "reused", "computed"}  # of a night's document: what a resumed one may say otherwise
LONGEST_SECONDS = 900.0


@dataclass
class Run:
    """A command as its process."""

    process: "subprocess.Popen[str]"

    def said(self, words: str) -> None:
        """Returns when it has said so."""
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if words in line:
                return
        raise AssertionError(f"it never said {words!r}: {''.join(seen)[-3000:]}")

    def document(self) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=LONGEST_SECONDS)
        assert self.process.returncode == 0, (out + err)[-3000:]
        return json.loads(out)

    def failure(self) -> dict[str, Any]:
        """What `--json` prints of a failure in one sentence."""
        out, err = self.process.communicate(timeout=LONGEST_SECONDS)
        assert self.process.returncode == 1, err[-3000:]
        assert "Traceback" not in err, err[-3000:]
        return json.loads(out)


def start_night(use_case: str, as_of: str, variables: Mapping[str, str], *words: str) -> Run:
    """`retrain run` in a process of its own."""
    return start(["run", use_case, "--as-of", as_of, *words], variables)


def start(words: Sequence[str], variables: Mapping[str, str]) -> Run:
    """The command in a process of its own, as from a user's shell with these variables."""
    shell = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    command = [sys.executable, "-m", "deployments.cli", *words, "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return Run(subprocess.Popen(command, env={**shell, **variables}, text=True, **pipes))  # type: ignore[call-overload]


def settings_of(home: Path, use_case_folder: Path | None) -> Settings:
    """An embedded home's: files and database of MLflow lie in it."""
    return Settings(home, str(home / "store"), f"sqlite:///{home / 'mlflow.db'}", use_case_folder, 1)


def end_state(settings: Settings, use_case: str) -> dict[str, Any]:
    """Everything that a run leaves for others: the ledger, the versions, the aliases, every byte of the model."""
    ledger, registry = Ledger(open_store(settings.store), use_case), Registry(settings, use_case)
    (entry,) = ledger.nights()
    assert entry.candidate is not None
    return {
        "result": {name: value for name, value in entry.result.items() if name not in VARYING},
        "run_key": entry.run_key,
        "versions": [version.number for version in registry.versions()],
        "aliases": (registry.alias(CHAMPION), registry.alias(REFERENCE)),
        "models": [[(Path(file.key).name, file.digest) for file in one.files] for one in entry.candidate.versions],
        "published": ledger.is_published(entry),
    }


def left_over(settings: Settings, use_case: str) -> list[str]:
    """What the doctor still finds after mending."""
    for path in settings.home.rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)  # a killed writer's remains are looked at after an hour
    found_in(settings, [use_case], mend=True)
    rows = found_in(settings, [use_case], mend=False)
    return [row["seen"] for row in rows if row["state"] in {"wrong", "unknown"}]


def count(fault: str, happens: str, settings: Settings, use_case: str, times: int = 1) -> None:
    """One home in the table of faults: one decision and one version are wanted of it, not counting the refit that the
    decision names."""
    nights = Ledger(open_store(settings.store), use_case).nights()
    refits = sum(night.candidate is not None and night.candidate.refit is not None for night in nights)
    versions = len(Registry(settings, use_case).versions()) - refits
    tally(fault, happens, wanted=1, entries=len(nights), versions=versions, times=times)
