"""What one part of a use case's own code needs to run: the statements of its file, and the own modules they import.

A use case's file holds more than the code that a model needs. Here the statements are cut out of it that a field, such
as `derive`, executes. So a changed gate does not change the digest of `derive`, and `derive` can travel inside a
version. A file that cannot be followed for certain counts as a whole, with all of its own modules.
"""

import ast
import functools
import symtable
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from importlib.machinery import SOURCE_SUFFIXES
from typing import Any

from ml.code import distributions_of
from ml.declarations import is_estimator
from ml.digests import digest_bytes, digest_value
from ml.use_case.own_modules import Module, OwnModules, digest_of_sources, names_in

USE_CASE = "USE_CASE"
UNSEEN = {"exec", "eval", "globals", "locals", "vars"}  # with them a file can use and change names that it does not say
BY_NAME = {"import_module", "__import__"}
FROZEN = {"Column", "Target", "Source", "FileSource", "DatabaseSource", "SideTable", "BusinessDays"}  # of ml
PROVIDED = {"ml.Column"}  # what a version has of our project
LITERALS = (ast.Constant, ast.Tuple, ast.UnaryOp, ast.BinOp, ast.keyword, ast.Load, ast.unaryop, ast.operator)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Travelling:
    """Own code that runs on its own.

    `source` is a module. It ends with one assignment for each field, such as `DERIVE = ...`. `modules` are the own
    modules that it imports, by the names by which it does, with their bytes; `packages` are those among them that are
    packages. `ours` are the names of our project that the code imports, and `libraries` the installed distributions.
    `why_not` says why it cannot run where our project is not installed; None if it can. `digest` changes with all own
    code that is executed, also where it cannot travel.
    """

    source: bytes = b""
    modules: Mapping[str, bytes] = field(default_factory=dict)
    packages: frozenset[str] = frozenset()
    ours: frozenset[str] = frozenset()
    libraries: frozenset[str] = frozenset()
    why_not: str | None = None
    digest: str = ""


NOTHING = Travelling()


class CannotFollow(Exception):
    """The file has something that cannot be followed; the text says what, for a person."""


def travelling(own: OwnModules, use_case: object, fields: Iterable[str]) -> Travelling:
    """The own code that these fields of the use case execute; NOTHING if none of them has own code."""
    wanted = [name for name in fields if has_own_code(getattr(use_case, name), own.prefix)]
    if not wanted:
        return NOTHING
    try:
        return _cut(own, use_case, wanted)
    except CannotFollow as reason:
        modules = {name: module.source for name, module in own.read.items()}
        digest = digest_of_sources(own.main.source, own.digests)
        return _made_of(own, own.main.source, modules, str(reason), digest)


def travelling_modules(own: OwnModules, names: Iterable[str]) -> Travelling:
    """Own modules of these names, with those that they import; NOTHING if there are no names."""
    source = "".join(f"import {name}\n" for name in names).encode()
    if not source:
        return NOTHING
    modules = _imported(own, source)
    try:
        _refuse_made_up_names(own, source, modules)
        why_not = _why_not(own, source, modules)
    except CannotFollow as reason:
        why_not = str(reason)
    return _made_of(own, source, modules, why_not, digest_value(_digests(modules)))


def done_at_import(own: OwnModules) -> str:
    """Digest of what the file does to libraries when it is imported; "" if it does nothing to them.

    That is each statement like `torch.set_default_dtype(...)`, also in a block or in a function of the file that is
    called, with what it needs; and each own module that is imported and never named again. They may decide results of
    code that the file does not have.
    """
    file = _file(own.main)
    settings = [one.node for one in file.statements if file.sets_a_library(one)]
    effects = any(file.is_for_effect(one, own) for one in file.statements)
    chosen = [*file.needed_by(settings, own), *settings] if settings or effects else []
    tree = ast.Module([_absolute(node, own.main.package) for node in chosen], [])
    source = ast.unparse(ast.fix_missing_locations(tree)).encode()
    return digest_value([digest_bytes(source), _digests(_imported(own, source))]) if source else ""


def has_own_code(value: Any, prefix: str) -> bool:
    """Whether the value, or something in it, is a function or an object of the use case's own file or modules."""
    if isinstance(value, functools.partial):
        return any(has_own_code(part, prefix) for part in (value.func, value.args, value.keywords))
    if isinstance(value, Mapping):
        return any(has_own_code(part, prefix) for part in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(has_own_code(part, prefix) for part in value)
    kinds = (value,) if isinstance(value, type) or callable(value) else ()
    places = [getattr(kind, "__module__", None) or "" for kind in (*kinds, *type(value).__mro__)]
    if any(place == prefix or place.startswith(f"{prefix}.") for place in places):
        return True
    if isinstance(value, type):
        return False
    if is_estimator(type(value)):
        return any(has_own_code(part, prefix) for part in value.get_params(deep=False).values())
    return is_dataclass(value) and any(has_own_code(part, prefix) for part in vars(value).values())


def _cut(own: OwnModules, use_case: object, wanted: Sequence[str]) -> Travelling:
    """Raises CannotFollow if the statements cannot be found for certain."""
    file = _file(own.main)
    file.refuse_unseen()
    roots = {name.upper(): _expression(file, own, use_case, name) for name in wanted}
    ends = [ast.Assign([ast.Name(name, ast.Store())], value, lineno=0) for name, value in roots.items()]
    chosen = [*file.needed_by(ends, own), *ends]
    tree = ast.Module([_absolute(node, own.main.package) for node in chosen], [])
    source = ast.unparse(ast.fix_missing_locations(tree)).encode() + b"\n"
    modules = _imported(own, source)
    _refuse_made_up_names(own, source, modules)
    digest = digest_value([digest_bytes(source), _digests(modules)])
    return _made_of(own, source, modules, _why_not(own, source, modules), digest)


def _made_of(
    own: OwnModules, source: bytes, modules: Mapping[str, bytes], why_not: str | None, digest: str
) -> Travelling:
    return Travelling(
        source=source,
        modules=modules,
        packages=_packages(own, modules),
        ours=_ours(own, source, modules),
        libraries=_libraries(own, source, modules),
        why_not=why_not,
        digest=digest,
    )


def _digests(modules: Mapping[str, bytes]) -> dict[str, str]:
    return {name: digest_bytes(data) for name, data in modules.items()}


def _expression(file: "File", own: OwnModules, use_case: object, name: str) -> ast.expr:
    """The expression that gives the field its value. Raises CannotFollow if it is not written in the file."""
    if name in file.fields:
        return file.fields[name]
    value = getattr(use_case, name)
    qualified = getattr(value, "__qualname__", "")
    if getattr(value, "__module__", None) == own.prefix and file.is_function(qualified):
        return ast.Name(qualified, ast.Load())
    raise CannotFollow(f"{own.file.name} does not say `{name}=` in `USE_CASE = UseCase(...)`")


@dataclass(frozen=True)
class Statement:
    """A statement of the file itself. `binds` are the names that it gives a value to, `uses` those that it mentions,
    `touches` those whose values it may change."""

    node: ast.stmt
    binds: frozenset[str]
    uses: frozenset[str]
    touches: frozenset[str]

    @property
    def is_import(self) -> bool:
        return isinstance(self.node, ast.Import | ast.ImportFrom)

    @property
    def defines(self) -> bool:
        """Whether all that it does is to define a function or a class."""
        return isinstance(self.node, Function | ast.ClassDef)

    @property
    def only_assigns(self) -> bool:
        return isinstance(self.node, ast.Assign | ast.AnnAssign) and all(
            isinstance(target, ast.Name | ast.Tuple | ast.List) for target in _targets(self.node)
        )


class File:
    """The statements of a use case's file. `fields` are the expressions in `USE_CASE = UseCase(...)`, by field."""

    def __init__(self, module: Module) -> None:
        self.name = module.file.name
        self.tree = ast.parse(module.source, str(module.file))
        self.statements = [_statement(node) for node in self.tree.body]
        self.rebound = {name for node in ast.walk(self.tree) if isinstance(node, ast.Global) for name in node.names}
        self.fields = self._fields()

    def refuse_unseen(self) -> None:
        """Raises CannotFollow for what uses or changes names without saying them."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                raise CannotFollow(f"{self.name} imports * (line {node.lineno})")
            if isinstance(node, ast.Name) and node.id in UNSEEN:
                raise CannotFollow(f"{self.name} uses {node.id} (line {node.lineno})")
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules":
                raise CannotFollow(f"{self.name} uses sys.modules (line {node.lineno})")

    def is_function(self, name: str) -> bool:
        """Whether the name is bound once in the file, by a function."""
        binding = [one for one in self.statements if name in one.binds]
        return len(binding) == 1 and isinstance(binding[0].node, Function)

    def sets_a_library(self, one: Statement) -> bool:
        """Whether the statement, or a function of the file that it calls, sets or calls something of a library."""
        if one.is_import or one.defines:
            return False
        names = _acted_on(one.node)
        called = [other.node for other in self.statements if other.defines and other.binds & self._reach(names)]
        return bool(names.union(*map(_acted_on, called)) & self._imported_names())

    def needed_by(self, ends: Iterable[ast.stmt], own: OwnModules) -> list[ast.stmt]:
        """The statements, in their order, without which `ends` would run otherwise or not at all."""
        needed = {name for node in ends for name in _statement(node).uses}
        chosen = [one for one in self.statements if _is_future(one.node) or self.is_for_effect(one, own)]
        needed |= {name for one in chosen for name in (*one.uses, *one.binds)}
        while True:
            more = [one for one in self.statements if one not in chosen and self._matters(one, needed)]
            if not more:
                break
            chosen += more
            needed |= {name for one in more for name in one.uses}
        kept = (_pruned(one.node, needed) for one in self.statements if one in chosen)
        return [node for node in kept if node is not None]

    def _matters(self, one: Statement, needed: set[str]) -> bool:
        """Whether the statement binds a needed name, or may change its value."""
        if USE_CASE in one.binds:
            return False
        if one.binds & needed:
            return True
        acts = not (one.is_import or one.defines or one.only_assigns)
        return bool(acts and one.touches & needed) or bool(self._reach(one.touches) & self._changeable(needed))

    def _reach(self, names: Iterable[str]) -> set[str]:
        """These names, and those that the statements which bind them mention, and so on."""
        reached, waiting = set[str](), set(names)
        while waiting:
            reached |= waiting
            binding = (one for one in self.statements if one.binds & waiting and USE_CASE not in one.binds)
            waiting = {name for one in binding for name in one.uses} - reached
        return reached

    def _changeable(self, names: Iterable[str]) -> set[str]:
        """Those of the names that hold a value which can change: no function, class, module or constant."""
        return {name for name in names if any(self._may_change(one, name) for one in self.statements)}

    def _may_change(self, one: Statement, name: str) -> bool:
        if name not in one.binds or one.is_import:
            return False
        if name in self.rebound:
            return True
        if one.defines:
            return isinstance(one.node, ast.ClassDef)
        return not (one.only_assigns and self._is_constant(getattr(one.node, "value", None)))

    def _is_constant(self, value: ast.expr | None) -> bool:
        """Whether it is made of numbers, texts, tuples and declarations of ml, none of which can change."""
        if value is None:
            return True
        if isinstance(value, ast.Call):
            frozen = isinstance(value.func, ast.Name) and value.func.id in FROZEN & self._names_of_ml()
            return frozen and all(self._is_constant(part) for part in (*value.args, *(k.value for k in value.keywords)))
        if isinstance(value, ast.Name):
            return not self._changeable([value.id])
        return isinstance(value, LITERALS) and all(
            self._is_constant(part) for part in ast.iter_child_nodes(value) if isinstance(part, ast.expr)
        )

    def is_for_effect(self, one: Statement, own: OwnModules) -> bool:
        """Whether it imports an own module under a name that nothing uses: then the module is there for what it does
        when it is imported."""
        imports = [node for node in ast.walk(one.node) if isinstance(node, ast.Import | ast.ImportFrom)]
        if one.defines or not any(_own_names(own, node) for node in imports):
            return False
        used = {name for other in self.statements if other is not one for name in other.uses}
        return any(_bound_by(alias) not in used for node in imports for alias in node.names if _own_names(own, node))

    def _imported_names(self) -> set[str]:
        """The names under which the file has modules and their contents, ours excepted."""
        return {name for one in self.statements if one.is_import for name in one.binds} - self._names_of_ml()

    def _names_of_ml(self) -> set[str]:
        nodes = [one.node for one in self.statements if isinstance(one.node, ast.ImportFrom)]
        return {_bound_by(alias) for node in nodes if _is_of_ml(node.module or "") for alias in node.names}

    def _fields(self) -> dict[str, ast.expr]:
        binding = [one.node for one in self.statements if USE_CASE in one.binds]
        call = getattr(binding[0], "value", None) if len(binding) == 1 else None
        if not isinstance(call, ast.Call) or not self._is_use_case(call.func):
            return {}
        return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}

    def _is_use_case(self, function: ast.expr) -> bool:
        if isinstance(function, ast.Attribute):
            return ast.unparse(function) == "ml.UseCase"
        names = [one.node for one in self.statements if isinstance(one.node, ast.ImportFrom)]
        aliases = (alias for node in names if _is_of_ml(node.module or "") for alias in node.names)
        named = {_bound_by(alias) for alias in aliases if alias.name == "UseCase"}
        return isinstance(function, ast.Name) and function.id in named


@functools.lru_cache(maxsize=8)
def _file(module: Module) -> File:
    return File(module)


def _statement(node: ast.stmt) -> Statement:
    table = symtable.symtable(ast.unparse(node), "a statement", "exec")
    symbols = table.get_symbols()
    binds = {one.get_name() for one in symbols if one.is_assigned() or one.is_imported() or one.is_namespace()}
    uses = {one.get_name() for one in symbols if one.is_referenced()}
    for inner in _inner_tables(table):
        in_class = inner.get_type() == "class"
        uses |= {one.get_name() for one in inner.get_symbols() if one.is_global() or (in_class and one.is_referenced())}
    return Statement(node, frozenset(binds), frozenset(uses), frozenset(_touched(node, uses)))


def _inner_tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _inner_tables(child)


def _touched(node: ast.stmt, uses: set[str]) -> set[str]:
    """The names whose values the statement may change when it runs: by a call, or because they are assigned into."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return set()
    if isinstance(node, Function):
        return _names(node.decorator_list)
    if isinstance(node, ast.ClassDef):
        return _names([*node.decorator_list, *node.bases, *node.keywords])
    if isinstance(node, ast.Assign | ast.AnnAssign):
        calls = [part for part in ast.walk(node) if isinstance(part, ast.Call | ast.Await)]
        return _names([*calls, *(target for target in _targets(node) if not isinstance(target, ast.Name))])
    return set() if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else uses


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign | ast.Delete):
        return list(node.targets)
    return [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []


def _pruned(node: ast.stmt, needed: set[str]) -> ast.stmt | None:
    """An import without the names that are not needed, None if none is; any other statement as it is."""
    if not isinstance(node, ast.Import | ast.ImportFrom) or _is_future(node):
        return node
    aliases = [alias for alias in node.names if _bound_by(alias) in needed]
    if not aliases:
        return None
    if isinstance(node, ast.Import):
        return ast.Import(aliases)
    return ast.ImportFrom(node.module, aliases, node.level)


def _bound_by(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _acted_on(node: ast.stmt) -> set[str]:
    """The names of what the statement, or one inside it, calls, or sets something of."""
    parts = [part for part in ast.walk(node) if isinstance(part, ast.stmt)]
    acted_on = (part.value if isinstance(part, ast.Expr) else next(iter(_targets(part)), None) for part in parts)
    roots = (_root(place) for place in acted_on if place is not None and not isinstance(place, ast.Name))
    return {root.id for root in roots if isinstance(root, ast.Name)}


def _root(place: ast.expr) -> ast.expr:
    """What the attribute, item or call is of: `torch` in `torch.backends.cudnn.flags(...)`."""
    while isinstance(place, ast.Attribute | ast.Subscript | ast.Call):
        place = place.func if isinstance(place, ast.Call) else place.value
    return place


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _is_of_ml(module: str) -> bool:
    return module.partition(".")[0] == "ml"


def _absolute(node: ast.stmt, package: str) -> ast.stmt:
    """The statement with absolute imports, so that it means the same in a module of another package."""
    return ast.fix_missing_locations(AbsoluteImports(package).visit(node))


class AbsoluteImports(ast.NodeTransformer):
    def __init__(self, package: str) -> None:
        self.package = package

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level:
            return node
        above = self.package.split(".")
        base = ".".join(above[: len(above) - node.level + 1])
        return ast.ImportFrom(f"{base}.{node.module}" if node.module else base, node.names, 0)


def _own_names(own: OwnModules, node: ast.AST) -> set[str]:
    """The own modules that the import statement means."""
    return _named_in(own, ast.unparse(node).encode(), own.main)


def _named_in(own: OwnModules, source: bytes, module: Module) -> set[str]:
    return names_in(Module(module.name, module.place, source)) & own.read.keys()


def _imported(own: OwnModules, source: bytes) -> dict[str, bytes]:
    """The own modules that the source imports, and those that these import."""
    found, waiting = set[str](), _named_in(own, source, own.main)
    while waiting:
        found |= waiting
        named = (_named_in(own, own.read[name].source, own.read[name]) for name in waiting)
        waiting = {name for names in named for name in names} - found
    return {name: own.read[name].source for name in sorted(found)}


def _refuse_made_up_names(own: OwnModules, source: bytes, modules: Iterable[str]) -> None:
    """Raises CannotFollow for an import by a name that is made up while the code runs."""
    texts = {own.file.name: source} | {
        own.read[name].file.name: own.read[name].source for name in _sources(own, modules)
    }
    for file, text in texts.items():
        calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
        by_name = (call for call in calls if _called(call) in BY_NAME)
        if not all(isinstance(arg, ast.Constant) for call in by_name for arg in call.args[:2]):
            raise CannotFollow(f"{file} imports a module by a name that is made up while it runs")


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _sources(own: OwnModules, modules: Iterable[str]) -> list[str]:
    """Those of the modules that are source files."""
    return [name for name in modules if own.read[name].file.suffix in SOURCE_SUFFIXES]


def _packages(own: OwnModules, modules: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in modules if own.read[name].place.folders)


def _why_not(own: OwnModules, source: bytes, modules: Iterable[str]) -> str | None:
    """Why the code cannot run where our project is not installed, in words."""
    if compiled := sorted({*modules} - {*_sources(own, modules)}):
        return f"{own.read[compiled[0]].file.name} is compiled for one kind of machine"
    if others := sorted(_ours(own, source, modules) - PROVIDED):
        return f"it uses {', '.join(others)}, and a version has only {', '.join(sorted(PROVIDED))}"
    return None


def _ours(own: OwnModules, source: bytes, modules: Iterable[str]) -> frozenset[str]:
    """What the code imports of our project, such as `ml.Column` or `ml.metrics.scores`."""
    texts = (own.read[name].source for name in _sources(own, modules))
    return frozenset(name for text in (source, *texts) for name in _names_of_ours(text))


def _libraries(own: OwnModules, source: bytes, modules: Iterable[str]) -> frozenset[str]:
    """The installed distributions that the code imports."""
    texts = [Module(own.main.name, own.main.place, source), *(own.read[name] for name in modules)]
    tops = {name.partition(".")[0] for text in texts for name in names_in(text)}
    tops -= {*sys.stdlib_module_names, "ml", *(name.partition(".")[0] for name in own.read)}
    return frozenset(library for top in tops for library in distributions_of(top))


def _names_of_ours(source: bytes) -> Iterator[str]:
    nodes = list(ast.walk(ast.parse(source)))
    faces = {
        alias.asname or "ml"
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "ml"
    }
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and _is_of_ml(node.module or ""):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_of_ml(alias.name))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in faces:
            yield f"ml.{node.attr}"
