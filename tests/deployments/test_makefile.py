"""The Makefile's set-up: what it shows while packages are installed, with a stand-in for Python and pip."""

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
mkdir -p .venv/bin
printf '#!/bin/sh\necho "pip $*"\n' > .venv/bin/pip
chmod +x .venv/bin/pip
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.lock", "requirements-data.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def set_up(checkout: Path, *, on_a_terminal: bool) -> list[str]:
    """What `make setup` writes."""
    ours, its = pty.openpty() if on_a_terminal else os.pipe()
    try:
        make = ["make", "setup", f"PYTHON={checkout / 'python'}"]
        subprocess.run(make, cwd=checkout, stdout=its, stderr=subprocess.PIPE, check=True)
        return os.read(ours, 65536).decode().splitlines()
    finally:
        os.close(ours)
        os.close(its)


@pytest.mark.parametrize("on_a_terminal", [True, False], ids=["terminal", "pipe"])
def test_the_installation_tells_of_each_package_on_a_terminal_and_is_quiet_in_a_pipe(
    checkout: Path, on_a_terminal: bool
) -> None:
    lines = set_up(checkout, on_a_terminal=on_a_terminal)
    installs = [line for line in lines if line.startswith("pip install")]
    assert ["--quiet" in line for line in installs] == [not on_a_terminal] * 3
    assert [line[:6] for line in lines if " of 3: " in line] == ["1 of 3", "2 of 3", "3 of 3"]
    assert [line.split()[-1] for line in installs] == ["requirements.lock", "requirements-data.txt", "."]
