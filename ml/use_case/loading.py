"""Use cases by name: finding their files and loading them."""

import ast
import inspect
import re
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import ml
from ml.errors import ConfigError, UsageError, did_you_mean
from ml.use_case.definition import UseCase
from ml.use_case.own_modules import OwnModules, digest_of_sources

UNKNOWN_FIELD = re.compile(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'")


def use_case_files(project: Path | None) -> dict[str, Path]:
    """Every known use case by name, the project's own in place of ours; nothing is imported.

    Raises ConfigError for a folder that cannot be read.
    """
    folders = [Path(__file__).parents[1] / "use_cases", *([project / "use_cases"] if project else [])]
    files = (path for folder in folders for path in _python_files(folder))
    return {path.stem: path for path in files if not path.stem.startswith("_")}


def _python_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".py")
    except OSError as error:
        raise ConfigError(
            f"the use cases' folder {folder} must be one that can be read",
            f"the system says '{error.strerror}'",
            "make it, or unset RETRAIN_PROJECT",
        ) from error


def require_known(name: str, project: Path | None) -> Path:
    """The use case's file. Raises UsageError with the known names and the nearest one."""
    files = use_case_files(project)
    if name in files:
        return files[name]
    raise UsageError(
        f"USE_CASE must be one of {', '.join(sorted(files))}",
        f"it is {name!r}",
        did_you_mean(name, files, _where_to_add(project)),
    )


def _where_to_add(project: Path | None) -> str:
    if project is None:
        return "choose one of them, or set RETRAIN_PROJECT to the folder that has use_cases/"
    return f"choose one of them, or add {project / 'use_cases'}/<name>.py"


@dataclass(frozen=True)
class Loaded:
    """A use case, and the sources that it was made of."""

    use_case: UseCase
    own: OwnModules

    @property
    def sources(self) -> str:
        """Digest of its file with every module of its own, as they run."""
        return digest_of_sources(self.own.main.source, self.own.digests)


_LOADED: dict[Path, Loaded] = {}
_LOADING = threading.RLock()


def load_use_case(name: str, project: Path | None) -> UseCase:
    """The USE_CASE object of the file. Raises UsageError for an unknown name, ConfigError for an unusable file."""
    return load(name, project).use_case


def load(name: str, project: Path | None) -> Loaded:
    """The use case as its file and modules are now; the same object as long as none of them changes."""
    path = require_known(name, project)
    with _LOADING:  # every stage of a night asks for it, and dates of a backfill side by side
        kept = _LOADED.get(path)
        if kept is None or not kept.own.is_as_read():
            kept = _LOADED[path] = _loaded(name, path, project)
        return kept


def _loaded(name: str, path: Path, project: Path | None) -> Loaded:
    own = OwnModules(name, path, _bytes_of(path), project)
    use_case = getattr(_module(own, path), "USE_CASE", None)
    if not isinstance(use_case, UseCase):
        seen = "it has none" if use_case is None else f"that is of type {type(use_case).__name__}"
        raise ConfigError(f"{path.name} must define USE_CASE, a UseCase", seen, "define it")
    if use_case.name != name:
        seen = f"it is {use_case.name!r}"
        raise ConfigError(f"name of USE_CASE in {path.name} must be that of its file", seen, f"write {name!r}")
    return Loaded(use_case, own)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        seen = f"the system says '{error.strerror}'"
        raise ConfigError(f"{path.name} must be a file that can be read", seen, "mend it") from error


def _module(own: OwnModules, path: Path) -> ModuleType:
    try:
        return own.run()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # what the file does of its own
        _refuse_old_place(error, path)
        _refuse_unknown_field(error, path)
        says = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"{path.name} must be importable", f"{says}{_line_of(error, path)}", "mend the file"
        ) from error


def _refuse_old_place(error: BaseException, path: Path) -> None:
    """Raises ConfigError, with the line to write, where a module of ours was imported that is no longer there."""
    if not isinstance(error, ImportError) or (error.name or "").partition(".")[0] != "ml":
        return
    public = [name for name in _names_asked_for(error) if name in ml.FACE]
    raise ConfigError(
        f"{path.name} and its modules must import from ml itself what use cases are made of",
        f"{error.name} has no such name{_line_of(error, path)}",
        f"write `from ml import {', '.join(public)}`" if public else f"ml has {', '.join(ml.FACE)}",
    ) from error


def _names_asked_for(error: ImportError) -> list[str]:
    """Those of the import statement that failed."""
    frames = traceback.extract_tb(error.__traceback__)
    last = next(each for each in reversed(frames) if not _is_import_machinery(each.filename))
    statements = ast.walk(ast.parse(Path(last.filename).read_bytes()))
    found = [each for each in statements if isinstance(each, ast.ImportFrom) and each.lineno == last.lineno]
    return [name.name for statement in found for name in statement.names]


def _is_import_machinery(file: str) -> bool:
    return file.startswith("<") or Path(file).parent == Path(__file__).parent


def _refuse_unknown_field(error: BaseException, path: Path) -> None:
    """Raises ConfigError, with the nearest field, where the error is that of a mistyped one."""
    typed = UNKNOWN_FIELD.match(str(error)) if isinstance(error, TypeError) else None
    owner = _known_where_it_happened(error, typed[1]) if typed else None
    if typed is None or owner is None:
        return
    try:
        fields = list(inspect.signature(owner).parameters)
    except (TypeError, ValueError):
        return
    if not fields or typed[2] in fields:  # another thing of the same name
        return
    raise ConfigError(
        f"a field of {typed[1]} in {path.name} must be one that it has",
        f"{typed[2]!r} is none{_line_of(error, path)}",
        did_you_mean(typed[2], fields, f"write one of {', '.join(fields)}"),
    ) from error


def _known_where_it_happened(error: BaseException, name: str) -> Callable[..., Any] | None:
    """What has this name there, or a class that inherits from it: that may be a function which the file calls."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    classes = [each for each in frame.f_globals.values() if isinstance(each, type)]
    heirs = (each for each in classes if name in [base.__name__ for base in each.__mro__])
    found = frame.f_globals.get(name) or next(heirs, None)
    return found if callable(found) else None


def _line_of(error: BaseException, path: Path) -> str:
    """Where in the file it happened; a SyntaxError says so itself."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""
