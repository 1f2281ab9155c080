"""Golden answers: what a night answered, without keys and clocks, kept in files and compared to the last bit.

Floating-point sums end in other bits where the processor has other vector instructions, so that every kind of processor
has a folder of its own below `tests/golden`. The environment variable RETRAIN_RECORD_GOLDEN=1 writes the files anew.

Nothing here depends on where our code lies: what is compared comes from the ledger, from MLflow and from the files of
the registered model.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from threadpoolctl import threadpool_info

from ml.digests import digest_bytes, digest_value
from ml.reporting import page
from ml.settings import Settings
from ml.storage.ledger import NightEntry
from ml.storage.records import Registered
from ml.storage.registry import Registry
from ml.storage.store import open_store

FOLDER = Path(__file__).parent / "golden"
RECORD = "RETRAIN_RECORD_GOLDEN=1 .venv/bin/pytest -m 'slow or not slow' tests/flows/test_golden.py"
WIDTH = 150
LONGEST_LIST = 12  # a longer list is kept by its digest
WORK = ("reused", "computed")
NO_ANSWERS = ("run_key", "mlflow_run", "seconds", "replayed", *WORK)  # they differ between two runs with equal answers
REFIT = ("refit", "serves")  # golden nights are of judged models, none of which is refitted
SERVED = ("constant", "promise", "served")  # what serves on later days; tests/flows/test_served.py holds it
WORDS = ("reason", "why", "question", "description")


def instruction_set() -> str:
    """What decides the last bits of a sum: the processor's maker, by which torch's MKL chooses, the vector instructions
    that torch and the BLAS of numpy and scipy chose, and whether a GPU trains."""
    import torch

    blas = {pool["architecture"].lower() for pool in threadpool_info() if pool["internal_api"] == "openblas"}
    chosen = [platform.machine(), _maker(), torch.backends.cpu.get_cpu_capability().lower(), *sorted(blas)]
    chosen += ["cuda"] if torch.cuda.is_available() else []
    return "-".join(chosen).replace(" ", "_")


def _maker() -> str:
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else []
    return next((line.partition(":")[2].strip().lower() for line in lines if line.startswith("vendor_id")), "unknown")


def compare(name: str, answers: dict[str, Any]) -> None:
    """Fails with the first difference to the golden answers of this kind of processor; skips where it has none."""
    folder = FOLDER / instruction_set()
    if not os.environ.get("RETRAIN_RECORD_GOLDEN") and not folder.exists():
        pytest.skip(f"there are no golden answers for {folder.name} yet: {RECORD} records them")
    compare_with(folder / f"{name}.json", answers)


def compare_with(file: Path, answers: dict[str, Any]) -> None:
    """Fails with the first difference to the file's answers. Recording writes the file first."""
    text = pretty(answers) + "\n"
    if os.environ.get("RETRAIN_RECORD_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.exists(), f"{file.name} was never recorded: {RECORD} records it"
    found = list(differences(json.loads(file.read_text(encoding="utf-8")), json.loads(text)))
    assert not found, f"{len(found)} answers of {file.stem} differ from the golden ones; the first is {found[0]}"


def differences(golden: Any, now: Any, place: str = "") -> Iterator[str]:
    """Every difference of two JSON values, with its place: `second.scores.champion.f1.low was 0.71 and is 0.72`."""
    if isinstance(golden, dict) and isinstance(now, dict):
        for name in sorted({*golden, *now}):
            yield from differences(golden.get(name, "absent"), now.get(name, "absent"), f"{place}.{name}".lstrip("."))
    elif isinstance(golden, list) and isinstance(now, list) and len(golden) == len(now):
        for number, (before, after) in enumerate(zip(golden, now, strict=True)):
            yield from differences(before, after, f"{place}[{number}]")
    elif type(golden) is not type(now) or golden != now:
        yield f"{place}, which was {json.dumps(golden)} and is {json.dumps(now)}"


def pretty(value: Any, indent: int = 0) -> str:
    """Sorted, strict JSON, in which whatever fits into a line stands in one. Floats are written so that they are read
    back to the last bit."""
    line = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)
    if len(line) + indent <= WIDTH or not isinstance(value, dict | list):
        return line
    inner = " " * (indent + 1)
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}: {pretty(value[name], indent + 1)}" for name in sorted(value)]
        return "{\n" + ",\n".join(inner + part for part in parts) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(inner + pretty(each, indent + 1) for each in value) + "\n" + " " * indent + "]"


def series(values: list[Any]) -> Any:
    """The values; of many, how many they are, the first, the last and the digest of all."""
    if len(values) <= LONGEST_LIST:
        return values
    return {"count": len(values), "first": values[0], "last": values[-1], "digest": digest_value(values)}


def tensors(weights: bytes) -> dict[str, str]:
    """Every tensor of a safetensors file by its name: shape, sum and digest of its bytes."""
    found = load_tensors(weights)
    return {name: _tensor(found[name]) for name in sorted(found)}


def _tensor(values: Any) -> str:
    return f"{list(values.shape)} sum {float(np.sum(values, dtype=np.float64))!r} {digest_bytes(values.tobytes())[:32]}"


def night_answers(settings: Settings, entry: NightEntry) -> dict[str, Any]:
    """All that a night of the ledger answered: numbers under `answers`, sentences under `words`, and under `work` what
    each stage had kept and what it made."""
    document = {name: value for name, value in entry.result.items() if name not in (*NO_ANSWERS, *REFIT, *SERVED)}
    document["snapshot"] = {name: value for name, value in document["snapshot"].items() if name != "digest"}
    candidate = entry.candidate
    assert candidate is not None
    files = _files(settings, candidate)
    comparable = {
        "target": candidate.target_digest, "split": candidate.split_digest, "fit_until": candidate.fit_until,
        "reference": entry.reference.version if entry.reference else None,
    }  # fmt: skip
    return {
        "answers": _without_words(document) | {
            "comparable": comparable,
            "model": model_answers(*(json.loads(files[name]) for name in ("model.json", "network.json"))),
            "weights": tensors(files["weights.safetensors"]),
            "mlflow": _mlflow(Registry(settings, entry.use_case), candidate.run_id),
        },
        "words": {**dict(_words(document)), "report": _report(entry.result)},
        "work": {name: entry.result[name] for name in WORK},
    }  # fmt: skip


def refit_answers(settings: Settings, entry: NightEntry) -> dict[str, Any]:
    """What the refit of a night is: its rows, its weights, what it is said to serve, and the threshold and calibration,
    which are those of the judged model."""
    assert entry.candidate is not None
    assert entry.candidate.refit is not None
    judged, refit = (_files(settings, version) for version in entry.candidate.versions)
    outputs = [json.loads(files["model.json"])["output"] for files in (judged, refit)]
    assert outputs[0] == outputs[1]
    return {
        **{name: entry.result[name] for name in REFIT},
        "output": outputs[1],
        "weights": tensors(refit["weights.safetensors"]),
    }


def _files(settings: Settings, version: Registered) -> dict[str, bytes]:
    """The files of a version by their names."""
    store = open_store(settings.store)
    return {file.key.rpartition("/")[2]: store.get(file.key) or b"" for file in version.files}


def model_answers(contents: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, Any]:
    """What a packaged network's two descriptions hold, its long lists by digest, in the form of 2026-11-27: there was
    one description then, with the scale of a regression beside the threshold."""
    categories = [{**each, "values": series(each["values"])} for each in network["categories"]]
    digests = {f"{name}_digest": digest_value(contents[name]) for name in ("columns", "rules")}
    output = {**contents["output"], "mean": network["mean"], "std": network["std"]}
    rest = {name: contents[name] for name in ("threads", "time_zone")}
    kept = {name: network[name] for name in ("numbers", "architecture")}
    return {**rest, **kept, **digests, "output": output, "categories": categories}


def _mlflow(registry: Registry, run_id: str) -> dict[str, Any]:
    """The metrics of the run with all their steps, and its parameters."""
    run = registry.client.get_run(run_id)
    histories = {name: registry.client.get_metric_history(run_id, name) for name in run.data.metrics}
    steps = {
        name: series([point.value for point in sorted(of, key=lambda point: point.step)])
        for name, of in histories.items()
    }
    return {"metrics": steps, "params": dict(run.data.params)}


def _report(result: Mapping[str, Any]) -> list[str]:
    """The report's lines without the seconds of its stages, and without its last line, which names keys."""
    *lines, _ = page.markdown({**result, "seconds": {}, **dict.fromkeys((*REFIT, *SERVED))}).splitlines()
    return lines


def _without_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_words(part) for name, part in value.items() if name not in WORDS}
    return [_without_words(part) for part in value] if isinstance(value, list) else value


def _words(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every sentence of a document, by its place."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name in WORDS and part is not None:
                yield f"{place}.{name}".lstrip("."), part
            else:
                yield from _words(part, f"{place}.{name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _words(part, f"{place}[{number}]")
