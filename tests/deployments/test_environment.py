"""What a run touches: nothing outside its home, and no address but loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RETRAIN = Path(sys.executable).parent / "retrain"

WATCH = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.bind"):
        note(f"{event} {arguments[1]!r}")
    elif event == "socket.getaddrinfo":
        note(f"{event} {arguments[0]!r}")

def note(line):
    with open(os.environ["WATCH_FILE"], "a") as file:
        file.write(line + "\\n")

sys.addaudithook(watch)
"""
LOOPBACK = ("127.0.0.1", "localhost", "::1", "None")


@pytest.mark.slow
def test_a_run_writes_only_into_its_home_and_speaks_only_to_loopback(tmp_path: Path) -> None:
    """A fresh machine user's HOME, working directory and temporary folder stay empty."""
    folders = {name: tmp_path / name for name in ("home", "work", "temporary", "watch", "retrain")}
    for folder in folders.values():
        folder.mkdir()
    (folders["watch"] / "sitecustomize.py").write_text(WATCH)
    addresses = tmp_path / "addresses"
    done = subprocess.run(
        [RETRAIN, "run", "breast_cancer", "--json"],
        cwd=folders["work"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folders["home"]),
            "TMPDIR": str(folders["temporary"]),
            "RETRAIN_HOME": str(folders["retrain"]),
            "PYTHONPATH": str(folders["watch"]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "WATCH_FILE": str(addresses),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decision"] == "FIRST"
    for name in ("home", "work", "temporary"):
        left = sorted(str(path.relative_to(folders[name])) for path in folders[name].rglob("*"))
        assert left == [], f"left in {name}"
    seen = set(addresses.read_text().splitlines())
    assert any("socket.connect" in line for line in seen)
    assert [line for line in seen if not any(host in line for host in LOOPBACK)] == []
