"""From every red state there is a way out, and it is what the messages say: nothing ends for ever.

Each test makes a state, reads the command that the night or the doctor advises, types it as it stands (a reason for
WHY, the newest version for N), and ends with a good night and a doctor who finds nothing.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import main
from deployments.prefect.last_night import red_nights
from ml.errors import ConfigError, Corrupt, DataRejected, RetrainError, UsageError
from ml.operations import health
from ml.operations.moves import carry_out, plan_hold, plan_promote
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import open_store
from tests.operations.test_backup import forget_connections
from tests.story import SHOP, Shop

ADVISED = re.compile(r"retrain (?:promote|rollback|doctor|run|release|hold)(?: --?[a-z-]+| [A-Z]+| [\w-]+)*")
VERBS = re.compile(r" (?:makes|restores|prevents|ends|or)\b")  # the sentence goes on behind the command


class Walk:
    """A shop with a first champion, and what its operator sees and types."""

    def __init__(self, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
        self.shop, self.capsys = shop, capsys

    @property
    def registry(self) -> Registry:
        return Registry(self.shop.settings, "shop")

    @property
    def newest(self) -> int:
        return max(version.number for version in self.registry.versions())

    def typed(self, *words: str) -> int:
        code = main(list(words))
        self.capsys.readouterr()
        return code

    def doctor(self, *words: str) -> list[dict[str, str]]:
        """What the doctor finds wrong with the use case, and would mend."""
        main(["doctor", "shop", "--json", *words])
        rows: list[dict[str, str]] = json.loads(self.capsys.readouterr().out)["checks"]
        return [row for row in rows if row["check"] == "use case shop" and row["state"] in {"wrong", "unknown"}]

    def obey(self, text: str) -> None:
        """Types the first command that the text advises, as it stands."""
        found = ADVISED.search(text)
        assert found, text
        given = {"WHY": "so", "N": str(self.newest) if "N" in found[0].split() else ""}
        words = [given.get(word, word) for word in VERBS.split(found[0])[0].split()[1:]]
        if words[0] == "doctor" and "shop" not in words:
            words.insert(1, "shop")
        if words[0] == "run":
            self.shop.night("2024-03-15", again="so")
            return
        confirmed = ["--yes"] if words[0] in {"promote", "rollback", "hold", "release"} else []
        code = self.typed(*words, *confirmed)
        if words[0] == "doctor":  # which goes on to name a red night, until a good one settles it
            assert self.doctor() == []
        else:
            assert code == 0, words

    def ends_well(self, as_of: str = "2024-03-18") -> None:
        """A good night: it was compared with the champion, nothing blocks it, and nothing is wrong any more."""
        night = self.shop.document(as_of)
        assert night["decision"] in {"FIRST", "PROMOTE", "KEEP"}, night["decision"]
        assert night["not_comparable"] == {}
        entry = self.shop.entries()[-1]
        assert entry.blocked is None
        assert "moved by hand" not in entry.reason
        assert entry.champion and self.registry.alias(CHAMPION) == self.registry.number_of(entry.champion)
        assert self.doctor() == []
        assert list(red_nights(self.shop.settings, "shop")) == [], "what a night died of is settled"


@pytest.fixture
def walk(shop_after_a_night: Shop, capsys: pytest.CaptureFixture[str]) -> Walk:
    return Walk(shop_after_a_night, capsys)


def spoil_files(walk: Walk, version: int) -> None:
    model = walk.shop.ledger.candidate(version)
    assert model is not None
    for file in model.files:
        if file.key.endswith(("weights.safetensors", "model.json")):
            path = Path(walk.shop.settings.store) / file.key
            path.write_bytes(path.read_bytes()[:-1] + b"?")


def use_case_file(walk: Walk) -> Path:
    assert walk.shop.settings.project is not None
    return walk.shop.settings.project / "use_cases" / "shop.py"


# States in which the night goes on, says why the champion was not compared, and what to type.
def rotten_files(walk: Walk) -> None:
    spoil_files(walk, 1)


def lost_files(walk: Walk) -> None:
    model = walk.shop.ledger.candidate(1)
    assert model is not None
    shutil.rmtree(Path(walk.shop.settings.store) / model.folder)


def another_type(walk: Walk) -> None:
    """The country becomes a number, upstream and in the declaration."""
    file = use_case_file(walk)
    file.write_text(
        SHOP.replace('Column(name="country", type="text", values=("DE", "FR", "US"))', 'Column(name="country")')
    )
    for path in sorted((walk.shop.settings.data / "shop").iterdir()):
        walk.shop.rewrite(path.stem, country=3.5)


def no_such_column(walk: Walk) -> None:
    file = use_case_file(walk)
    file.write_text(
        SHOP.replace('        Column(name="reminders", type="integer", nullable=True, minimum=0, maximum=50),\n', "")
    )


GOES_ON = [rotten_files, lost_files, another_type, no_such_column]


@pytest.mark.parametrize("state", [GOES_ON[0], *(pytest.param(each, marks=pytest.mark.slow) for each in GOES_ON[1:])])
def test_a_night_that_cannot_compare_says_what_to_type(walk: Walk, state: Callable[[Walk], None]) -> None:
    state(walk)
    night = walk.shop.document("2024-03-16")
    assert night["decision"] == "KEEP"
    verdicts = {verdict["verdict"] for verdict in night["verdicts"] if "Champion" in verdict["gate"]}
    assert verdicts == {"NOT_JUDGED"}
    assert "the champion (version 1) cannot be compared: " in night["reason"]
    versions = len(walk.registry.versions())
    assert walk.shop.document("2024-03-16")["replayed"]
    assert len(walk.registry.versions()) == versions, "the same night makes no second version"
    from ml.reporting import decision_section

    walk.obey(decision_section.way_out(night))
    walk.ends_well()


@pytest.mark.slow
@pytest.mark.parametrize("before", [1, 2])
def test_the_doctor_knows_who_may_serve_where_a_champion_is_damaged(walk: Walk, before: int) -> None:
    """Back to the champion before, or to any whole version where there was none."""
    walk.shop.night("2024-03-15", seed=5)
    if before == 2:
        carry_out(walk.shop.ledger, walk.registry, plan_promote(walk.shop.ledger, 2, "so"))
    spoil_files(walk, before)
    (found,) = walk.doctor()
    assert f"version {before} is damaged" in found["seen"]
    walk.obey(found["mend"])
    walk.ends_well()


@pytest.mark.slow
@pytest.mark.parametrize("same_night", [True, False])
def test_a_champion_that_mlflow_had_lost_and_that_is_damaged_is_replaced_or_made_again(
    walk: Walk, empty_mlflow: Path, same_night: bool
) -> None:
    """As the doctor says; and its own night, run again, makes the very same files in their old place."""
    shutil.copy(empty_mlflow, walk.shop.settings.home / "mlflow.db")
    forget_connections()
    assert walk.typed("doctor", "shop", "--mend") == 0
    spoil_files(walk, 1)
    (found,) = walk.doctor()
    assert "version 1 is damaged" in found["seen"]
    if same_night:
        assert walk.shop.document("2024-03-15")["version"] == 1
        assert walk.newest == 1
    else:
        walk.obey(found["mend"])
        walk.obey(found["mend"].partition("then ")[2])
    assert walk.doctor() == []
    walk.ends_well()


@pytest.mark.slow
def test_where_no_version_is_whole_a_night_makes_one(walk: Walk) -> None:
    spoil_files(walk, 1)
    (found,) = walk.doctor()
    assert found["mend"].startswith("retrain run shop --again WHY makes a new version")
    walk.obey(found["mend"])
    walk.obey(found["mend"].partition("then ")[2])
    walk.ends_well()


@pytest.mark.slow
def test_a_rollback_passes_over_a_champion_that_cannot_serve(walk: Walk) -> None:
    for seed in (5, 6):
        walk.shop.night("2024-03-15", seed=seed)
        carry_out(walk.shop.ledger, walk.registry, plan_promote(walk.shop.ledger, walk.newest, "so"))
    spoil_files(walk, 2)
    assert walk.typed("rollback", "shop", "--reason", "so", "--yes") == 0
    assert walk.registry.alias(CHAMPION) == 1
    assert walk.typed("rollback", "shop", "--to", "2", "--reason", "so", "--yes") == 2
    walk.ends_well()


@pytest.mark.slow
def test_a_deleted_experiment_is_restored_as_the_night_says(walk: Walk) -> None:
    client = walk.registry.client
    client.delete_experiment(client.get_experiment_by_name("shop").experiment_id)
    with pytest.raises(ConfigError, match="the MLflow experiment shop is there, but somebody deleted it") as caught:
        walk.shop.night("2024-03-16")
    (found,) = walk.doctor()
    assert "experiment of shop was deleted" in found["seen"]
    walk.obey(caught.value.next_step)
    walk.ends_well()


@pytest.mark.slow
@pytest.mark.parametrize("whole_model", [True, False])
def test_a_version_or_the_whole_model_deleted_in_mlflow(walk: Walk, whole_model: bool) -> None:
    """The champion is registered again from the store; its number in MLflow may be another one."""
    before = walk.shop.entries()[-1].champion
    if whole_model:
        walk.registry.client.delete_registered_model("shop")
    else:
        walk.registry.client.delete_model_version("shop", "1")
    found = walk.doctor()
    assert any("version 1 is no longer in MLflow" in each["seen"] for each in found)
    walk.obey(found[0]["mend"])
    after = walk.shop.ledger.head()
    assert before and after and after.champion == before
    assert walk.registry.alias(CHAMPION) == walk.registry.number_of(before) == (1 if whole_model else 2)
    walk.ends_well()


@pytest.mark.slow
def test_an_alias_moved_by_hand_is_settled_as_the_night_says(walk: Walk) -> None:
    walk.registry.client.delete_registered_model_alias("shop", CHAMPION)
    night = walk.shop.document("2024-03-16")
    assert night["decision"] == "KEEP"
    walk.obey(night["reason"])
    walk.ends_well()


@pytest.mark.slow
def test_a_run_deleted_in_mlflow_is_taken_out_of_the_trash(walk: Walk) -> None:
    walk.shop.night("2024-03-16")
    run_id = walk.shop.entries()[-1].candidate.run_id  # type: ignore[union-attr]
    walk.registry.client.delete_run(run_id)
    (walk.shop.settings.home / "store" / "published" / "shop" / "00000002.json").unlink()
    assert walk.shop.document("2024-03-16")["replayed"]
    assert walk.registry.client.get_run(run_id).info.lifecycle_stage == "active"
    walk.ends_well()


@pytest.mark.slow
def test_what_killed_runs_leave_is_mended_by_the_doctor(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "OLD_SECONDS", 0.0)
    registry = walk.registry
    registry.register(registry.run_id("killed", "a run", {}), "killed", {})
    found = walk.doctor()
    assert len(found) == 2
    for each in found:
        walk.obey(each["mend"])
    walk.ends_well()


@pytest.mark.slow
def test_a_damaged_ledger_goes_on_once_its_object_is_restored(walk: Walk) -> None:
    path = Path(walk.shop.settings.store) / "ledger" / "shop" / "00000001.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"?}")
    with pytest.raises(Corrupt, match=r"ledger/shop/00000001\.json has not: restore it from a copy"):
        walk.shop.night("2024-03-16")
    (found, *_) = walk.doctor()
    assert "00000001.json" in found["seen"]
    path.write_bytes(whole)
    walk.ends_well()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["stages", "snapshots", "mlflow"])
def test_a_store_that_cannot_be_written_is_said_and_goes_on_once_it_can(walk: Walk, place: str) -> None:
    folder = Path(walk.shop.settings.store) / place
    kept = folder.rename(folder.with_name("kept"))
    folder.write_text("a file in place of a folder")
    with pytest.raises(RetrainError) as caught:
        walk.shop.night("2024-03-16")
    assert "give access" in str(caught.value)
    folder.unlink()
    kept.rename(folder)
    walk.ends_well("2024-03-16")


@pytest.mark.slow
def test_a_rejected_night_ends_well_once_its_day_is_delivered_again(walk: Walk) -> None:
    day = walk.shop.file("2024-03-14")
    whole = day.read_bytes()
    day.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataRejected):
        walk.shop.night("2024-03-15", again="so")
    day.write_bytes(whole)
    walk.ends_well()


@pytest.mark.slow
def test_a_broken_use_case_is_named_by_the_doctor(walk: Walk) -> None:
    file = use_case_file(walk)
    file.write_text(SHOP.replace("USE_CASE =", "USE_CASE = ="))
    with pytest.raises(ConfigError):
        walk.shop.night("2024-03-16")
    assert "shop.py" in walk.doctor()[0]["seen"]
    file.write_text(SHOP)
    walk.ends_well()


@pytest.mark.slow
def test_a_hold_says_how_it_ends(walk: Walk) -> None:
    carry_out(walk.shop.ledger, None, plan_hold(walk.shop.ledger, "audit"))
    night = walk.shop.document("2024-03-16")
    walk.obey(night["reason"].partition("until ")[2])
    walk.ends_well()


def test_what_was_deleted_while_a_question_waited_is_not_promoted(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files by gc, or the version by a hand in MLflow: the move is refused, and nothing is recorded."""
    walk.shop.night("2024-03-15", seed=5)
    entries = len(walk.shop.ledger.entries())
    model = walk.shop.ledger.candidate(2)
    assert model is not None
    ways = {
        "retrain promote shop --version 1 --reason WHY": lambda: open_store(walk.shop.settings.store).delete(
            model.files[0].key
        ),
        "retrain doctor shop --mend": lambda: walk.registry.delete_version(2),
    }
    for advice, delete in ways.items():
        kept = open_store(walk.shop.settings.store).get(model.files[0].key)

        def answer(question: str, delete: Callable[[], Any] = delete) -> str:
            delete()
            return "y"

        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("builtins.input", answer)
        assert main(["promote", "shop", "--version", "2", "--reason", "so"]) == UsageError.exit_code
        said = walk.capsys.readouterr().err
        assert "version 2 is" in said and advice in said
        assert len(walk.shop.ledger.entries()) == entries
        assert walk.registry.alias(CHAMPION) == 1
        open_store(walk.shop.settings.store).put(model.files[0].key, kept or b"")
