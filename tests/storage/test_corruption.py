"""One flipped bit in anything that a night reads back: found by its digest, made again, said, and nothing else changes.

What serves is in `tests/deployments/test_doctor.py`: a damaged champion answers nobody.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ml.digests
import ml.pipeline.opening
import ml.pipeline.validate
from ml.digests import KeptDigests, digest_bytes
from ml.errors import Corrupt, DataRejected
from ml.models.training import StoredDiary
from ml.storage import paths
from tests.damage import FILES, HANDLES, KINDS, READ_FOR, flip, judged_night, spoil_all
from tests.story import Shop


@pytest.fixture
def bad_rows(shop: Shop) -> Shop:
    """A shop of which some rows are set aside, and so a quarantine is kept."""
    amount = pd.read_parquet(shop.file("2024-03-13"))["amount"].copy()
    amount[:3] = -5.0
    shop.rewrite("2024-03-13", amount=amount)
    return shop


def resumed_over(
    shop: Shop, kinds: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> tuple[dict[str, Any], list[str]]:
    """The same night over one damaged object of each kind, and the keys of those that no line of the log names."""
    spoilt = [key for kind in kinds for key in spoil_all(shop, kind, flip)]
    caplog.clear()
    with caplog.at_level("WARNING", "retrain"):
        again = judged_night(shop, monkeypatch)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("retrain")]
    assert bool(said) == bool(kinds), "a night over nothing damaged warns of nothing"
    return again, [key for key in spoilt if not any(key in line for line in said)]


@pytest.mark.slow
def test_flipped_bits_are_found_and_the_night_ends_as_undisturbed(
    bad_rows: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In all kinds of files at once, then in all that point to them."""
    undisturbed = judged_night(bad_rows, monkeypatch)
    assert undisturbed["quarantined_rows"] == 3
    assert resumed_over(bad_rows, [*FILES], monkeypatch, caplog) == (undisturbed, [])
    assert resumed_over(bad_rows, [*HANDLES], monkeypatch, caplog) == (undisturbed, [])
    assert resumed_over(bad_rows, [], monkeypatch, caplog) == (undisturbed, [])


@pytest.mark.slow
def test_a_flipped_bit_in_one_kind_alone_is_found(
    bad_rows: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Alone but for what has it read, so that nothing that is made again anyway hides it."""
    undisturbed = judged_night(bad_rows, monkeypatch)
    for kind in KINDS:
        assert resumed_over(bad_rows, [kind, *READ_FOR.get(kind, [])], monkeypatch, caplog) == (undisturbed, []), kind


@pytest.mark.slow
def test_a_flipped_bit_in_a_checkpoint_is_found(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[bytes] = []
    monkeypatch.setattr(StoredDiary, "save", lambda self, checkpoint: taken.append(checkpoint))
    undisturbed = judged_night(shop, monkeypatch)
    store, key = Path(shop.settings.store), paths.checkpoint("shop", shop.entries()[-1].training_key)
    for spoil, words in ((bytes, "Resumed after epoch 1 of 4."), (flip, "The checkpoint is damaged")):
        for handle in store.glob("stages/shop/train/*.json"):
            handle.unlink()
        (store / key).write_bytes(spoil(taken[0]))
        caplog.clear()
        with caplog.at_level("INFO", "retrain"):
            assert judged_night(shop, monkeypatch) == undisturbed
        assert words in caplog.text


def test_a_source_partition_that_changes_after_the_snapshot_rejects_the_night(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = ml.pipeline.opening.survey

    def take_and_flip(*args: Any) -> Any:
        taken = take(*args)
        file = shop.file("2024-03-02")
        file.write_bytes(flip(file.read_bytes()))
        return taken

    monkeypatch.setattr(ml.pipeline.opening, "survey", take_and_flip)
    with pytest.raises(DataRejected, match=r"2024-03-02\.parquet changed since the snapshot"):
        shop.night("2024-03-15")
    assert shop.entries() == []


def test_a_manifest_that_changes_during_the_night_ends_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ml.pipeline.validate.read_manifest

    def flip_and_read(*args: Any) -> Any:
        spoil_all(shop, "manifest", flip)
        return read(*args)

    monkeypatch.setattr(ml.pipeline.validate, "read_manifest", flip_and_read)
    with pytest.raises(Corrupt, match="must have the bytes that its name says"):
        shop.night("2024-03-15")


def test_a_flipped_bit_among_the_kept_digests_has_every_file_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Believed, it would reject a source that never changed, night after night."""
    monkeypatch.setattr(ml.digests, "RACY_NS", 0)
    source, kept = tmp_path / "a", tmp_path / "digests.json"
    source.write_bytes(b"rows")
    stats = {str(source): source.stat()}

    def digest(digests: KeptDigests) -> Any:
        return digests.of("2024-03", "", stats, lambda files: files.of(str(source), stats[str(source)]))

    digests = KeptDigests(kept)
    digest(digests)
    digests.save()
    assert KeptDigests(kept).kept
    whole = kept.read_bytes()
    for place in range(len(whole)):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert digest(KeptDigests(kept)) == digest_bytes(b"rows")
