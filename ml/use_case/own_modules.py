"""A use case's own modules: all modules that its file imports and that are not Python's, installed or ours.

They are found by reading the import statements in the sources, those inside functions too, before anything runs. Each
module runs from the very bytes that were read, under a name that only this use case uses. So two use cases may have
modules of the same name, and a module that is edited while the process runs is loaded anew. A module that no import
statement names is refused: its code would not be part of the run's key.
"""

import ast
import builtins
import functools
import importlib
import importlib.util
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    BuiltinImporter,
    FrozenImporter,
    PathFinder,
)
from importlib.metadata import PathDistribution
from pathlib import Path
from types import ModuleType
from typing import Any

from ml.digests import digest_bytes
from ml.errors import ConfigError
from ml.serving.own_code import AsRead, importlib_with

SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
OURS = Path(__file__).resolve().parents[2]
OUR_PACKAGES = ("ml", "expectations", "tasks", "flows", "deployments")  # their digest is part of a run's key anyway
INSTALLED = {"site-packages", "dist-packages"}
PYTHONS = tuple({os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})
BY_PATH = {"spec_from_file_location", "SourceFileLoader", "run_path"}  # they run a file without importing it by name
_ADDED: set[str] = set()  # the folders that files of use cases have added to sys.path


@dataclass(frozen=True)
class Place:
    """Where a module lies: its file (None for a folder without `__init__`), and the folders of a package's modules."""

    file: str | None
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Module:
    """An own module, with the bytes of its file when it was read."""

    name: str
    place: Place
    source: bytes

    @property
    def file(self) -> Path:
        assert self.place.file is not None
        return Path(self.place.file)

    @property
    def package(self) -> str:
        """The package that its relative imports start from."""
        return self.name if self.place.folders else self.name.rpartition(".")[0]


class OwnModules:
    """The own modules of one use case's file: `read` has their sources, `running` the modules that were loaded.

    `named` holds every module name that an import statement mentions, `places` where Python finds each of them.
    """

    def __init__(self, use_case: str, file: Path, source: bytes, project: Path | None) -> None:
        self.prefix = f"retrain_use_case_{use_case}"
        self.file = file
        package = "ml.use_cases" if file.parent.resolve() == OURS / "ml" / "use_cases" else file.parent.name
        self.main = Module(f"{package}.{file.stem}", Place(str(file)), source)
        self.last_folders = tuple(dict.fromkeys(str(folder) for folder in (file.parent, project) if folder))
        self.named: set[str] = set()
        self.read: dict[str, Module] = {}
        self.running: dict[str, ModuleType] = {}
        self.path: tuple[str, ...] | None = None  # sys.path after the file ran; None until then
        self.places: dict[str, Place | None] = {}
        self.lock = threading.RLock()

    @property
    def digests(self) -> dict[str, str]:
        """The digest of every own module, by the module's name."""
        return {name: digest_bytes(self.read[name].source) for name in sorted(self.read)}

    def run(self) -> ModuleType:
        """Runs the use case's file and returns it as a module. Afterwards all that it may import later has been read.

        Raises what the file raises.
        """
        spec = importlib.util.spec_from_file_location(
            self.prefix, self.file, loader=AsRead(self.prefix, self.file, self.main.source)
        )
        self.named |= names_in(self.main)
        with _path_of_its_own():
            module = self._executed(spec, self.main.package)
            self.path = tuple(sys.path)
        self._read_all()
        return module

    def read_too(self, names: Iterable[str]) -> None:
        """Reads further modules, which no import statement need name, with all that they import."""
        self.named |= {above for name in names for above in _with_those_above(name)}
        self._read_all()

    def is_as_read(self) -> bool:
        """Whether every file still holds the bytes that were read, and every name still leads to the same file."""
        try:
            same = all(module.file.read_bytes() == module.source for module in (self.main, *self.read.values()))
        except OSError:
            return False
        return same and self._places() == self.places

    def _read_all(self) -> None:
        """Reads every own module that is named, then those that these name, until no new name comes up."""
        waiting = set(self.named)
        while waiting:
            before = set(self.named)
            for name in waiting:
                self._read(name)
            waiting = self.named - before
        self.places = self._places()

    def _places(self) -> dict[str, Place | None]:
        listing = functools.cache(_names_in)
        return {name: self._place(name, listing) for name in self.named}

    def _read(self, name: str) -> Module | None:
        """The own module of this name, read from disk once; None if there is none or it is a folder without a file."""
        if name not in self.read:
            place = self._own_place(name)
            if place is None or place.file is None:
                return None
            module = Module(name, place, Path(place.file).read_bytes())
            self.named |= names_in(module)
            self.read[name] = module
        return self.read[name]

    def _own_place(self, name: str) -> Place | None:
        if name in self.read:
            return self.read[name].place
        place = self.places[name] if name in self.places else self._place(name, functools.cache(_names_in))
        return place if place is not None and _is_own(name, place) else None

    def _place(self, name: str, listing: Callable[[str], frozenset[str]]) -> Place | None:
        """Where Python would find the module; if nowhere, its place beside the use case's file or in the project."""
        parent, _, tail = name.rpartition(".")
        if parent:
            above = self._place(parent, listing)
            return _look(tail, above.folders, listing) if above else None
        if tail in sys.stdlib_module_names:
            return None
        if name == self.main.package:  # that relative imports start from
            return Place(None, (str(self.file.parent),))
        path = self.path if self.path is not None else sys.path
        return _look(tail, path, listing) or _found_otherwise(tail) or _look(tail, self.last_folders, listing)

    def _import(
        self, package: str, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        """Replaces Python's `__import__` for the import statements of own modules."""
        full = importlib.util.resolve_name("." * level + name, package) if level else name
        if not any(self._own_place(above) for above in _with_those_above(full)):
            imported = builtins.__import__(name, globals, locals, fromlist, level)
            if not full.startswith(self.prefix):  # pickle looks up classes by names with the prefix
                _refuse_unreadable(full)
            return importlib_with(self._import_module) if imported is importlib else imported
        module = self._load(full)
        if not fromlist:
            return self._load(full.partition(".")[0])
        for attribute in fromlist if hasattr(module, "__path__") else ():
            if attribute != "*" and not hasattr(module, attribute) and self._own_place(f"{full}.{attribute}"):
                self._load(f"{full}.{attribute}")
        return module

    def _import_module(self, name: str, package: str | None = None) -> ModuleType:
        plain = (package or "").removeprefix(f"{self.prefix}.")
        full = importlib.util.resolve_name(name, self.main.package if plain == self.prefix else plain)
        return self._load(full)

    def _load(self, name: str) -> ModuleType:
        """The module of this name; the packages above it are loaded first.

        Own modules run from the bytes that were read, all others are imported by Python.
        """
        parent, _, tail = name.rpartition(".")
        above = self._load(parent) if parent else None
        with self.lock:
            if name in self.running:
                return self.running[name]
            place = self._own_place(name)
            if place is None and parent in self.running and not self._place(name, functools.cache(_names_in)):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            module = importlib.import_module(name) if place is None else self._run_own(name, place)
        if parent in self.running:
            setattr(above, tail, module)
        return module

    def _run_own(self, name: str, place: Place) -> ModuleType:
        """Runs an own module. Raises ConfigError if no import statement names it."""
        if name not in self.named:
            raise ConfigError(
                "every own module of a use case stands in an import statement, so that its code is part of the keys",
                f"{name} is imported by a name that is made up while {self.file.name} runs",
                f"write `import {name}` in the file, if need be in a function",
            )
        private, read = f"{self.prefix}.{name}", self._read(name)
        if read is None:
            bare = importlib.machinery.ModuleSpec(private, None, is_package=True)
            bare.submodule_search_locations = list(place.folders)
            self.running[name] = sys.modules[private] = module = importlib.util.module_from_spec(bare)
            return module
        loader = AsRead(private, read.file, read.source) if read.file.suffix in SOURCE_SUFFIXES else None
        folders = list(place.folders) or None
        spec = importlib.util.spec_from_file_location(
            private, read.file, loader=loader, submodule_search_locations=folders
        )
        return self._executed(spec, read.package, name)

    def _executed(self, spec: Any, package: str, name: str | None = None) -> ModuleType:
        """Runs the module of this spec, with our `_import` for its import statements."""
        module = importlib.util.module_from_spec(spec)
        own_import = functools.partial(self._import, package)
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": own_import}
        sys.modules[spec.name] = module  # dataclasses look up the names in their hints there
        if name is not None:
            self.running[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            if name is not None:
                del self.running[name]
            raise
        return module


@contextmanager
def _path_of_its_own() -> Iterator[None]:
    """Hides, while a use case's file runs, the folders that files of other use cases have added to sys.path."""
    before = list(sys.path)
    sys.path[:] = base = [folder for folder in before if folder not in _ADDED]
    base = list(base)
    try:
        yield
    finally:
        _ADDED.update(set(sys.path).difference(base))
        sys.path += [folder for folder in before if folder not in sys.path]


def names_in(module: Module) -> set[str]:
    """The names of all modules that the import statements may mean, those in functions too, and of the packages above.

    Raises SyntaxError or ValueError for a source that cannot be parsed, and ConfigError for code that runs a file by
    its path instead of importing it.
    """
    if module.file.suffix not in SOURCE_SUFFIXES:
        return set()
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.source, str(module.file))):
        _refuse_by_path(module, node)
        names.update(name for named in _named(node, module.package) for name in _with_those_above(named))
    return names


def _named(node: ast.AST, package: str) -> list[str]:
    """The modules that a statement, or a call of `import_module`, may import; none for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute("." * node.level + (node.module or ""), package)
        return [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")] if base else []
    if isinstance(node, ast.Call) and _name_of(node.func) in {"import_module", "__import__"} and node.args:
        texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        return [_absolute(texts[0], texts[1] if len(texts) > 1 else package)] if texts else []
    return []


def _absolute(name: str, package: str) -> str:
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:  # Python raises it again when the line runs
        return ""


def _name_of(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _refuse_by_path(module: Module, node: ast.AST) -> None:
    if _name_of(node) in BY_PATH:
        raise ConfigError(
            "own modules of a use case are imported by their names, so that their code is part of the keys",
            f"{module.file.name} (line {getattr(node, 'lineno', 0)}) uses {_name_of(node)}",
            "write an import statement",
        )


def _with_those_above(name: str) -> list[str]:
    """The name of a module and of all packages above it: `a.b.c` gives a, a.b and a.b.c."""
    parts = name.split(".")
    return [".".join(parts[: number + 1]) for number in range(len(parts))] if name else []


def _names_in(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder or "."))  # noqa: PTH208 - asked for every stage of a night
    except OSError:
        return frozenset()


def _look(tail: str, folders: Sequence[str], listing: Callable[[str], frozenset[str]]) -> Place | None:
    """Searches as Python does: each folder for a package, then for a file.

    A folder without `__init__` counts only if no folder has either.
    """
    bare = []
    for folder in folders:
        names, inside = listing(folder), f"{folder or '.'}/{tail}"
        if tail in names:
            first = next((f"__init__{suffix}" for suffix in SUFFIXES if f"__init__{suffix}" in listing(inside)), None)
            if first:
                return Place(f"{inside}/{first}", (inside,))
        file = next((f"{tail}{suffix}" for suffix in SUFFIXES if f"{tail}{suffix}" in names), None)
        if file:
            return Place(f"{folder or '.'}/{file}")
        if tail in names and Path(inside).is_dir():
            bare.append(inside)
    return Place(None, tuple(bare)) if bare else None


def _found_otherwise(name: str) -> Place | None:
    """Asks the finders that installed packages have added to Python's import, as editable installs do."""
    for finder in sys.meta_path:
        if finder in (BuiltinImporter, FrozenImporter, PathFinder):
            continue
        spec = finder.find_spec(name, None)
        if spec is not None:
            folders = tuple(spec.submodule_search_locations or ())
            return Place(spec.origin if spec.has_location else None, folders)
    return None


def _is_own(name: str, place: Place) -> bool:
    files = [place.file] if place.file else list(place.folders)
    return any(_is_own_file(file, name.count(".") + (place.file is not None and bool(place.folders))) for file in files)


def _is_own_file(file: str, depth: int) -> bool:
    """Whether a file is the user's own. It lies `depth` folders below the folder in which modules are looked for."""
    path, real = Path(file), os.path.realpath(file)
    if INSTALLED & {*path.parts} or any(real.startswith(f"{folder}{os.sep}") for folder in PYTHONS):
        return False
    if any(real.startswith(f"{OURS / package}{os.sep}") for package in OUR_PACKAGES):
        return real.startswith(f"{OURS / 'ml' / 'use_cases'}{os.sep}")
    root = path.parents[depth]
    return path.relative_to(root).parts[0] not in _installed_in(str(root))


@functools.lru_cache(maxsize=64)
def _installed_in(folder: str) -> frozenset[str]:
    """The files and folders directly below this folder that were installed there, as `pip install --target` does."""
    distributions = [PathDistribution(path) for path in Path(folder).glob("*.dist-info")]
    return frozenset(file.parts[0] for distribution in distributions for file in distribution.files or ())


def _refuse_unreadable(name: str) -> None:
    """Raises ConfigError if Python imported a user's module whose code is not part of the keys.

    That is one inside an archive, or one with the name of one of Python's own modules.
    """
    top = name.partition(".")[0]
    spec = getattr(sys.modules.get(top), "__spec__", None)
    origin = spec.origin if spec is not None and spec.has_location else None
    depth = 1 if spec is not None and spec.submodule_search_locations else 0
    if origin is not None and _is_own_file(origin, depth):
        raise ConfigError(
            "own modules of a use case are files with names that Python's modules do not have, so that their code is "
            "part of the keys",
            f"{top} comes from {origin}",
            "rename or unpack it",
        )


def digest_of_sources(source: bytes, own: Mapping[str, str]) -> str:
    """Digest of a use case's file and of the digests of its own modules; of the file alone if it has none."""
    file = digest_bytes(source)
    return digest_bytes("\n".join([file, *(f"{name} {own[name]}" for name in sorted(own))]).encode()) if own else file
