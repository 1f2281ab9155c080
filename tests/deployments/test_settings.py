"""Where an installation keeps its things, as the environment says."""

import shutil
from pathlib import Path

import pytest

from deployments.cli import main
from ml.errors import ConfigError
from ml.settings import Settings
from ml.storage.registry import Registry

NAMES = (
    "RETRAIN_HOME", "RETRAIN_STORE", "RETRAIN_PROJECT", "RETRAIN_THREADS", "RETRAIN_BATCH_MB", "MLFLOW_TRACKING_URI",
)  # fmt: skip


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    with monkeypatch.context() as patch:
        for name in NAMES:
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        return Settings.from_environment()


@pytest.mark.parametrize("variables", [{}, dict.fromkeys(NAMES, "")], ids=["unset", "empty"])
def test_by_default_everything_lies_below_one_folder_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = settings(monkeypatch, **variables)
    home = tmp_path / ".retrain"
    assert seen == Settings(home, str(home / "store"), f"sqlite:///{home / 'mlflow.db'}", None, 1)
    assert seen.data == home / "data"
    assert list(tmp_path.iterdir()) == []


def test_each_variable_moves_one_thing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings(monkeypatch, RETRAIN_HOME="here").home == tmp_path / "here"
    assert settings(monkeypatch, RETRAIN_HOME="here").store == str(tmp_path / "here" / "store")
    assert settings(monkeypatch, RETRAIN_STORE="s3://bucket/x").store == "s3://bucket/x"
    assert settings(monkeypatch, RETRAIN_STORE="there").store == str(tmp_path / "there")
    (tmp_path / "mine").mkdir()
    assert settings(monkeypatch, RETRAIN_PROJECT="mine").project == tmp_path / "mine"
    assert settings(monkeypatch, RETRAIN_THREADS="4").threads == 4
    assert settings(monkeypatch, RETRAIN_BATCH_MB="7").batch_mb == 7
    assert settings(monkeypatch, MLFLOW_TRACKING_URI="http://localhost:5000").tracking_uri == "http://localhost:5000"


def test_the_environment_is_read_at_call_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, RETRAIN_THREADS="2") != settings(monkeypatch, RETRAIN_THREADS="3")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " "])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(monkeypatch, RETRAIN_THREADS=text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [("RETRAIN_PROJECT", "nowhere", "there is no nowhere"), ("RETRAIN_STORE", "s3://key:secret@bucket", "it has an @")],
)
def test_a_place_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(monkeypatch, **{name: value})
    assert name in str(caught.value)
    assert word in str(caught.value)
    assert "secret@" not in str(caught.value)


PLACES = [
    ("http://mlflow.company:5000", "/data/store", False),
    ("https://mlflow.company", "store", False),
    ("http://mlflow.company:5000", "s3://bucket/prefix", True),
    ("http://127.0.0.1:5000", "/data/store", True),
    ("http://localhost:5000", "/data/store", True),
    ("http://[::1]:5000", "/data/store", True),
    ("postgresql://user:secret@db/mlflow", "/data/store", True),
    ("sqlite:////data/mlflow.db", "/data/store", True),
]


@pytest.mark.parametrize(("uri", "store", "allowed"), PLACES)
def test_files_on_this_disk_and_an_mlflow_elsewhere_are_refused(
    monkeypatch: pytest.MonkeyPatch, uri: str, store: str, allowed: bool
) -> None:
    variables = {"MLFLOW_TRACKING_URI": uri, "RETRAIN_STORE": store}
    if allowed:
        assert settings(monkeypatch, **variables).tracking_uri == uri
        return
    with pytest.raises(ConfigError) as caught:
        settings(monkeypatch, **variables)
    assert all(word in str(caught.value) for word in ("mlflow.company", store, "RETRAIN_STORE=s3://"))


@pytest.mark.parametrize("name", ["RETRAIN_HOME", "RETRAIN_STORE", "RETRAIN_PROJECT"])
@pytest.mark.parametrize(
    "odd",
    ["50%", "50%25", "a%41", "what?", "?", "a\nb", "a\rb", "\x1b[2J", "a\tb", "\x7f", "\u202ea", "\udcff", "a\xa0b"],
)
def test_a_path_that_would_be_read_otherwise_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, odd: str
) -> None:
    """Databases were written beside the home, and models were looked for where none was."""
    if name == "RETRAIN_PROJECT":
        monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "home"))
    for place in (tmp_path / odd, tmp_path / odd / "below"):
        monkeypatch.setenv(name, str(place))
        with pytest.raises(ConfigError, match=f"{name} has none of % [?] and only letters that can be printed, but"):
            Settings.from_environment()
        assert main(["status"]) == 1
        assert all(letter.isprintable() or letter == "\n" for letter in capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_home_in_an_odd_working_directory_is_refused_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "50%").mkdir()
    monkeypatch.chdir(tmp_path / "50%")
    with pytest.raises(ConfigError, match="RETRAIN_HOME has none of"):
        settings(monkeypatch, RETRAIN_HOME="home")


@pytest.mark.parametrize("name", ["RETRAIN_HOME", "RETRAIN_STORE", "RETRAIN_PROJECT"])
def test_a_path_that_is_too_long_for_sqlite_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / ("ü" * 100) / ("ä" * 100)))
    with pytest.raises(ConfigError, match=f"{name} has at most 300 bytes, but it has"):
        Settings.from_environment()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("letter", [*"#&;'\"$*[]{}()+~@:=,! \\", "ü", "日本", "🙂"])
def test_other_letters_of_a_path_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_mlflow: Path, letter: str
) -> None:
    """MLflow's database is the file of that name, and a model is loaded from below it."""
    home = tmp_path / f"a{letter}b" / f"{letter}c"
    home.mkdir(parents=True)
    shutil.copy(empty_mlflow, home / "mlflow.db")
    place = settings(monkeypatch, RETRAIN_HOME=str(home))
    registry = Registry(place, "shop")
    registry.register(registry.run_id("key", "run", {}), "key", {})
    assert sorted(path.name for path in home.iterdir()) == ["mlflow.db", "store"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{letter}b"]
    assert [version.ours for version in Registry(place, "shop").versions()] == [True]
