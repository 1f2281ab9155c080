"""What torch says of this machine, kept so that a night with nothing new need not import it (1.3 s).

Torch alone answers. Its answer is kept under a digest of all that it comes from: this boot, the processor, the devices
and their drivers, the installed torch, and the variables that it reads. Where the system does not tell these, it is
asked every time.
"""

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ml.digests import digest_value, sealed, unsealed, write_whole
from ml.storage.json_form import from_json, to_json

BOOT, PROCESSOR = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/cpuinfo")
DEVICES = (("/dev", "nvidia*"), ("/dev", "dxg"), ("/proc/driver/nvidia/gpus", "*"), ("/proc/driver/nvidia", "version"))
ASKED = ("ATEN_", "CUDA_", "NVIDIA_", "PYTORCH_", "LD_LIBRARY_PATH")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`device` is `cuda` where there is one, else `cpu`. `instructions` are the CPU's for vectors: another kind sums in
    another order, and answers must be equal to the last bit."""

    device: str
    instructions: str


@dataclass(frozen=True, kw_only=True)
class KeptAnswer:
    seen: str
    machine: Machine


def this_machine(home: Path) -> Machine:
    """Torch's answer, or the kept one. A process that has torch asks it."""
    path, seen = home / "cache" / "machine.json", _seen()
    kept = None if seen is None else _read(path)
    if kept is not None and kept.seen == seen and "torch" not in sys.modules:
        return kept.machine
    machine = ask_torch()
    if seen is not None and kept != (now := KeptAnswer(seen=seen, machine=machine)):
        write_whole(path, sealed(to_json(now)))
    return machine


def ask_torch() -> Machine:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Machine(device=device, instructions=torch.backends.cpu.get_cpu_capability())


def _read(path: Path) -> KeptAnswer | None:
    try:
        body = unsealed(path.read_bytes())
        return None if body is None else from_json(KeptAnswer, body)
    except (OSError, ValueError):
        return None


def _seen() -> str | None:
    """Digest of what the answer comes from; None where this system does not tell it."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    try:
        boot, processor = BOOT.read_text(), PROCESSOR.read_text().split("\n\n")[0]
    except OSError:
        return None
    kind = [line for line in processor.splitlines() if line.startswith(("model name", "flags", "Features"))]
    devices = [str(path) for folder, name in DEVICES for path in sorted(Path(folder).glob(name))]
    asked = {name: value for name, value in sorted(os.environ.items()) if name.startswith(ASKED)}
    built = Path(torch.origin).with_name("version.py").read_text()
    return digest_value([boot, kind, devices, asked, torch.origin, built])
