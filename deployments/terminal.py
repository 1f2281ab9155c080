"""What every command shares on the terminal: where it works, and how it prints words, tables and documents."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from deployments.environment import prepare_environment
from ml.config import require_known, use_case_files
from ml.errors import ConfigError, UsageError, printable
from ml.settings import Settings


def show_sentences_only(options: argparse.Namespace) -> None:
    """One sentence comes at the end; Prefect would print every traceback before it. To be called first of all."""
    if not options.debug:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")  # a line an event, of a server that is gone


def chosen_names(options: argparse.Namespace, settings: Settings) -> list[str]:
    """The use case that the command names, or all of them. Raises UsageError for an unknown one."""
    if options.use_case is None:
        return sorted(use_case_files(settings.project))
    require_known(options.use_case, settings.project)
    return [str(options.use_case)]


def home_settings() -> Settings:
    settings = Settings.from_environment()
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


def asked_on_terminal(question: str) -> str:
    """The line that is typed in. Raises UsageError where the input ends instead, as by Ctrl-D."""
    try:
        return input(question)
    except EOFError:
        say("")
        raise UsageError("a question is answered", "the input ended", "nothing was done; ask again") from None


def say(*lines: str) -> None:
    """Prints each line as one, with what moves a terminal's cursor written out: words come from anybody."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def show(options: argparse.Namespace, document: dict[str, Any], words: str) -> None:
    if options.json:
        print_json(document)
    elif words:
        say(words)


def print_json(document: dict[str, Any]) -> int:
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    return 0


def aligned(table: list[list[str]]) -> list[str]:
    """Rows of cells, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in table]


def words_of(value: Any) -> str:
    return "-" if value is None else str(value)


def own_name() -> str:
    """How this command is called from here: `retrain` where it is on the PATH, else its path."""
    here = Path(sys.argv[0])
    if shutil.which("retrain") or not here.exists():
        return "retrain"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)
