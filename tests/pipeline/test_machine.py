"""What torch says of this machine: asked once, and again whenever what the answer comes from is another."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml.pipeline import machine
from ml.pipeline.machine import Machine, this_machine

HERE = Machine(device="cpu", instructions="AVX2")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A process without torch on a machine that tells what it is; every question to torch is noted."""
    questions: list[str] = []
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(machine, "ask_torch", lambda: questions.append("asked") or HERE)
    for name in ("BOOT", "PROCESSOR"):
        (tmp_path / name).write_text("processor : 0\nflags : avx2\n\nprocessor : 1\n")
        monkeypatch.setattr(machine, name, tmp_path / name)
    yield questions


def test_torch_is_asked_once(asked: list[str], tmp_path: Path) -> None:
    assert [this_machine(tmp_path), this_machine(tmp_path)] == [HERE, HERE]
    assert len(asked) == 1


@pytest.mark.parametrize("change", ["boot", "processor", "variable", "device", "file"])
def test_torch_is_asked_again_where_its_answer_may_be_another(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    monkeypatch.setattr(machine, "DEVICES", ((str(devices), "nvidia*"),))
    this_machine(tmp_path)
    if change == "boot":
        (tmp_path / "BOOT").write_text("another")
    elif change == "processor":
        (tmp_path / "PROCESSOR").write_text("processor : 0\nflags : avx512\n")
    elif change == "variable":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    elif change == "device":
        (devices / "nvidia0").touch()
    else:
        kept = tmp_path / "cache" / "machine.json"
        kept.write_bytes(kept.read_bytes().replace(b"cpu", b"gpu"))
    assert this_machine(tmp_path) == HERE
    assert len(asked) == 2


def test_a_process_that_has_torch_asks_it(asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_digest_of_causes", lambda: "as before")
    this_machine(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", machine)
    assert this_machine(tmp_path) == HERE
    assert len(asked) == 2


def test_a_system_that_does_not_tell_is_asked_every_time(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "BOOT", tmp_path / "nowhere")
    assert [this_machine(tmp_path), this_machine(tmp_path)] == [HERE, HERE]
    assert (len(asked), (tmp_path / "cache").exists()) == (2, False)


def test_torch_answers_for_this_machine() -> None:
    found = machine.ask_torch()
    assert found.device in {"cpu", "cuda"}
    assert found.instructions
