"""`retrain backup` and `retrain restore`: everything that cannot be made again, as one file, and back."""

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
    """Writes one file, while nights go on."""
    settings = home_settings("backup")
    with _bar(options, "Copying") as bar:
        made = write_backup(settings, options.file, bar)
    show(options, _document(options.file, made), "")
    if not options.json:
        say(
            f"Wrote {options.file}: {_held(made.manifest)}; {counted(len(made.members), 'object')}, "
            f"{made.manifest.bytes / 1e6:.1f} MB.",
            *(f"Damaged before, and copied as it is: {each}." for each in made.damaged),
            *(f"Not in it: {each}." for each in made.manifest.left_out),
        )
    return 0


def _document(file: str, made: Backup) -> dict[str, Any]:
    manifest = made.manifest
    return {
        "file": file,
        "made_at": manifest.made_at,
        "entries": manifest.entries,
        "databases": list(manifest.databases),
        "objects": len(made.members),
        "bytes": manifest.bytes,
        "damaged": list(made.damaged),
        "left_out": list(manifest.left_out),
    }


def _held(manifest: Manifest) -> str:
    ledgers = [f"{name} up to entry {seq} of its ledger" for name, seq in manifest.entries.items()]
    return ", ".join([*ledgers, *(DATABASES[name] for name in manifest.databases)]) or "nothing was there yet"


def restore(options: argparse.Namespace) -> int:
    """Puts back what is gone or damaged; what is newer stays, unless --replace names it."""
    settings, replace = home_settings(), frozenset(options.replace)
    place_of(options.file)
    with _bar(options, "Reading") as bar:
        examined = examine(options.file, bar(0))
    plan = make_plan(settings, examined, replace)
    if not plan.does_nothing:
        if not options.json:
            say(f"The backup of {examined.backup.manifest.made_at} holds {_held(examined.backup.manifest)}.")
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
    """What was asked about is looked at again, under the locks."""
    with nothing_runs(settings, sorted(examined.ledgers)):
        if make_plan(settings, examined, replace) != plan:
            raise Busy("a restore does what was shown", "something has changed since", "look again: the same command")
        with _bar(options, "Restoring") as bar:
            carry_out(settings, options.file, examined, plan, bar(examined.backup.manifest.bytes))


def _words(settings: Settings, plan: Plan) -> Iterator[str]:
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


def _next_step(made: Backup) -> str:
    alerts = any("retrain alerts" in each for each in made.manifest.left_out)
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
        said = input("Go on? [y/N] ")
    except EOFError:
        said = ""
    if said.strip().lower() not in YES:
        raise UsageError("a restore is confirmed with y", "it was not", "nothing was done")


@contextmanager
def _bar(options: argparse.Namespace, what: str) -> Iterator[Callable[[int], Progress]]:
    """A live bar on a terminal, nothing in a pipe. Given the bytes to come, it gives what to tell of those done."""
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
