"""The data stages of nights one after another: what is reused, what is computed, and what damage does."""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import expectations.suite
import ml.data.window_sums
import ml.pipeline.clean
import ml.pipeline.site
import ml.pipeline.validate
import tasks.data
from expectations.suite import Verdict
from ml import UseCase, errors
from ml.code import Code
from ml.data.cleaning import LABEL
from ml.data.handles import Checks, Cleaned, CleanedPartition, Manifest, Snapshot, Split
from ml.data.statistics import Statistics
from ml.data.validation import Batch, Fact
from ml.errors import Busy, ConfigError, DataRejected, SourceUnavailable
from ml.models.encoding import fit_encoder
from ml.operations.moves import plan_include
from ml.pipeline import partitions
from ml.pipeline.site import Site
from ml.serving.features import Encoder
from ml.settings import Settings
from ml.storage.json_form import from_json
from ml.storage.locks import held_lock, in_turns, run_lock
from ml.storage.records import Night
from ml.storage.store import DiskStore, get_file
from tasks.site import open_site
from tests import tiny
from tests.story import FIRST_DAY, Shop, open_shop, shop_day

AS_OF, NEXT = date(2024, 1, 16), date(2024, 1, 17)
DAYS = 14  # of the window


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Seventeen days, of which a window takes fourteen: seven to train on, three for validation, four for test."""
    shop = open_shop(tmp_path, monkeypatch)
    edit_use_case(shop, "    gates=(", "    window_days=14, test_days=4, validation_days=3,\n    gates=(")
    for file in shop.settings.data.glob("shop/*.parquet"):
        if file.stem >= str(NEXT):
            file.unlink()
    return shop


def site() -> Site:
    return open_site("shop")


def opened(as_of: date = AS_OF) -> Night:
    return tiny.night_of(site(), as_of)


class Done:
    """The handles of a night's data stages."""

    def __init__(self, as_of: date = AS_OF) -> None:
        night = opened(as_of)
        self.snapshot: Snapshot = tasks.data.take_snapshot.fn(night)
        self.checks: Checks = tasks.data.validate_partitions.fn(night, self.snapshot)
        self.cleaned: Cleaned = tasks.data.clean_partitions.fn(night, self.snapshot, self.checks)
        self.split: Split = tasks.data.split_rows.fn(night, self.cleaned)
        self.as_of = as_of

    @property
    def encoder(self) -> Encoder:
        """The encoder that a network would fit to the train rows."""
        return fit_encoder(site().use_case, from_json(Statistics, get_file(site().store, self.split.statistics)))

    @property
    def work(self) -> list[tuple[int, int]]:
        """Reused and computed: verdicts, cleaned rows, statistics of days."""
        return [(h.work.reused, h.work.computed) for h in (self.checks, self.cleaned, self.split)]

    @property
    def found(self) -> tuple[Any, ...]:
        """All that must be equal however it was come by."""
        parts = [getattr(self.split, part) for part in ("train", "validation", "test")]
        return (
            self.snapshot.digest,
            self.checks.digest,
            self.cleaned.digest,
            self.split.test_digest,
            self.encoder,
            parts,
        )

    def raw_rows(self, part: Any) -> pd.DataFrame:
        return site().reader(self.cleaned).raw_rows(self.as_of, part)


def forget_all(shop: Shop) -> None:
    """As on a machine that has done nothing yet."""
    for path in Path(shop.settings.store).rglob("*"):
        if path.is_file():
            path.unlink()


def edit_use_case(shop: Shop, old: str, new: str) -> None:
    assert shop.settings.project is not None
    file = shop.settings.project / "use_cases" / "shop.py"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_a_new_day_costs_a_day_and_gives_the_bits_of_a_run_from_scratch(shop: Shop) -> None:
    """The window slides over every part; a sum of what came and went is that of all days."""
    assert Done().work == [(0, DAYS)] * 3
    slid = Done(NEXT)
    assert slid.work == [(DAYS - 1, 1)] * 3
    assert Done(NEXT).work == [(DAYS, 0)] * 3
    forget_all(shop)
    scratch = Done(NEXT)
    assert scratch.work == [(0, DAYS)] * 3
    assert scratch.found == slid.found


def test_a_corrected_day_costs_that_day(shop: Shop) -> None:
    before = Done()
    shop.rewrite("2024-01-05", amount=7.0)
    after = Done()
    assert after.snapshot.changed_days == ()  # no night was finished
    assert after.work == [(DAYS - 1, 1)] * 3
    assert after.found != before.found
    forget_all(shop)
    assert Done().found == after.found


def test_other_rules_judge_again_and_clean_nothing(shop: Shop) -> None:
    """Only the state of a day of which other rows are set aside is made again."""
    shop.rewrite("2024-01-06", amount=np.where(np.arange(60) < 3, 9999.0, 50.0))
    assert Done().checks.quarantined == 0
    edit_use_case(shop, 'name="amount", minimum=0,', 'name="amount", minimum=0, maximum=9000,')
    strict = Done()
    assert strict.checks.quarantined == 3
    assert strict.work == [(0, DAYS), (DAYS, 0), (DAYS - 1, 1)]
    assert not strict.raw_rows("train")["amount"].eq(9999.0).any()
    forget_all(shop)
    assert Done().found == strict.found


def test_another_cleaner_cleans_again_and_judges_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Done()
    digest = partitions.state_code_digest
    monkeypatch.setattr(
        ml.pipeline.partitions, "state_code_digest", lambda kind: digest(kind) + "x" * (kind == "cleaned")
    )
    after = Done()
    assert after.work[:2] == [(DAYS, 0), (0, DAYS)]
    assert after.found == before.found


def test_rows_are_read_once_for_verdict_and_cleaning(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partition that is rejected has no cleaned rows; one whose cleaned rows are there is not cleaned again."""
    shop.rewrite("2024-01-06", amount=np.where(np.arange(60) < 30, -1.0, 50.0))
    days, read = Counter[str](), partitions.read_partition

    def counted(settings: Settings, use_case: UseCase, manifest: Manifest, day: str) -> Any:
        days.update([day])
        return read(settings, use_case, manifest, day)

    monkeypatch.setattr(partitions, "read_partition", counted)
    first = Done()
    assert list(first.checks.left_out) == ["2024-01-06"]
    assert set(days.values()) == {1} and len(days) == DAYS
    assert [path.parent.name for path in stored(shop, "*/cleaned.json")] == sorted(
        key for month in first.cleaned.months.values() for key in month.by_key(CleanedPartition)
    )
    written = {path: path.stat().st_mtime_ns for path in stored(shop, "*/block.arrow")}
    edit_use_case(shop, 'name="amount", minimum=0,', 'name="amount", minimum=0, maximum=9000,')
    assert Done().work[0] == (0, DAYS)
    assert {path: path.stat().st_mtime_ns for path in stored(shop, "*/block.arrow")} == written


READ_AGAIN, COUNTED_AGAIN = "is read again", "are taken again"


@pytest.mark.parametrize(
    ("kinds", "edit", "said"),
    [
        (["verdict"], ("", ""), READ_AGAIN),
        (["verdict", "cleaned", "statistics"], ("", ""), READ_AGAIN),
        (["statistics"], ("", ""), COUNTED_AGAIN),
        ([], ('"amount", minimum=0', '"amount", minimum=1'), READ_AGAIN),
        ([], ('values=("DE", "FR", "US")', 'values=("DE", "FR", "US"), feature=False'), COUNTED_AGAIN),
        ([], ("batch_size=256", "batch_size=128"), None),
    ],
)
def test_what_is_made_again_because_keys_changed_is_said_once(
    kinds: list[str],
    edit: tuple[str, str],
    said: str | None,
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def messages() -> list[str]:
        caplog.clear()
        Done()
        return [text for text in caplog.messages if READ_AGAIN in text or COUNTED_AGAIN in text]

    assert messages() == [], "nothing was there before"
    digest = partitions.state_code_digest
    for module in (partitions, ml.data.window_sums):
        monkeypatch.setattr(module, "state_code_digest", lambda kind: digest(kind) + "x" * (kind in kinds))
    if kinds:
        monkeypatch.setattr(ml.pipeline.site, "training_code", lambda learner: Code(("ml/errors.py",)))
    edit_use_case(shop, edit[0], edit[1])
    now = messages()
    assert len(now) == (said is not None)
    assert said is None or said in now[0]
    assert messages() == []
    shop.rewrite("2024-01-06", amount=3.0)
    assert messages() == [], "other data are no other code"


def stored(shop: Shop, pattern: str) -> list[Path]:
    return sorted(Path(shop.settings.store).glob(f"partitions/shop/{pattern}"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


DAMAGE: list[Callable[[Path], None]] = [Path.unlink, lambda path: path.write_bytes(b"") and None]


KEPT = [
    "verdict.json", "cleaned.json", "sums.json", "*/statistics.json", "*/block.arrow", "*/quarantine.parquet", "**/*",
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "spoil"), [*((p, flip) for p in KEPT), *((KEPT[-1], spoil) for spoil in DAMAGE)])
def test_damage_is_found_said_and_mended(
    shop: Shop, pattern: str, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is damaged between two nights, the second gives what a run from scratch gives."""
    shop.rewrite("2024-01-06", amount=np.where(np.arange(60) < 3, -1.0, 50.0))
    Done()
    files = [path for path in stored(shop, pattern) if path.is_file()]
    assert files
    for path in files:
        spoil(path)
    with caplog.at_level(logging.WARNING):
        after = Done(NEXT)
        rows = after.raw_rows("train")
    if spoil is flip:
        assert "made again" in caplog.text or "from scratch" in caplog.text
    assert not rows["amount"].eq(-1.0).any()
    forget_all(shop)
    scratch = Done(NEXT)
    assert after.found == scratch.found
    pd.testing.assert_frame_equal(rows, scratch.raw_rows("train"), check_exact=True)


def test_a_lost_block_whose_source_has_changed_is_refused(shop: Shop) -> None:
    done = Done()
    for path in stored(shop, "*/block.arrow"):
        path.unlink()
    shop.rewrite("2024-01-06", amount=1.0)
    with pytest.raises(DataRejected, match="changed since the snapshot"):
        done.raw_rows("train")


def test_a_night_with_one_new_day_makes_few_calls_to_the_store(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    Done()
    calls: list[str] = []
    for name in ("get", "put", "create", "keys"):
        method = getattr(DiskStore, name)
        monkeypatch.setattr(DiskStore, name, lambda *a, m=method, n=name: calls.append(f"{n} {a[1]}") or m(*a))
    Done(NEXT)
    assert len(calls) < 40, calls


def test_two_dates_at_once_judge_and_clean_every_partition_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that all is lacking when the first begins."""
    both, turns = threading.Barrier(2, timeout=60), partitions.in_turns
    judged, cleaned = Counter[str](), Counter[str]()
    check, clean = ml.pipeline.validate.check_batch, ml.pipeline.clean.clean

    def together(*args: Any) -> Any:
        both.wait()
        return turns(*args)

    def counted_verdicts(use_case: UseCase, rules: Any, batch: Batch) -> Any:
        judged.update(list(batch.places))
        return check(use_case, rules, batch)

    def counted(use_case: UseCase, rows: pd.DataFrame) -> pd.DataFrame:
        cleaned.update({str(rows["bought_at"].max().date())})
        return clean(use_case, rows)

    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as threads:
        patched.setattr(partitions, "in_turns", together)
        patched.setattr(ml.pipeline.validate, "check_batch", counted_verdicts)
        patched.setattr(ml.pipeline.clean, "clean", counted)
        dates = [threads.submit(Done, as_of) for as_of in (AS_OF, NEXT)]
        found = [date.result().found for date in dates]
    assert len(judged) == len(cleaned) == DAYS + 1
    assert set(judged.values()) == set(cleaned.values()) == {1}
    forget_all(shop)
    assert found == [Done().found, Done(NEXT).found]


def test_a_month_that_another_run_works_on_comes_last(shop: Shop) -> None:
    home, seen = shop.settings.home, list[str]()
    with ExitStack() as other:
        busy = Busy("a lock is free", "it is held", "wait")
        other.enter_context(held_lock(run_lock(home, "data-shop.2024-01"), 0, busy))
        for month in in_turns(home, "shop", ["2024-01", "2024-02", "2024-03"]):
            seen.append(month)
            if len(seen) == 2:
                other.close()
    assert seen == ["2024-02", "2024-03", "2024-01"]


def test_rows_that_become_known_later_are_in_no_part_before(shop: Shop) -> None:
    """`known_at_column`: of a day some rows, and on a later night all of them."""
    edit_use_case(shop, '    key=("basket",),', '    key=("basket",),\n    known_at_column="told_at",')
    told_at = 'Column(name="told_at", type="timestamp", feature=False)'
    edit_use_case(shop, '        Column(name="amount"', f'        {told_at},\n        Column(name="amount"')
    for file in shop.settings.data.glob("shop/*.parquet"):
        rows = pd.read_parquet(file)
        rows.assign(told_at=rows["bought_at"]).to_parquet(file)
    told = pd.read_parquet(shop.file("2024-01-05"))["bought_at"].where(
        np.arange(60) >= 25, pd.Timestamp("2024-01-16 08:00")
    )
    shop.rewrite("2024-01-05", told_at=told)
    first, second = Done(), Done(NEXT)
    by_day = [done.raw_rows("train")["day__"].value_counts()["2024-01-05"] for done in (first, second)]
    assert by_day == [35, 60]
    assert first.split.train.rows == len(first.raw_rows("train"))
    assert second.split.train.rows == len(second.raw_rows("train"))
    forget_all(shop)
    assert Done(NEXT).found == second.found


def test_the_same_bytes_under_another_ending_are_judged_anew(shop: Shop) -> None:
    wrong = shop.file("2024-01-14")
    pd.read_parquet(wrong).to_csv(wrong.with_suffix(".csv"), index=False)
    wrong.with_suffix(".csv").replace(wrong)
    assert [day for day, _ in Done().checks.left_out.items()] == ["2024-01-14"]
    wrong.replace(wrong.with_suffix(".csv"))
    assert Done().checks.left_out == {}


def test_a_month_with_a_row_that_becomes_known_later_is_counted_once(shop: Shop) -> None:
    """Night after night, while its other days stay as they are."""
    edit_use_case(shop, '    key=("basket",),', '    key=("basket",),\n    known_at_column="told_at",')
    edit_use_case(shop, "window_days=14", "window_days=70")
    told_at = 'Column(name="told_at", type="timestamp", feature=False)'
    edit_use_case(shop, '        Column(name="amount"', f'        {told_at},\n        Column(name="amount"')
    days = [FIRST_DAY + timedelta(days=number) for number in range(72)]
    for each in days:
        rows = shop_day(each)
        late = (np.arange(len(rows)) == 7) & (each == date(2024, 2, 10))
        told = rows["bought_at"].mask(late, pd.Timestamp("2025-01-01"))
        rows.assign(told_at=told).to_parquet(shop.file(str(each)))
    nights = [Done(days[-1] + timedelta(days=number)) for number in (-1, 0, 1)]
    assert [night.split.train.rows for night in nights] == [len(night.raw_rows("train")) for night in nights]
    forget_all(shop)
    assert Done(days[-1] + timedelta(days=1)).found == nights[-1].found


def test_one_file_goes_to_three_parts(shop: Shop) -> None:
    dated = ('    time_column="bought_at",\n', "    replay_from=date(2024, 3, 1),\n")
    for old in (*dated, "    window_days=14, test_days=4, validation_days=3,\n"):
        edit_use_case(shop, old, "")
    days = sorted(shop.settings.data.glob("shop/*.parquet"))
    rows = pd.concat([pd.read_parquet(path) for path in days], ignore_index=True)
    for path in days:
        path.unlink()
    rows.to_parquet(shop.settings.data / "shop" / "all.parquet")
    done = Done()
    assert done.work == [(0, 1), (0, 1), (0, 3)]
    assert Done(NEXT).work == [(1, 0), (1, 0), (3, 0)]
    parts = {part: done.raw_rows(part) for part in ("train", "validation", "test")}
    assert sorted(pd.concat(parts.values())["basket"]) == sorted(rows["basket"])
    assert [done.split.train.rows, done.split.test.rows] == [len(parts["train"]), len(parts["test"])]
    share = parts["test"][LABEL].mean()
    assert done.split.test.positive_share == pytest.approx(share)


def test_constants_are_learnt_from_train_rows_only(shop: Shop) -> None:
    done = Done()
    train = done.raw_rows("train")
    assert train["day__"].max() < done.raw_rows("validation")["day__"].min()
    encoder = done.encoder
    assert encoder.numbers[0].mean == pytest.approx(train["amount"].mean(), rel=1e-12)
    assert encoder.numbers[0].std == pytest.approx(train["amount"].std(ddof=0), rel=1e-12)


def test_partitions_are_judged_in_batches_of_bounded_size(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    judge = expectations.suite.verdicts

    def counted(facts: list[Fact]) -> list[Verdict]:
        sizes.append(facts[0].rows)
        return judge(facts)

    shop.rewrite("2024-01-14", country=None)  # refused as it is read
    whole = Done().found
    forget_all(shop)
    monkeypatch.setattr(expectations.suite, "verdicts", counted)
    monkeypatch.setattr(ml.pipeline.validate, "_size", len)
    monkeypatch.setattr(Settings, "batch_bytes", 300)  # rows of five days
    assert Done().found == whole
    assert sizes == [300, 300, 180]


def test_counts_on_which_great_expectations_differs_stop_the_night(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expectations.suite, "verdicts", lambda facts: [Verdict(False, 1)] * len(facts))
    with pytest.raises(ConfigError, match="agree on"):
        Done()
    assert not stored(shop, "*/verdict.json")


UNFORESEEN: list[Exception] = [
    RecursionError("deep"), NotImplementedError("extension<x>"), KeyError("pandas"), OverflowError("year"),
    TypeError("unhashable"), AttributeError("no such"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
]  # fmt: skip


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_whatever_an_odd_file_makes_a_library_raise_costs_its_day_only(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, "2024-01-06", error)
    left_out = Done().checks.left_out
    words = " ('utf-8' codec can't decode byte 0xff in position 0: invalid)" if "codec" in str(error) else ""
    assert left_out == {"2024-01-06": f"reading it ends in {type(error).__name__} in column amount{words}"}


METADATA = {
    "deep": b"[" * 100_000,
    "false": b'{"index_columns": ["nowhere"], "columns": [], "column_indexes": []}',
    "of another kind": b'{"index_columns": [{"kind": "range"}], "columns": 3}',
    "no JSON": b"\xff",
}


@pytest.mark.parametrize("metadata", METADATA)
def test_false_metadata_cost_no_other_day(shop: Shop, metadata: str) -> None:
    """Whether they can be read all the same or not."""
    file = shop.file("2024-01-06")
    table = pa.Table.from_pandas(pd.read_parquet(file)).replace_schema_metadata({b"pandas": METADATA[metadata]})
    pq.write_table(table, file)
    assert list(Done().checks.left_out) in ([], ["2024-01-06"])


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


PASSING: list[Exception] = [
    SourceUnavailable("a", "b", "c"), ConfigError("a", "b", "c"), MemoryError(), pa.lib.ArrowMemoryError(),
    OSError(5, "Input/output error"), OSError(24, "Too many open files"), ConnectionResetError(104, "reset"),
    caused_by(ValueError("x"), OSError(28, "No space left on device")), caused_by(KeyError("x"), MemoryError()),
]  # fmt: skip


def test_what_is_no_fault_of_a_file_is_no_verdict_on_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict would be kept until the file, its rules or the code that reads it change."""
    for error in PASSING:
        with monkeypatch.context() as patch, pytest.raises(errors.RetrainError) as caught:
            failing(patch, "2024-01-06", error)
            Done()
        assert caught.value is error or isinstance(caught.value, SourceUnavailable)
    assert Done().checks.left_out == {}


def failing(monkeypatch: pytest.MonkeyPatch, day: str, error: Exception) -> None:
    """Reading the day fails while our code looks at its column `amount`."""
    read = partitions.read_partition

    def odd(settings: Settings, use_case: UseCase, manifest: Manifest, wanted: str) -> Any:
        for column in use_case.columns:
            if wanted == day and column.name == "amount":
                raise error
        return read(settings, use_case, manifest, wanted)

    monkeypatch.setattr(partitions, "read_partition", odd)


LOSSES: dict[str, dict[str, Any]] = {
    "renamed": {"country": lambda rows: rows["country"].str.lower()},
    "emptied": {"reminders": lambda rows: np.nan},
    "without labels": {"days_to_pay": lambda rows: np.nan},
}


@pytest.fixture
def free_text(shop: Shop) -> Shop:
    """Its countries are not declared: what they are is known from the days before."""
    edit_use_case(shop, ', values=("DE", "FR", "US")', "")
    return shop


@pytest.mark.parametrize("loss", LOSSES)
def test_a_newest_day_that_lost_its_meaning_ends_the_night_and_may_be_accepted(free_text: Shop, loss: str) -> None:
    for day in ("2024-01-15", "2024-01-16"):
        rows = pd.read_parquet(free_text.file(day))
        free_text.rewrite(day, **{name: change(rows) for name, change in LOSSES[loss].items()})
    with pytest.raises(DataRejected, match="retrain data include shop 2024-01-15 --reason WHY") as caught:
        Done()
    assert f"{next(iter(LOSSES[loss]))}" in str(caught.value)
    assert "retrain run shop --as-of 2024-01-16" in str(caught.value)
    assert ("set label_delay_days" in str(caught.value)) is (loss == "without labels")
    with pytest.raises(DataRejected, match="2024-01-16"):
        Done(NEXT)
    accept(free_text, "2024-01-15")
    assert Done().checks.left_out == {}
    assert Done(NEXT).checks.left_out == {}


def accept(shop: Shop, day: str) -> None:
    from deployments.commands.moves import _lost_days

    entry = plan_include(shop.ledger, day, "so", _lost_days(site().store, site().use_case))
    assert shop.ledger.append(entry)


def test_an_older_day_that_lost_its_meaning_is_left_out_and_its_change_is_another_run(free_text: Shop) -> None:
    rows = pd.read_parquet(free_text.file("2024-01-12"))
    free_text.rewrite("2024-01-12", country=rows["country"].str.lower())
    before = Done()
    assert list(before.checks.left_out) == ["2024-01-12"]
    assert "100% of the rows have a value in country that was never seen before" in before.checks.left_out["2024-01-12"]
    assert not before.raw_rows("test")["country"].isin(["de", "fr", "us"]).any()
    accept(free_text, "2024-01-12")
    after = Done()
    assert (after.snapshot.digest != before.snapshot.digest, after.checks.left_out) == (True, {})
    assert after.raw_rows("test")["country"].isin(["de", "fr", "us"]).any()


def test_days_that_are_compared_give_what_a_run_from_scratch_gives(free_text: Shop) -> None:
    """Over two turns of a month, with a day that is lost, one that is accepted, and one that is corrected."""
    edit_use_case(free_text, "window_days=14", "window_days=40")
    for day in (FIRST_DAY + timedelta(days=number) for number in range(90)):
        rows = shop_day(day)
        country = rows["country"].str.lower() if day in {date(2024, 2, 3), date(2024, 3, 2)} else rows["country"]
        rows.assign(country=country).to_parquet(free_text.file(str(day)))
    for as_of in (date(2024, 2, 6), date(2024, 2, 7), date(2024, 2, 28)):
        assert list(Done(as_of).checks.left_out) == ["2024-02-03"]
    for as_of in (date(2024, 3, 5), date(2024, 3, 12)):
        assert list(Done(as_of).checks.left_out) == ["2024-02-03", "2024-03-02"]
    accept(free_text, "2024-02-03")
    found = Done(date(2024, 3, 12))
    assert found.checks.left_out == {}
    forget_verdicts(free_text)
    assert Done(date(2024, 3, 12)).found == found.found
    free_text.rewrite("2024-02-20", country="?")
    spoilt = Done(date(2024, 3, 12))
    assert list(spoilt.checks.left_out) == ["2024-02-20"]
    forget_verdicts(free_text)
    assert Done(date(2024, 3, 12)).found == spoilt.found


def forget_verdicts(shop: Shop) -> None:
    """The ledger stays: it knows what was accepted."""
    for path in stored(shop, "**/*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"amount": [np.nan] * 60}, "declare nullable=True for amount, or raise max_quarantined_fraction"),
        ({"amount": [-1.0] * 60}, "widen the limits for amount, or raise max_quarantined_fraction"),
        ({"country": ["fr"] * 60}, "declare the new values for country, or raise max_quarantined_fraction"),
        ({"country": None}, "mend the declaration in the use case"),
    ],
)
def test_a_rejection_says_what_to_declare_and_what_to_run(shop: Shop, columns: dict[str, Any], words: str) -> None:
    shop.rewrite("2024-01-15", **columns)
    with pytest.raises(DataRejected) as caught:
        Done()
    error = caught.value
    assert error.next_step.startswith("deliver shop/2024-01-15.parquet again, or ")
    assert words in error.next_step
    assert "retrain data exclude shop 2024-01-15 --reason WHY; then retrain run shop --as-of 2024-01-16" in str(error)


def test_a_class_that_is_spelt_otherwise_is_named_with_the_nearest(shop: Shop) -> None:
    shop.rewrite("2024-01-15", country="Us")
    with pytest.raises(DataRejected, match="country is 'Us', where 'US' is the nearest that may be"):
        Done()
    edit_use_case(shop, 'Column(name="amount"', 'Column(name="amount", sensitive=True')
    with pytest.raises(DataRejected, match="60 rows break 'country is one of") as caught:
        Done()
    assert "'Us'" not in str(caught.value)


def test_a_window_that_cannot_be_used_names_a_day_and_its_commands(shop: Shop) -> None:
    for number in range(4, 10):
        shop.rewrite(f"2024-01-{number:02}", amount=-1.0)
    with pytest.raises(DataRejected, match=r"for 2024-01-09, deliver shop/2024-01-09\.parquet again") as caught:
        Done()
    assert "and 1 more" in caught.value.value
    assert "retrain data exclude shop 2024-01-09" in caught.value.next_step


def test_the_rules_that_a_day_broke_that_is_left_out_are_not_counted(shop: Shop) -> None:
    shop.rewrite("2024-01-08", amount=-1.0)
    amount = pd.read_parquet(shop.file("2024-01-09"))["amount"].copy()
    amount[:2] = -5.0
    shop.rewrite("2024-01-09", amount=amount)
    checks = Done().checks
    assert (checks.quarantined, [*checks.left_out]) == (2, ["2024-01-08"])
    assert [(count.rule, count.unexpected) for count in checks.broken] == [("amount is at least 0", 2)]


def test_a_window_that_lacks_its_weekends_is_told_how_to_say_so(shop: Shop) -> None:
    for number in (6, 7, 13, 14):
        shop.file(f"2024-01-{number:02}").unlink()
    with pytest.raises(DataRejected, match='or raise max_missing_days, or set calendar="weekdays" in the use case'):
        Done()
    edit_use_case(shop, "min_rows=10,", 'min_rows=10, calendar="weekdays",')
    assert Done().checks.left_out == {}


DERIVE = "def derive(rows):\n    return rows.assign(amount=rows['amount'])\n\nUSE_CASE = UseCase(\n    derive=derive,"


@pytest.mark.parametrize("write", [tiny.to_csv, tiny.to_parquet], ids=["CSV", "Parquet"])
def test_an_undeclared_column_that_derive_is_given_in_two_types_is_told(
    shop: Shop, write: Callable[[pd.DataFrame, Path], None]
) -> None:
    """The values of a day decide the type: "007" beside "7A" is a text, and 7 where all are numbers."""
    edit_use_case(shop, "USE_CASE = UseCase(", DERIVE)
    for path in shop.settings.data.glob("shop/*.parquet"):
        codes = ["7A"] + ["007"] * 59 if path.stem == "2024-01-08" else [7] * 60
        rows = pd.read_parquet(path).assign(code=codes, colour="red", hour=3.5)
        path.unlink()
        write(rows, path.with_suffix(""))
    found = Done().checks.undeclared
    assert found.names == {"code as a number": 13, "code as text": 1, "colour as text": 14, "hour as a number": 14}
    document = {"undeclared_columns": {"days": found.days, "most": found.most, "names": found.names}}
    assert ml.reporting.data_section._undeclared_sentences(document)[1:] == [
        "derive was given code as a number (13 days) and code as text (1 day): declare the column, which gives it one "
        "type."
    ]
    edit_use_case(shop, 'Column(name="amount"', 'Column(name="code", type="text", feature=False), Column(name="amount"')
    if write is tiny.to_csv:
        assert set(Done().checks.undeclared.names) == {"colour as text", "hour as a number"}


def test_without_a_derive_undeclared_columns_have_no_type(shop: Shop) -> None:
    shop.rewrite("2024-01-08", code=7)
    assert Done().checks.undeclared.names == {"code": 1}
