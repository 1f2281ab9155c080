"""`retrain backup` and `retrain restore`: copies all that cannot be made again into one file, and puts it back."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from deployments.terminal import home_settings, say, show
from ml.errors import Busy, UsageError
from ml.operations.backup import Backup, Manifest, Progress, place_of, write_backup
from ml.operations.restore import Examined, Plan, carry_out, examine, make_plan, nothing_runs
from ml.reporting.words import counted
from ml.settings import Settings

DATABASES = {"mlflow": "MLflow's database", "prefect": "Prefect's database"}
OUTCOMES = {
    "restored": "is put back",
    "kept": "is in use and stays",
    "elsewhere": "is on a server of its own here, and is not touched",
}
YES = {"y", "yes"}


def backup(options: argparse.Namespace) -> int:
    """Writes one file. Nights may run meanwhile."""
    settings = home_settings("backup")
    with _bar(options, "Copying") as bar:
        written = write_backup(settings, options.file, bar)
    show(options, _document(options.file, written), "")
    if not options.json:
        say(
            f"Wrote {options.file}: {_contents(written.manifest)}; {counted(len(written.members), 'object')}, "
            f"{written.manifest.bytes / 1e6:.1f} MB.",
            *(f"Damaged before, and copied as it is: {name}." for name in written.damaged),
            *(f"Not in it: {thing}." for thing in written.manifest.left_out),
        )
    return 0


def _document(file: str, backup: Backup) -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "file": file,
        "made_at": manifest.made_at,
        "entries": manifest.entries,
        "databases": list(manifest.databases),
        "objects": len(backup.members),
        "bytes": manifest.bytes,
        "damaged": list(backup.damaged),
        "left_out": list(manifest.left_out),
    }


def _contents(manifest: Manifest) -> str:
    """The ledgers and databases in a backup, in words."""
    ledgers = [f"{name} up to entry {seq} of its ledger" for name, seq in manifest.entries.items()]
    return ", ".join([*ledgers, *(DATABASES[name] for name in manifest.databases)]) or "nothing was there yet"


def restore(options: argparse.Namespace) -> int:
    """Puts back what is gone or damaged. What is newer than the backup stays, unless --replace names it."""
    settings, replace = home_settings(), frozenset(options.replace)
    place_of(options.file)
    with _bar(options, "Reading") as bar:
        examined = examine(options.file, bar(0))
    plan = make_plan(settings, examined, replace)
    if not plan.does_nothing:
        if not options.json:
            say(f"The backup of {examined.backup.manifest.made_at} holds {_contents(examined.backup.manifest)}.")
            say(*_words(settings, plan))
        _confirm(options)
        _carry_out(options, settings, examined, plan, replace)
    show(options, _outcome(options.file, examined, plan), "")
    if not options.json:
        say("Nothing is missing: nothing was done." if plan.does_nothing else _next_step(examined.backup))
    return 0


def _carry_out(
    options: argparse.Namespace, settings: Settings, examined: Examined, plan: Plan, replace: frozenset[str]
) -> None:  # fmt: skip
    """Restores what was shown to the operator.

    Under the locks it looks again, and raises Busy if something has changed since it was shown.
    """
    with nothing_runs(settings, sorted(examined.ledgers)):
        if make_plan(settings, examined, replace) != plan:
            raise Busy("a restore does what was shown", "something has changed since", "look again: the same command")
        with _bar(options, "Restoring") as bar:
            carry_out(settings, options.file, examined, plan, bar(examined.backup.manifest.bytes))


def _words(settings: Settings, plan: Plan) -> Iterator[str]:
    """What the restore will do, a line for each kind of thing."""
    yield (
        f"  store {settings.store}: {counted(len(plan.missing), 'missing object')} and "
        f"{counted(len(plan.damaged), 'damaged one')} are put back; {counted(plan.kept, 'newer one')} stay"
    )
    if plan.moved_aside or plan.replaced:
        yield f"  {counted(len(plan.moved_aside), 'object')} of ledgers that give way go below replaced/ in the store"
    for name, outcome in plan.databases.items():
        yield f"  {DATABASES[name]} {OUTCOMES[outcome]}"
    if plan.relocated:
        yield "  MLflow's addresses of files are changed to this store"
    yield from _project_words(plan)


def _project_words(plan: Plan) -> Iterator[str]:
    by_outcome: dict[str, list[str]] = {}
    for name, outcome in plan.project.items():
        by_outcome.setdefault(outcome, []).append(name)
    if "restored" in by_outcome:
        yield f"  files of RETRAIN_PROJECT put back: {', '.join(by_outcome['restored'])}"
    if "kept" in by_outcome:
        yield f"  files of RETRAIN_PROJECT that differ, and stay: {', '.join(by_outcome['kept'])}"
    if "no project" in by_outcome:
        yield "  files of RETRAIN_PROJECT are not put back, for it is not set: set it to a folder and restore again"


def _next_step(backup: Backup) -> str:
    alerts = any("retrain alerts" in thing for thing in backup.manifest.left_out)
    return "Restored. Next: retrain doctor" + (
        ", and retrain alerts URL, for it is not in a backup." if alerts else "."
    )


def _outcome(file: str, examined: Examined, plan: Plan) -> dict[str, Any]:
    return {
        **_document(file, examined.backup),
        "restored": sorted(plan.put),
        "newer": plan.kept,
        "moved_aside": list(plan.moved_aside),
        "databases": plan.databases,
        "project": plan.project,
    }


def _confirm(options: argparse.Namespace) -> None:
    if options.yes:
        return
    if options.json or not sys.stdin.isatty():
        raise UsageError("a restore is confirmed", "there is no terminal to ask on", "add --yes")
    try:
        answer = input("Go on? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in YES:
        raise UsageError("a restore is confirmed with y", "it was not", "nothing was done")


@contextmanager
def _bar(options: argparse.Namespace, what: str) -> Iterator[Callable[[int], Progress]]:
    """Shows a progress bar on a terminal, and nothing in a pipe.

    It yields a function that takes the number of bytes in all; that gives a function to call with each number of bytes
    that were done since.
    """
    if options.quiet or options.json or not sys.stderr.isatty():
        yield lambda _total: lambda _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:

        def begin(total: int) -> Progress:
            task = bar.add_task(what, total=total or None)
            return lambda done: bar.advance(task, done)

        yield begin
