"""A company's own modules that travel inside a model: its `derive`, or its own kind of model, and what they import.

They run from their bytes, under names that hold the digest of all of them. So two versions with different code keep
their own answers in one process, and nothing of them stands in sys.modules under its plain name. What they import of
Python and of libraries is imported as ever; `from ml import Column` is answered here, since ml is not installed where a
model is served.
"""

import builtins
import functools
import hashlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, resolve_name, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pandas as pd

from .columns import Column

OURS, FACE = "ml", {"Column": Column}  # what own modules may import of this project, here as in a night
MODULES, DERIVE, INIT = "modules", "derive.py", "__init__.py"
_LOADING = threading.RLock()


class AsRead(SourceFileLoader):
    """Runs the bytes that were read, because the file may have changed since."""

    def __init__(self, fullname: str, path: Path | str, source: bytes) -> None:
        super().__init__(fullname, str(path))
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        """The compiled source; no compiled file is written. Raises SyntaxError or ValueError if that cannot be done."""
        return self.source_to_code(self.source, self.get_filename(fullname))


def importlib_with(import_module: Callable[..., ModuleType]) -> ModuleType:
    """A copy of Python's `importlib` with this `import_module`, which knows own modules."""
    own = ModuleType("importlib")
    vars(own).update(vars(importlib), import_module=import_module)
    return own


class OwnCode:
    """Own modules by their names, with their bytes. `packages` are those among them that are packages.

    `derive` is the source of one more module, which may import them and ends with `DERIVE = ...`; b"" if there is none.
    """

    def __init__(self, modules: Mapping[str, bytes], packages: Iterable[str] = (), derive: bytes = b"") -> None:
        self.modules, self.packages, self.derive = dict(modules), frozenset(packages), derive
        listed = [(self.path_of(name), hashlib.sha256(self.modules[name]).hexdigest()) for name in sorted(modules)]
        self.prefix = f"{__package__}.own_{hashlib.sha256(repr(listed).encode()).hexdigest()[:16]}"

    @classmethod
    def of_folder(cls, folder: Path) -> "OwnCode":
        """What `save` wrote into the folder; nothing if there is no folder."""
        below = folder / MODULES
        files = {path.relative_to(below): path.read_bytes() for path in sorted(below.rglob("*.py"))}
        names = {path: path.parent if path.name == INIT else path.with_suffix("") for path in files}
        modules = {".".join(names[path].parts): source for path, source in files.items()}
        packages = (".".join(names[path].parts) for path in files if path.name == INIT)
        derive = folder / DERIVE
        return cls(modules, packages, derive.read_bytes() if derive.is_file() else b"")

    def save(self, folder: Path) -> None:
        """Writes all of it as source files."""
        files = {folder / MODULES / self.path_of(name): source for name, source in self.modules.items()}
        if self.derive:
            files[folder / DERIVE] = self.derive
        for file, source in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source)

    def path_of(self, name: str) -> str:
        """The module's file, below the folder with all modules."""
        place = name.replace(".", "/")
        return f"{place}/{INIT}" if name in self.packages else f"{place}.py"

    def load(self, name: str) -> ModuleType:
        """The module of this name; the packages above it are loaded first."""
        parent, _, tail = name.rpartition(".")
        above = self.load(parent) if parent else None
        with _LOADING:
            private = f"{self.prefix}.{name}"
            module = sys.modules.get(private) or self._loaded(name, private)
        if above is not None:
            setattr(above, tail, module)
        return module

    def derive_function(self) -> Callable[[pd.DataFrame], pd.DataFrame]:
        """The company's `derive`."""
        private = f"{self.prefix}.{hashlib.sha256(self.derive).hexdigest()[:16]}"
        with _LOADING:
            derive: Callable[[pd.DataFrame], pd.DataFrame] = self._executed(private, "", self.derive, DERIVE).DERIVE
        return derive

    def _loaded(self, name: str, private: str) -> ModuleType:
        if not self._is_own(name):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        is_package = name in self.packages or name not in self.modules
        package = name if is_package else name.rpartition(".")[0]
        module = self._executed(private, package, self.modules.get(name, b""), self.path_of(name), is_package)
        if name == OURS:
            vars(module).update(FACE)
        return module

    def _executed(self, private: str, package: str, source: bytes, file: str, is_package: bool = False) -> ModuleType:
        """Runs the source as this module, with our `_import` for its import statements."""
        loader = AsRead(private, file, source)
        below: list[str] | None = [] if is_package else None
        spec = spec_from_file_location(private, file, loader=loader, submodule_search_locations=below)
        assert spec is not None, file
        module = module_from_spec(spec)
        own_import = functools.partial(self._import, package)
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": own_import}
        sys.modules[private] = module  # dataclasses look up the names in their hints there
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[private]
            raise
        return module

    def _import(
        self, package: str, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        """Replaces Python's `__import__` for the import statements of own modules."""
        full = resolve_name("." * level + name, package) if level else name
        if full.startswith(self.prefix) or not self._is_own(full.partition(".")[0]):  # pickle asks by private names
            imported = builtins.__import__(name, globals, locals, fromlist, level)
            own_import = functools.partial(self._import_module, package)
            return importlib_with(own_import) if imported is importlib else imported
        module = self.load(full)
        if not fromlist:
            return self.load(full.partition(".")[0])
        for attribute in fromlist:
            if not hasattr(module, attribute) and self._is_own(f"{full}.{attribute}"):
                self.load(f"{full}.{attribute}")
        return module

    def _is_own(self, name: str) -> bool:
        """Whether it is an own module, a folder without a file of its own in which one lies, or `ml`."""
        return name in {OURS, *self.modules} or any(module.startswith(f"{name}.") for module in self.modules)

    def _import_module(self, importing: str, name: str, package: str | None = None) -> ModuleType:
        above = importing if package is None or package.startswith(self.prefix) else package
        full = resolve_name(name, above) if name.startswith(".") else name
        return self.load(full) if self._is_own(full.partition(".")[0]) else importlib.import_module(full)


NO_OWN_CODE = OwnCode({})
