"""Which of our modules, and which installed libraries, decide a result. Their digest is part of the result's key.

Each package declares the `Code` that its results execute, beside that code. A key covers this code and no more: a new
gate, plot, section or command leaves a trained model as it is. What stands in `PLUMBING` is in no key. A test runs
every stage in a fresh process and fails if it executes something that is neither declared nor plumbing.
"""

import ast
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import resolve_name
from pathlib import Path

from ml.digests import digest_file, digest_value
from ml.errors import ConfigError

ROOT = Path(__file__).parents[1]

# What stages execute and no key covers, each with the reason. A folder stands for all that lies below it.
PLUMBING = {
    "ml/code.py": "makes keys",
    "ml/digests.py": "makes keys",
    "ml/declarations.py": "brings declared values into keys; the values themselves are covered",
    "ml/errors.py": "says what went wrong; a failed stage leaves no result",
    "ml/settings.py": "names places; the number of threads is in the keys",
    "ml/storage": "carries bytes, which are proved by their digests",
    "ml/use_case": "loads declared values and own code, which are in the keys by value and by their bytes",
    "ml/use_cases": "declares; values and own code are in the keys",
    "ml/data/code.py": "makes keys",
    "ml/data/demands.py": "refuses declarations; what it lets through is in the keys by value",
    "ml/data/disk.py": "says that a disk failed",
    "ml/data/rejections.py": "chooses words",
    "ml/data/sources": "copies sources; every copied byte is in the snapshot's digest. Keys of copies do cover it",
    "ml/models/code.py": "makes keys",
    "ml/models/demands.py": "refuses declarations; what it lets through is in the keys by value",
    "ml/evaluation/code.py": "makes keys",
    "ml/evaluation/demands.py": "refuses declarations; what it lets through is in the keys by value",
    "ml/operations": "moves, lists and deletes what is there; it computes no result",
    "ml/reporting": "puts results into words",
    "ml/pipeline/machine.py": "its answer is in the keys by value",
    "ml/pipeline/opening.py": "decides what to run; its answers are in the keys by value",
    "ml/pipeline/register.py": "records what was decided",
    "ml/pipeline/run_key.py": "makes keys",
    "ml/pipeline/site.py": "opens places and resumes kept results",
    "ml/pipeline/work.py": "measures time and memory",
    "expectations": "refuses counts that Great Expectations does not confirm; the rules are in the keys by value",
    "tasks": "logs and retries",
}
# Distributions that stages import and no key covers, by the reason.
PLUMBING_LIBRARIES = {
    "they carry handles, locks, schedules and settings": (
        "annotated-types", "cronsim", "filelock", "importlib-metadata", "packaging", "pydantic", "pydantic-core",
        "setuptools", "six", "typing-extensions", "typing-inspection", "zipp",
    ),
    "they talk to S3, databases and servers": (
        "boto3", "botocore", "certifi", "charset-normalizer", "cryptography", "greenlet", "idna", "jmespath",
        "requests", "s3transfer", "sqlalchemy", "urllib3",
    ),
    "MLflow imports them, for its server and its pages": (
        "alembic", "annotated-doc", "anyio", "cachetools", "click", "cloudpickle", "databricks-sdk", "fastapi",
        "google-auth", "mako", "opentelemetry-sdk", "opentelemetry-semantic-conventions", "orjson", "protobuf",
        "psutil", "pydantic-extra-types", "pygments", "pyyaml", "sniffio", "sqlparse", "starlette",
    ),
    "Great Expectations imports them, and decides nothing": (
        "altair", "attrs", "docstring-parser", "great-expectations", "jinja2", "jsonpointer", "jsonschema",
        "jsonschema-specifications", "markupsafe", "marshmallow", "mistune", "pyparsing", "referencing",
        "rfc3339-validator", "rpds-py", "ruamel.yaml", "ruamel.yaml.clib", "tzlocal",
    ),
    "torch, scikit-learn and pandas import them; no stage asks them for anything": (
        "colorama", "mpmath", "narwhals", "python-dateutil", "pytz", "rich", "sympy", "tqdm",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Code:
    """Modules of ours and installed distributions.

    A module is written like `ml/data/reading.py`. A folder like `ml/serving` stands for the modules directly in it,
    not for those in the folders below. A distribution has the name by which pip installs it.
    """

    modules: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    def __add__(self, other: "Code") -> "Code":
        modules = dict.fromkeys((*self.modules, *other.modules))
        return Code(tuple(modules), tuple(dict.fromkeys((*self.libraries, *other.libraries))))

    @property
    def digest(self) -> str:
        """Digest of the modules' bytes and of the libraries' versions, as they were when this process first asked.

        Raises ConfigError for a module or a library that is not there.
        """
        return _digest_of(self)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that the modules stand for, below the checkout."""
        return tuple(dict.fromkeys(file for module in self.modules for file in files_of(module)))


@functools.cache
def _digest_of(code: Code) -> str:
    files = {file: digest for module in code.modules for file, digest in _read(module).items()}
    return digest_value([files, {name: version_of(name) for name in code.libraries}])


_READ: dict[str, dict[str, str]] = {}


def _read(module: str) -> dict[str, str]:
    """The digest of every file that the module stands for, as this process first found them."""
    if module not in _READ:
        _READ[module] = _digests_now(module)
    return _READ[module]


def _digests_now(module: str) -> dict[str, str]:
    return {file: digest_file(ROOT / file) for file in files_of(module)}


def files_of(module: str) -> tuple[str, ...]:
    """The file, or the files directly in the folder, by their paths below the checkout. Raises ConfigError if there
    are none."""
    path = ROOT / module
    files = [path] if path.suffix == ".py" else sorted(path.glob("*.py"))
    if not files or not files[0].is_file():
        raise ConfigError(
            "a Code names files or folders of this project, like ml/data/reading.py",
            f"{module} is none",
            "mend the `code` that names it",
        )
    return tuple(file.relative_to(ROOT).as_posix() for file in files)


def version_of(library: str) -> str:
    """The installed version. Raises ConfigError for a distribution that is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        raise ConfigError(
            "every library that a result depends on is installed", f"{library} is not", f"pip install {library}"
        ) from None


@functools.cache
def distributions_of(module: str) -> tuple[str, ...]:
    """The installed distributions that a top-level module belongs to; none if it is not installed."""
    try:
        metadata.version(module)
    except metadata.PackageNotFoundError:
        return tuple(sorted({*_distributions_by_module().get(module, ())}))
    return (module,)


@functools.cache
def _distributions_by_module() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()  # reads the lists of all installed files, which takes 0.3 s


def require_unchanged() -> None:
    """Raises ConfigError if a module that is in a key of this process has changed on disk: modules that are imported
    from now on would be others than those in the key."""
    if any(_digests_now(module) != digests for module, digests in _READ.items()):
        raise ConfigError("our sources stay as they are during a night", "they changed", "run it again")


def imported_code(names: Iterable[str], face: Mapping[str, str]) -> Code:
    """The modules of ours that code runs which imports these names, such as `ml.Column` or `ml.data.reading`.

    Those that they import in turn are among them, and plumbing is not. `face` says which module has a name of `ml`.
    """
    modules = (face.get(name.removeprefix("ml."), name) for name in names)
    found, waiting = set[str](), {file for module in modules for file in _file_of(module)}
    while waiting:
        found |= waiting
        waiting = {file for above in waiting for file in _imports_of(above)} - found
    return Code(tuple(sorted(found)))


def _file_of(name: str) -> list[str]:
    """The file of a module of ours, or of the module that has a name of ours; none if it is plumbing."""
    parts = name.split(".")
    for end in (len(parts), len(parts) - 1):
        for file in ("/".join(parts[:end]) + ".py", "/".join([*parts[:end], "__init__.py"])):
            if (ROOT / file).is_file():
                return [] if is_plumbing(file) else [file]
    return []


@functools.cache
def _imports_of(file: str) -> frozenset[str]:
    tree, package = ast.parse((ROOT / file).read_bytes()), ".".join(Path(file).parent.parts)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
    names = [name for node in nodes for name in _imported_names(node, package)]
    return frozenset(found for name in names if name.partition(".")[0] == "ml" for found in _file_of(name))


def _imported_names(node: ast.ImportFrom | ast.Import, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
    return [f"{base}.{alias.name}" for alias in node.names]


def is_plumbing(file: str) -> bool:
    """Whether a file of ours is in no key: it stands in PLUMBING, or only says what lies in its folder."""
    listed = any(file == place or file.startswith(f"{place}/") for place in PLUMBING)
    return listed or file == "ml/__init__.py" or _has_only_a_docstring(file)


@functools.cache
def _has_only_a_docstring(file: str) -> bool:
    return file.endswith("__init__.py") and all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for node in ast.parse((ROOT / file).read_bytes()).body
    )
