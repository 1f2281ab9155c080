"""The moves of an operator: promote, rollback, hold, release and data.

Each is shown, confirmed on the terminal or by --yes, and then recorded as one entry of the ledger.
"""

import argparse
import sys
from collections.abc import Callable
from datetime import date

from deployments.commands.ledger import entry_row
from deployments.prefect.announcement import prefect_api
from deployments.prefect.answered import resume_answered
from deployments.terminal import asked_on_terminal, home_settings, require_use_case, show
from ml.data.handles import CheckedDays
from ml.data.sources.bringing import partition_files
from ml.errors import UsageError, printable
from ml.evaluation.source_evidence import days_to_exclude
from ml.operations.alias import alias_words
from ml.operations.moves import (
    carry_out,
    judged_since,
    plan_exclude,
    plan_hold,
    plan_include,
    plan_no,
    plan_promote,
    plan_release,
    plan_rollback,
    require_whole,
)
from ml.operations.usable import why_unusable
from ml.reporting.source_section import after_no
from ml.settings import Settings
from ml.storage.kept import KeptMonths
from ml.storage.ledger import Ledger, NightEntry, OperatorEntry, named, open_questions
from ml.storage.locks import one_move_at_a_time
from ml.storage.registry import Registry
from ml.storage.store import Store, open_store
from ml.use_case.definition import UseCase
from ml.use_case.loading import load_use_case

Plan = Callable[[Ledger, str], OperatorEntry]
YES = {"y", "yes"}


def promote(options: argparse.Namespace) -> int:
    """Makes a registered version champion, whatever the gates said of it; with --no, says that it is not to serve."""
    if options.no:
        return _say_no(options)
    if options.exclude:
        raise UsageError("--exclude goes with --no", "there is no --no", "say which of the two it is")
    return _move_champion(options, lambda ledger, _, reason: plan_promote(ledger, options.version, reason))


def rollback(options: argparse.Namespace) -> int:
    """Makes an earlier champion champion again."""

    def plan(ledger: Ledger, registry: Registry, reason: str) -> OperatorEntry:
        return plan_rollback(ledger, options.to, reason, lambda one: why_unusable(ledger.store, registry, one.served))

    return _move_champion(options, plan)


def hold(options: argparse.Namespace) -> int:
    """From now on nights train and register, but promote nothing."""
    return _note(options, plan_hold)


def release(options: argparse.Namespace) -> int:
    """Ends a hold."""
    return _note(options, plan_release)


def data(options: argparse.Namespace) -> int:
    """Leaves a day out of every snapshot from now on, takes it in again, or accepts it although a check rejects it."""
    require_use_case(options.use_case)
    settings = home_settings("data")
    use_case = load_use_case(options.use_case, settings.project)
    _require_day(settings, use_case, options.day)
    day = str(options.day)
    if options.action == "exclude":
        return _note(options, lambda ledger, reason: plan_exclude(ledger, day, reason))
    lost_days = _lost_days(open_store(settings.store), use_case)
    return _note(options, lambda ledger, reason: plan_include(ledger, day, reason, lost_days))


def _lost_days(store: Store, use_case: UseCase) -> list[str]:
    """The days that the last night left out because the meaning of a column had changed in them."""
    months = KeptMonths(store, use_case.name, "verdict", CheckedDays).kept.values()
    return [day for month in months for day in month.sums.lost]


def _require_day(settings: Settings, use_case: UseCase, day: date) -> None:
    """Raises UsageError for a use case without days, and for a day that cannot be in any snapshot."""
    if not use_case.dated:
        raise UsageError("a day is left out of a use case with days", f"{use_case.name} has none", "mend its file")
    first = date.fromisoformat(next(iter(partition_files(settings, use_case, use_case.source))))
    if not first <= day <= use_case.today():
        raise UsageError(f"DAY lies between the first data ({first}) and today", f"it is {day}", "check it")


def _move_champion(options: argparse.Namespace, plan: Callable[[Ledger, Registry, str], OperatorEntry]) -> int:
    """Makes another version champion: in the ledger, and then by the alias in MLflow.

    The version must be in MLflow, and its files must be as they were written. This is checked before the question and
    again after it, because the version may be deleted while the question waits.
    """
    require_use_case(options.use_case)
    settings = home_settings(options.command)
    ledger, registry = Ledger(open_store(settings.store), options.use_case), Registry(settings, options.use_case)
    entry = plan(ledger, registry, _reason(options))
    assert entry.champion is not None
    require_whole(ledger, registry, entry.champion)
    before, asking = alias_words(ledger, registry), open_questions(ledger.entries())
    judged = judged_since(ledger, entry.champion)
    _confirm(options, f"Champion of {entry.use_case}: {before} -> {named(entry.champion)} ({entry.reason})")
    with one_move_at_a_time(settings.home, entry.use_case):
        require_whole(ledger, registry, entry.champion)
        carry_out(ledger, registry, entry)
    refit = entry.champion.refit
    serves = f", whose refit, version {refit.version}, serves" if refit else ""
    words = f"Champion of {entry.use_case} is now version {entry.champion.version}{serves} (it was {before})."
    if judged:
        words += f" This answers no question: {judged}."
    if not entry.held:
        words += f" The next night may promote again: retrain hold {entry.use_case} --reason WHY prevents it."
    if asking:
        words += _runs_that_asked(settings, entry.use_case)
    show(options, entry_row(entry, ledger.digest(entry.seq)), words)
    return 0


def _say_no(options: argparse.Namespace) -> int:
    """Answers no to the question whether a version is to serve, and lets the run that asked end."""

    def plan(ledger: Ledger, reason: str) -> OperatorEntry:
        return plan_no(ledger, options.version, reason, exclude=options.exclude)

    settings, ledger, entry = _noted(options, plan)
    champion = f"the champion stays version {named(entry.champion)}" if entry.champion else "there is no champion"
    words = f"Answered no: version {options.version} of {entry.use_case} is not promoted, and {champion}."
    words += after_no(entry, _changed_days(ledger, entry))
    words += _runs_that_asked(settings, entry.use_case)
    show(options, entry_row(entry, ledger.digest(entry.seq)), words)
    return 0


def _changed_days(ledger: Ledger, entry: OperatorEntry) -> list[str]:
    """The days of the changes that the answered question names."""
    asked = ledger.entry(entry.answers) if entry.answers else None
    return days_to_exclude(asked.source_changes) if isinstance(asked, NightEntry) else []


def _runs_that_asked(settings: Settings, use_case: str) -> str:
    """Lets the suspended runs end whose question this move has closed, and says which these are, after a space."""
    api = prefect_api(settings)
    resumed = resume_answered(settings, api, {use_case}) if api else None
    if resumed is None:
        return " If a run waits in Prefect for this answer, it ends when `retrain up` runs again."
    pages = [f"{api.removesuffix('/api')}/runs/flow-run/{run}" for run in resumed] if api else []
    return f" The run that asked ends by itself: {', '.join(pages)}" if pages else ""


def _note(options: argparse.Namespace, plan: Plan) -> int:
    """Records a move that changes nothing in MLflow, and says so."""
    _, ledger, entry = _noted(options, plan)
    said = f"Recorded {entry.decision} as entry {entry.seq} of the ledger."
    show(options, entry_row(entry, ledger.digest(entry.seq)), said)
    return 0


def _noted(options: argparse.Namespace, plan: Plan) -> tuple[Settings, Ledger, OperatorEntry]:
    """Records a move that changes nothing in MLflow; nights read it in the ledger."""
    require_use_case(options.use_case)
    settings = home_settings(options.command)
    ledger = Ledger(open_store(settings.store), options.use_case)
    entry = plan(ledger, _reason(options))
    _confirm(options, f"{entry.decision} {entry.use_case}: {entry.reason}")
    with one_move_at_a_time(settings.home, entry.use_case):
        carry_out(ledger, None, entry)
    return settings, ledger, entry


def _reason(options: argparse.Namespace) -> str:
    """The reason of a move, asked for on the terminal if it was not given."""
    if options.reason is not None:
        return str(options.reason)
    if not sys.stdin.isatty():
        raise UsageError("a move has a reason", "it has none and there is no terminal to ask on", "add --reason WHY")
    return asked_on_terminal("Why? ")


def _confirm(options: argparse.Namespace, question: str) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("a move is confirmed", "there is no terminal to ask on", "add --yes")
    if asked_on_terminal(f"{printable(question)}. Go on? [y/N] ").strip().lower() not in YES:
        raise UsageError("a move is confirmed with y", "it was not", "nothing was done")
