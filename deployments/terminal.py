"""What all commands share: finding use cases and the home, and printing sentences, tables and JSON documents."""

import argparse
import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from deployments.environment import prepare_environment
from ml.errors import ConfigError, RetrainError, UsageError, printable
from ml.settings import Settings, where_no_home_is
from ml.storage import paths
from ml.storage.store import open_store
from ml.use_case.loading import require_known, use_case_files

BEGIN = "go to the folder of one, set RETRAIN_HOME, or begin one with retrain run USE_CASE"


def show_sentences_only(options: argparse.Namespace) -> None:
    """Keeps Prefect from printing tracebacks: a command reports its error in one sentence. Call it first of all."""
    if not options.debug:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        # If the server is gone, Prefect would print a line for each event that it cannot send.
        os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")


def chosen_names(options: argparse.Namespace, settings: Settings) -> list[str]:
    """The use case that the command names, or all that have a file. Raises UsageError for an unknown one."""
    if options.use_case is None:
        return sorted(use_case_files(settings.project))
    require_use_case(options.use_case)
    return [str(options.use_case)]


def chosen_or_recorded(options: argparse.Namespace, settings: Settings) -> list[str]:
    """Like `chosen_names`, with those that only have a ledger: their file is gone, but their champions still serve."""
    if options.use_case is None:
        return sorted({*use_case_files(settings.project), *recorded_names(settings)})
    require_recorded(options.use_case)
    return [str(options.use_case)]


def require_use_case(name: str) -> None:
    """Raises UsageError for a use case without a file, and says whether the store has a ledger of it.

    Call it before `home_settings`, so that no home is made for a mistyped name.
    """
    settings = Settings.from_environment()
    if name not in use_case_files(settings.project) and name in recorded_names(settings):
        raise UsageError(
            "USE_CASE has a file", f"the store knows {name}, and its file is not here", no_file(settings, name)
        )
    require_known(name, settings.project)


def require_recorded(name: str) -> None:
    """Raises UsageError for a use case that has neither a file nor a ledger."""
    settings = Settings.from_environment()
    if name not in recorded_names(settings):
        require_known(name, settings.project)


def recorded_names(settings: Settings) -> set[str]:
    """The use cases that have a ledger in the store; none if the store does not answer."""
    try:
        return {key.split("/")[1] for key in open_store(settings.store).keys(paths.ledgers())}
    except RetrainError:
        return set()


def no_file(settings: Settings, name: str) -> str:
    """What to do about a use case whose file is not here."""
    if settings.project is None:
        return f"set RETRAIN_PROJECT to the folder that has use_cases/{name}.py"
    return f"bring back {settings.project / 'use_cases' / name}.py, or set RETRAIN_PROJECT to the folder that has it"


def home_settings(command: str = "") -> Settings:
    """The settings for a command that writes. If there is no home, one is made.

    If `command` is given, no home is made: such a command only changes what is there. Raises ConfigError if there is no
    home to change, or if the home cannot be written.
    """
    settings = Settings.from_environment()
    if command and not settings.has_home and settings.keeps_files_at_home:
        raise _no_home(command, where_no_home_is())
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        (settings.home / ".writable").touch()
        (settings.home / ".writable").unlink()
    except OSError as error:
        raise ConfigError(
            "RETRAIN_HOME is a folder that can be written",
            f"{settings.home}: {error.strerror}",
            "set RETRAIN_HOME to one that can",
        ) from error
    prepare_environment(settings)
    return settings


def home_to_read(command: str) -> Settings:
    """The settings for a command that only reads. Raises ConfigError if there is no home to read."""
    settings, no_home = home_if_any()
    if no_home and settings.keeps_files_at_home:
        raise _no_home(command, no_home)
    return settings


def home_if_any() -> tuple[Settings, str | None]:
    """The settings for a command that only reads and, if there is no home, a sentence about where one was looked for.

    Without a home, libraries write into a temporary folder, which is deleted when the command ends.
    """
    settings = Settings.from_environment()
    if settings.has_home:
        prepare_environment(settings, make=False)
        return settings, None
    no_home = where_no_home_is()
    scratch = Path(tempfile.mkdtemp(prefix="retrain-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    temporary = Settings.from_environment(scratch)
    prepare_environment(temporary, make=False)
    return temporary, no_home


def _no_home(command: str, where: str) -> ConfigError:
    return ConfigError(f"`retrain {command}` needs the home of an installation", where, BEGIN)


def asked_on_terminal(question: str) -> str:
    """The line that the operator types. Raises UsageError if the input ends instead, for example by Ctrl-D."""
    try:
        return input(question)
    except EOFError:
        say("")
        raise UsageError("a question is answered", "the input ended", "nothing was done; ask again") from None


def say(*lines: str) -> None:
    """Prints each text as one line. Control characters are written out, because texts may come from outside."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def show(options: argparse.Namespace, document: dict[str, Any], words: str) -> None:
    """Prints the document if --json was given, and otherwise the words, if there are any."""
    if options.json:
        print_json(document)
    elif words:
        say(words)


def print_json(document: dict[str, Any]) -> int:
    """Prints the document and returns exit code 0."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    return 0


def aligned(table: list[list[str]]) -> list[str]:
    """One line of text for each row of cells. Each column is as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def fitting(table: list[list[str]]) -> list[str]:
    """The table as lines or, on a terminal that is too narrow for it, each row as a block of `name  cell`.

    The first row has the names. A pipe has no width, so that programs always get the table.
    """
    lines = aligned(table)
    if not sys.stdout.isatty() or max(map(len, lines)) <= shutil.get_terminal_size().columns:
        return lines
    names, *rows = table
    blocks = (aligned([list(pair) for pair in zip(names, row, strict=True) if pair[1] != "-"]) for row in rows)
    return [line for block in blocks for line in ("", *block)][1:]


def words_of(value: Any) -> str:
    """The value as a cell of a table; `-` for None."""
    return "-" if value is None else str(value)


def own_name() -> str:
    """What to type to call this command: `retrain` if it is on the PATH, otherwise its path."""
    here = Path(sys.argv[0])
    if shutil.which("retrain") or not here.exists():
        return "retrain"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)
