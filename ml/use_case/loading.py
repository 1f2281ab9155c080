"""Finds use cases by name and loads their files.

A file that cannot be used raises one ConfigError, which names the line and the next step.
"""

import ast
import functools
import inspect
import re
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import ml
from ml.data.dataset import Reading
from ml.errors import ConfigError, UsageError, did_you_mean
from ml.models.code import own_kinds
from ml.models.composite import with_parts
from ml.models.protocol import Learner
from ml.use_case.definition import TRAINING_FIELDS, UseCase
from ml.use_case.own_modules import OwnModules
from ml.use_case.travelling import Travelling, done_at_import, travelling, travelling_modules

UNKNOWN_FIELD = re.compile(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'")


def use_case_files(project: Path | None) -> dict[str, Path]:
    """The file of every known use case by its name. Nothing is imported.

    If the project has a use case of the same name as one of ours, the project's counts. Raises ConfigError for a folder
    that cannot be read.
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
    """The use case's file. Raises UsageError for an unknown name, with the known names and the most similar one."""
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
    """A use case, and the source files that it was made of.

    Of its own code, `deriving` runs `derive`, `reading` makes rows of bytes, `training` makes a version, `serving`
    answers in it and `judging` decides about it. `at_import` is a digest of what its file does to libraries when it is
    imported.
    """

    use_case: UseCase
    own: OwnModules

    @functools.cached_property
    def deriving(self) -> Travelling:
        return self._of("derive")

    @functools.cached_property
    def reading(self) -> Travelling:
        return self._of(*(field.name for field in fields(Reading)))

    @functools.cached_property
    def training(self) -> Travelling:
        return self._of(*TRAINING_FIELDS)

    @functools.cached_property
    def serving(self) -> Travelling:
        return travelling_modules(self.own, own_kinds(self.use_case.model))

    @functools.cached_property
    def judging(self) -> Travelling:
        return self._of("gates")

    @functools.cached_property
    def at_import(self) -> str:
        return done_at_import(self.own)

    def _of(self, *names: str) -> Travelling:
        return travelling(self.own, self.use_case, names)


_LOADED: dict[Path, Loaded] = {}
_LOADING = threading.RLock()


def load_use_case(name: str, project: Path | None) -> UseCase:
    """The file's USE_CASE object. Raises UsageError for an unknown name, ConfigError for a file that cannot be used."""
    return load(name, project).use_case


def load(name: str, project: Path | None) -> Loaded:
    """The use case as its file and modules are now. The object stays the same until one of them changes.

    Raises UsageError for an unknown name, ConfigError for a file that cannot be used.
    """
    path = require_known(name, project)
    with _LOADING:  # threads call this at the same time: the dates of a backfill run side by side
        loaded = _LOADED.get(path)
        if loaded is None or not loaded.own.is_as_read():
            loaded = _LOADED[path] = _loaded(name, path, project)
        return loaded


def _loaded(name: str, path: Path, project: Path | None) -> Loaded:
    """Runs the file. Raises ConfigError unless it defines a use case of this name."""
    own = OwnModules(name, path, _bytes_of(path), project)
    use_case = getattr(_module(own, path), "USE_CASE", None)
    if not isinstance(use_case, UseCase):
        value = "it has none" if use_case is None else f"that is of type {type(use_case).__name__}"
        raise ConfigError(f"{path.name} must define USE_CASE, a UseCase", value, "define it")
    if use_case.name != name:
        value = f"it is {use_case.name!r}"
        raise ConfigError(f"name of USE_CASE in {path.name} must be that of its file", value, f"write {name!r}")
    _read_served(own, use_case)
    loaded = Loaded(use_case, own)
    _refuse_unserved(loaded)
    return loaded


def _read_served(own: OwnModules, use_case: UseCase) -> None:
    """Reads the company's modules that serve its own kind of model. Raises ConfigError if one is no Python."""
    names = own_kinds(use_case.model)
    try:
        own.read_too(names)
    except (SyntaxError, ValueError) as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"{', '.join(names)} must be importable", message, "mend the file") from error


def _refuse_unserved(loaded: Loaded) -> None:
    """Raises ConfigError unless the modules that serve the model are there, and can travel inside its versions."""
    for learner in reversed([*with_parts(loaded.use_case.model)]):
        kind = type(learner).__name__
        absent = [name for name in own_kinds(learner) if name not in loaded.own.read]
        if absent or not learner.served:
            raise ConfigError(
                f"served of {kind} must name the modules that load and answer, of ml/serving/kinds or of the project",
                f"{absent[0]} is neither" if absent else "it names none",
                f"write {absent[0]}.py beside the use case" if absent else "name one",
            )
        _refuse_unloadable(loaded, learner)
        if loaded.serving.why_not and own_kinds(learner) and not learner.parts:
            raise ConfigError(
                f"what serves {kind} travels inside its versions, so it must run without the rest of the project",
                loaded.serving.why_not,
                "import nothing else of ml in it, nor by names that are made up",
            )


def _refuse_unloadable(loaded: Loaded, learner: Learner) -> None:
    """Raises ConfigError if a company's own module that is to load its kind of model has no `load`."""
    first, own = learner.served[0], own_kinds(learner)
    if first in own and not {"load", "*"} & _names_of(loaded.own.read[first].source):
        raise ConfigError(f"{first} must define load(folder, threads)", "it does not", "define it")


def _names_of(source: bytes) -> set[str]:
    """The names that a module's own statements define or import; `*` where it imports all of another one."""
    names, nodes = set(), list[ast.AST](ast.parse(source).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue  # what it defines inside is no name of the module
        if isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        nodes += ast.iter_child_nodes(node)
    return names


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        value = f"the system says '{error.strerror}'"
        raise ConfigError(f"{path.name} must be a file that can be read", value, "mend it") from error


def _module(own: OwnModules, path: Path) -> ModuleType:
    """The file as a module. Whatever it raises becomes a ConfigError with its line."""
    try:
        return own.run()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # the file's own code may raise anything
        _refuse_old_place(error, path)
        _refuse_unknown_field(error, path)
        message = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"{path.name} must be importable", f"{message}{_line_of(error, path)}", "mend the file"
        ) from error


def _refuse_old_place(error: BaseException, path: Path) -> None:
    """Raises ConfigError, with the line to write, if the file imports something of ours from where it no longer is."""
    if not isinstance(error, ImportError) or (error.name or "").partition(".")[0] != "ml":
        return
    asked = _names_asked_for(error)
    public = [name for name in asked if name in ml.FACE]
    others = [name for name in asked if name not in ml.FACE]
    inner = f"; {', '.join(others)}: not public, import from the module that has it now" if others else ""
    raise ConfigError(
        f"{path.name} and its modules must import from ml itself what use cases are made of",
        f"{error.name} has no such name{_line_of(error, path)}",
        f"write `from ml import {', '.join(public)}`{inner}" if public else f"ml has {', '.join(ml.FACE)}",
    ) from error


def _names_asked_for(error: ImportError) -> list[str]:
    """The names in the import statement that failed."""
    frames = traceback.extract_tb(error.__traceback__)
    last = next(frame for frame in reversed(frames) if not _is_import_machinery(frame.filename))
    nodes = ast.walk(ast.parse(Path(last.filename).read_bytes()))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.lineno == last.lineno]
    return [alias.name for statement in imports for alias in statement.names]


def _is_import_machinery(file: str) -> bool:
    return file.startswith("<") or Path(file).parent == Path(__file__).parent


def _refuse_unknown_field(error: BaseException, path: Path) -> None:
    """Raises ConfigError, with the most similar field, if the error comes from a mistyped field."""
    unknown = UNKNOWN_FIELD.match(str(error)) if isinstance(error, TypeError) else None
    owner = _known_where_it_happened(error, unknown[1]) if unknown else None
    if unknown is None or owner is None:
        return
    _refuse_undecorated(error, path, unknown[1], unknown[2])
    try:
        fields = list(inspect.signature(owner).parameters)
    except (TypeError, ValueError):
        return
    if not fields or unknown[2] in fields:  # then the error is about something else of the same name
        return
    raise ConfigError(
        f"a field of {unknown[1]} in {path.name} must be one that it has",
        f"{unknown[2]!r} is none{_line_of(error, path)}",
        did_you_mean(unknown[2], fields, f"write one of {', '.join(fields)}"),
    ) from error


def _refuse_undecorated(error: BaseException, path: Path, name: str, field: str) -> None:
    """Raises ConfigError if a class that inherits from `name` annotates the field and is no dataclass of its own."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    for cls in frame.f_globals.values():
        if not isinstance(cls, type) or name not in [above.__name__ for above in cls.__mro__[1:]]:
            continue
        if field in vars(cls).get("__annotations__", {}) and "__dataclass_fields__" not in vars(cls):
            raise ConfigError(
                f"a class with fields of its own in {path.name} and its modules must be a dataclass",
                f"{cls.__name__} is none{_line_of(error, path)}",
                f"write @dataclass(frozen=True, kw_only=True) above class {cls.__name__}",
            ) from error


def _known_where_it_happened(error: BaseException, name: str) -> Callable[..., Any] | None:
    """The class or function of this name in the module that raised the error, or else a class that inherits from it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    classes = [value for value in frame.f_globals.values() if isinstance(value, type)]
    heirs = (cls for cls in classes if name in [base.__name__ for base in cls.__mro__])
    owner = frame.f_globals.get(name) or next(heirs, None)
    return owner if callable(owner) else None


def _line_of(error: BaseException, path: Path) -> str:
    """The line of the file that raised the error, in brackets; empty for a SyntaxError, which names its line itself."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""
