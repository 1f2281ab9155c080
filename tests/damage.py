"""What tests of damage share: nights that end just before their record, and what they have kept by then, by kind."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ml.errors import ConfigError
from ml.storage.ledger import Ledger, NightEntry
from tests.story import Shop

Spoil = Callable[[bytes], bytes]

# What a night reads back, by the pattern of its key.
FILES = {
    "quarantine": r"partitions/shop/\w+/quarantine\.parquet",
    "cleaned rows": r"partitions/shop/\w+/block\.arrow",
    "statistics of train": r"stages/shop/split/\w+/statistics\.json",
    "weights of the fit": r"stages/shop/train/\w+/model/weights\.safetensors",
    "proof": r"stages/shop/upload/\w+/proof\.parquet",
    "evidence": r"stages/shop/evaluate/\w+/evidence\.json",
    "answers": r"stages/shop/evaluate/\w+/answers\.parquet",
    "MLmodel": r"mlflow/\w+/artifacts/model/MLmodel",
    "model.json": r"mlflow/\w+/artifacts/model/data/model/model\.json",
    "weights of the model": r"mlflow/\w+/artifacts/model/data/model/kind/weights\.safetensors",
}
HANDLES = {
    "manifest": r"snapshots/shop/\w+\.json",
    "verdicts": r"partitions/shop/verdict\.json",
    "verdict": r"partitions/shop/\w+/verdict\.json",
    "cleaned partitions": r"partitions/shop/cleaned\.json",
    "handle of cleaned rows": r"partitions/shop/\w+/cleaned\.json",
    "sums": r"partitions/shop/sums\.json",
    "statistics": r"partitions/shop/\w+/statistics\.json",
    "handle of the split": r"stages/shop/split/\w+\.json",
    "handle of the fit": r"stages/shop/train/\w+\.json",
    "handle of the upload": r"stages/shop/upload/\w+\.json",
    "handle of the verification": r"stages/shop/verify/\w+\.json",
    "handle of the evaluation": r"stages/shop/evaluate/\w+\.json",
}
KINDS = FILES | HANDLES
# What is read only where something else must be made again: what that is.
READ_FOR = {
    "quarantine": ["weights of the fit", "evidence"],
    "cleaned rows": ["weights of the fit", "evidence"],
    "verdict": ["verdicts"],
    "handle of cleaned rows": ["cleaned partitions"],
    "sums": ["statistics of train"],
    "statistics": ["sums", "statistics of train"],
}


def flip(data: bytes) -> bytes:
    """One bit: of the last digit, which leaves JSON that can be read; without a digit of the middle byte."""
    places = [match.start() for match in re.finditer(rb"[1-8]", data)]
    place = places[-1] if places and data.isascii() else len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@contextmanager
def stopped_before_the_record(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[NightEntry]]:
    """Every night in the context does all but record its decision, which is added to the list instead."""
    taken: list[NightEntry] = []

    def stop(_: Ledger, entry: NightEntry) -> bool:
        taken.append(entry)
        raise ConfigError("a night is recorded", "this one is stopped before", "it is a test")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", stop)
        yield taken


def judged_night(shop: Shop, monkeypatch: pytest.MonkeyPatch, **request: Any) -> dict[str, Any]:
    """What a night would have recorded: all that must be the same if it is resumed over damage."""
    with stopped_before_the_record(monkeypatch) as taken, pytest.raises(ConfigError, match="is stopped before"):
        shop.night(**request)
    (entry,) = taken
    assert entry.candidate is not None
    varying = {"seconds", "reused", "computed"}
    return {
        **{name: value for name, value in entry.result.items() if name not in varying},
        "manifest": entry.manifest,
        "model": [(file.key, file.digest) for file in entry.candidate.files],
    }


def spoil_all(shop: Shop, kind: str, spoil: Spoil, most: int = 1) -> list[str]:
    """Spoils the first `most` kept objects of the kind; their keys."""
    store = Path(shop.settings.store)
    paths = sorted(path for path in store.rglob("*") if path.is_file())
    found = [path for path in paths if re.fullmatch(KINDS[kind], path.relative_to(store).as_posix())]
    assert found, f"a night keeps no {kind}"
    for path in found[:most]:
        data = path.read_bytes()
        path.write_bytes(spoil(data))
        assert path.read_bytes() != data
    return [path.relative_to(store).as_posix() for path in found[:most]]
