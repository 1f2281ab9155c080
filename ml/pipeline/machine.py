"""Which device and CPU instructions torch uses here, kept so that a night with nothing new need not import it (1.3 s).

The answer comes from torch alone. It is kept with a digest of everything that it depends on: this boot, the processor,
the devices and their drivers, the installed torch, and the environment variables that torch reads. On a system that
does not tell all of these, torch is asked every time.
"""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ml.digests import digest_value, sealed, unsealed, write_whole
from ml.storage.json_form import from_json, to_json

BOOT, PROCESSOR = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/cpuinfo")
# Files that name GPUs and their drivers, as folder and pattern.
DEVICES = (("/dev", "nvidia*"), ("/dev", "dxg"), ("/proc/driver/nvidia/gpus", "*"), ("/proc/driver/nvidia", "version"))
# Environment variables that torch reads, by the beginnings of their names.
VARIABLES = ("ATEN_", "CUDA_", "NVIDIA_", "PYTORCH_", "LD_LIBRARY_PATH")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`device` is `cuda` if torch can use a GPU, else `cpu`. `instructions` names the CPU's vector instructions: with
    others, sums are rounded otherwise, and results must be equal to the last bit."""

    device: str
    instructions: str


@dataclass(frozen=True, kw_only=True)
class KeptAnswer:
    """Torch's answer as it is stored; `seen` is the digest of what it depends on."""

    seen: str
    machine: Machine


def this_machine(home: Path) -> Machine:
    """The kept answer if it still holds, else torch's. A process that has imported torch anyway asks torch."""
    path, causes = home / "cache" / "machine.json", _digest_of_causes()
    kept = None if causes is None else _read(path)
    if kept is not None and kept.seen == causes and "torch" not in sys.modules:
        return kept.machine
    machine = ask_torch()
    if causes is not None and kept != (now := KeptAnswer(seen=causes, machine=machine)):
        write_whole(path, sealed(to_json(now)))
    return machine


def ask_torch() -> Machine:
    """Imports torch and asks it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Machine(device=device, instructions=torch.backends.cpu.get_cpu_capability())


def _read(path: Path) -> KeptAnswer | None:
    try:
        body = unsealed(path.read_bytes())
        return None if body is None else from_json(KeptAnswer, body)
    except (OSError, ValueError):
        return None


def _digest_of_causes() -> str | None:
    """A digest of everything that torch's answer depends on; None if this system does not tell all of it."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    try:
        boot, processor = BOOT.read_text(), PROCESSOR.read_text().split("\n\n")[0]
    except OSError:
        return None
    kind = [line for line in processor.splitlines() if line.startswith(("model name", "flags", "Features"))]
    devices = [str(path) for folder, name in DEVICES for path in sorted(Path(folder).glob(name))]
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
    build = Path(torch.origin).with_name("version.py").read_text()
    return digest_value([boot, kind, devices, variables, torch.origin, build])
