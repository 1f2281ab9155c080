"""An operator's moves: choose the champion, hold it, release it, exclude a day or include it, answer a question.

Every move is one entry of the ledger with a reason. The functions `plan_...` make the entry and refuse with UsageError
what makes no sense; `carry_out` adds it.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import date
from typing import Any

from ml.errors import Busy, UsageError
from ml.evaluation.source_evidence import days_to_exclude
from ml.evaluation.source_words import span_of
from ml.operations.alias import follow_ledger
from ml.operations.usable import champions_before, way_back, why_unusable
from ml.storage.ledger import (
    AnyEntry,
    Ledger,
    MoveName,
    NightEntry,
    OperatorEntry,
    TakeOverEntry,
    closing_of,
    is_same,
    named,
    next_after,
    open_questions,
    operator_name,
    version_of,
)
from ml.storage.records import Champion, SourceAnswer
from ml.storage.registry import Registry

LONGEST_REASON = 1_000  # letters
MOST_LISTED = 10  # days in one message


def plan_promote(ledger: Ledger, version: int, reason: str) -> OperatorEntry:
    """The entry that makes a recorded version champion and reference, whatever the gates said of it.

    `version` is the number of a judged version or of its refit: the two move together, and the refit serves.
    If a night asks about the version, it is the answer yes, just as if it had been given on the page of the run.
    """
    model = _recorded(ledger, version)
    asking = _asking_about(ledger, model)
    if asking is None:
        answers = _answers(ledger.head(), _last_night_of(ledger, model), accepted=True)
        return replace(_choose(ledger, "OPERATOR_PROMOTE", model, reason), source_answers=answers)
    return _answer_of_operator(ledger, asking, promote=True, reason=reason)


def plan_no(ledger: Ledger, version: int, reason: str, *, exclude: bool = False) -> OperatorEntry:
    """The entry that answers the open question about this version with no. Raises UsageError if there is none.

    With `exclude`, the days of the changes that the question names are excluded from then on.
    """
    model = _recorded(ledger, version)
    asking = _asking_about(ledger, model)
    if asking is None:
        closed = judged_since(ledger, model)
        asked = [str(version_of(night.candidate)) for night in open_questions(ledger.entries())]
        raise UsageError(
            "--no answers an open question about the version",
            f"there is none about version {version}" + (f" ({closed})" if closed else ""),
            f"choose one of those asked about: {', '.join(asked)}" if asked else "nothing is to be done",
        )
    if exclude and not days_to_exclude(asking.source_changes):
        raise UsageError(
            "--exclude leaves out the days of a changed source",
            f"the question about version {version} names none",
            "answer without it",
        )
    return _answer_of_operator(ledger, asking, promote=False, reason=reason, exclude=exclude)


def plan_rollback(
    ledger: Ledger, version: int | None, reason: str, lost: Callable[[Champion], object] = lambda _: None
) -> OperatorEntry:
    """The entry that makes an earlier champion champion again.

    If `version` is None, it is the latest earlier champion for which `lost` is false. `lost` says that a version cannot
    serve.
    """
    head = _head(ledger)
    if head.champion is None:
        raise UsageError("a rollback leaves a champion", f"{ledger.use_case} has none", "look at the ledger")
    served = champions_before(ledger, head.champion)
    if not served:
        raise UsageError(
            "a rollback goes back to an earlier champion",
            f"version {head.champion.version} is the first",
            f"choose any version with retrain promote {ledger.use_case} --version N --reason WHY",
        )
    if version is None:
        return _choose(ledger, "ROLLBACK", _before(ledger, head.champion, lost), reason)
    chosen = next((model for model in served.values() if version in {one.version for one in model.versions}), None)
    if chosen is None:
        known = ", ".join(map(named, served.values()))
        raise UsageError(f"--to names an earlier champion ({known})", f"it is {version}", "choose one of them")
    return _choose(ledger, "ROLLBACK", chosen, reason)


def plan_hold(ledger: Ledger, reason: str) -> OperatorEntry:
    """The entry after which nights train and register, but promote nothing."""
    head = _head(ledger)
    if head.held is not None:
        raise UsageError(
            "a use case is held once",
            f"it is held already ({head.held})",
            f"retrain release {ledger.use_case} --reason WHY first",
        )
    return _entry(ledger, "HOLD", reason, held=f"by {operator_name()}: {reason}")


def plan_release(ledger: Ledger, reason: str) -> OperatorEntry:
    """The entry that ends a hold."""
    if _head(ledger).held is None:
        raise UsageError("a release ends a hold", f"{ledger.use_case} is not held", "nothing is to be done")
    return _entry(ledger, "RELEASE", reason, held=None)


def plan_exclude(ledger: Ledger, day: str, reason: str) -> OperatorEntry:
    """The entry after which no snapshot uses the day."""
    head = ledger.head()
    excluded = dict(head.excluded) if head else {}
    if day in excluded:
        raise UsageError("a day is excluded once", f"{day} is already ({excluded[day]})", "nothing is to be done")
    return _entry(ledger, "EXCLUDE", reason, about=f"{day}: ", excluded={**excluded, day: reason})


def plan_include(ledger: Ledger, day: str, reason: str, lost: Collection[str] = ()) -> OperatorEntry:
    """The entry after which an excluded day is used again; or after which a day's change of meaning is accepted.

    `lost` are the days that the last night left out because a column lost its meaning. Raises UsageError for a day that
    is neither excluded nor one of these.
    """
    head = ledger.head()
    excluded, accepted = (dict(head.excluded), dict(head.accepted)) if head else ({}, {})
    if day in excluded:
        del excluded[day]
        return _entry(ledger, "INCLUDE", reason, about=f"{day}: ", excluded=excluded)
    if day in accepted:
        raise UsageError("a day is accepted once", f"{day} is already ({accepted[day]})", "nothing is to be done")
    if day not in lost:
        known = f"excluded {_listed(excluded)}; of another meaning than the days before {_listed(lost)}"
        raise UsageError(
            f"DAY is one that nights leave out ({known})", f"it is {day}", "run the night that has it first"
        )
    return _entry(ledger, "INCLUDE", reason, about=f"{day}: ", accepted={**accepted, day: reason})


def _listed(days: Iterable[str]) -> str:
    """The newest days in order, and how many earlier ones there are."""
    in_order = sorted(days)
    more = f" and {len(in_order) - MOST_LISTED} earlier" if len(in_order) > MOST_LISTED else ""
    return (", ".join(in_order[-MOST_LISTED:]) or "none") + more


def carry_out(ledger: Ledger, registry: Registry | None, entry: OperatorEntry) -> None:
    """Adds the entry to the ledger and lets the aliases follow it. Raises Busy, with what was done instead, if another
    entry was added first."""
    if not ledger.append(entry):
        first = ledger.entry(entry.seq)
        raise Busy(
            "a move is made on the ledger that its operator saw",
            f"{first.by} was first with {first.decision} at {first.at} ({first.reason})",
            f"look at retrain ledger {ledger.use_case}, then decide again",
        )
    if registry is not None and entry.moves_champion:
        follow_ledger(ledger, registry, entry)


def take_over(ledger: Ledger, registry: Registry, head: AnyEntry, as_of: date, reason: str) -> bool:
    """Lets the judged version serve in place of its refit: adds the entry after this head, and lets the alias follow.

    Returns False if another entry was added meanwhile: then a later night looks again. If it is cut off after the
    entry, the next night sets the alias.
    """
    assert head.champion is not None, head.seq
    twin = replace(head.champion, refit=None)
    entry = TakeOverEntry(**{**next_after(head, ledger.use_case), "champion": twin, "reason": reason, "as_of": as_of})
    if not ledger.append(entry):
        return False
    follow_ledger(ledger, registry, entry)
    return True


def require_whole(ledger: Ledger, registry: Registry, model: Champion) -> None:
    """Raises UsageError if MLflow no longer has the version that is to serve, or if its files are gone or changed."""
    reason = why_unusable(ledger.store, registry, model.served)
    if reason is not None:
        rule = "a champion is in MLflow, and its files are as they were registered"
        raise UsageError(rule, reason, way_back(ledger, registry, model.served))


def answer(
    ledger: Ledger, registry: Registry | None, night: NightEntry, *, promote: bool, name: str, reason: str,
    exclude: bool = False,
) -> AnyEntry:  # fmt: skip
    """Adds the answer to the night's question, and lets the aliases follow. Returns the entry that closes the question.

    That is an earlier entry if the question was answered, or the champion chosen, before. A promoted candidate becomes
    the reference only if there is none, because it was not proved better. With `exclude`, an answer no leaves the days
    out of later snapshots on which the source had changed.
    """
    while True:
        head = ledger.head()  # read before `answer_to`: an entry that comes after this read makes `append` fail
        closing = ledger.answer_to(night)
        if closing is not None:
            break
        entry = _answer_entry(head, night, promote=promote, name=name, reason=reason, exclude=exclude)
        if ledger.append(entry):
            closing = entry
            break
    if registry is not None and closing.moves_champion:
        follow_ledger(ledger, registry, closing)
    return closing


def _answer_entry(
    head: AnyEntry | None, night: NightEntry, *, promote: bool, name: str, reason: str, exclude: bool
) -> OperatorEntry:
    changes: dict[str, Any] = {"source_answers": _answers(head, night, accepted=promote)}
    left_out = ""
    if promote:
        changes |= {"champion": night.candidate, "reference": (head and head.reference) or night.candidate}
    elif exclude and (days := days_to_exclude(night.source_changes)):
        changes["excluded"] = {**dict.fromkeys(days, reason), **(head.excluded if head else {})}
        left_out = f", leaving out {span_of(days)}"
    said = f"{'yes' if promote else 'no'} to version {version_of(night.candidate)} of entry {night.seq}{left_out}"
    named = {"by": name, "reason": f"{said}: {reason}"}
    decision: MoveName = "OPERATOR_PROMOTE" if promote else "OPERATOR_KEEP"
    return OperatorEntry(
        decision=decision, answers=night.seq, **{**next_after(head, night.use_case), **named, **changes}
    )


def _answers(head: AnyEntry | None, night: NightEntry | None, *, accepted: bool) -> tuple[SourceAnswer, ...]:
    """All answers to changes of the source, with those to the changes that the night named."""
    before, seq = (head.source_answers, head.seq) if head else ((), 0)
    new = [
        SourceAnswer(
            column=change.column, kind=change.kind, first_day=change.first_day, accepted=accepted, entry=seq + 1
        )
        for change in (night.source_changes if night else ())
    ]
    return (*before, *new)


def _answer_of_operator(
    ledger: Ledger, asking: NightEntry, *, promote: bool, reason: str, exclude: bool = False
) -> OperatorEntry:
    """The answer to the night's question by the user of this process. Raises UsageError for a bad reason."""
    _require_reason(reason)
    head, name = ledger.head(), operator_name()
    return _answer_entry(head, asking, promote=promote, name=name, reason=reason, exclude=exclude)


def _last_night_of(ledger: Ledger, model: Champion) -> NightEntry | None:
    """The newest night that judged the version; None if none did."""
    return next((night for night in reversed(ledger.nights()) if is_same(night.candidate, model)), None)


def judged_since(ledger: Ledger, model: Champion) -> str:
    """Which later night closed the last question about this version, in words; "" if none did."""
    entries = ledger.entries()
    asked = [entry for entry in entries if isinstance(entry, NightEntry) and entry.asks]
    about = [night for night in asked if is_same(night.candidate, model)]
    closing = closing_of(entries, about[-1]) if about else None
    is_night = isinstance(closing, NightEntry) and not closing.moves_champion
    return f"entry {closing.seq} judged it again, {closing.decision}" if closing and is_night else ""


def _asking_about(ledger: Ledger, model: Champion) -> NightEntry | None:
    """The newest night whose open question is about this version; None if there is none."""
    asking = [night for night in open_questions(ledger.entries()) if is_same(night.candidate, model)]
    return asking[-1] if asking else None


def _recorded(ledger: Ledger, version: int) -> Champion:
    """The version with this number. Raises UsageError if no night recorded it."""
    model = ledger.candidate(version)
    if model is None:
        known = dict.fromkeys(named(night.candidate) for night in ledger.nights() if night.candidate)
        raise UsageError(
            f"--version names a version that a night recorded ({', '.join(known) or 'there is none'})",
            f"it is {version}",
            f"look at retrain ledger {ledger.use_case}",
        )
    return model


def _before(ledger: Ledger, present: Champion, lost: Callable[[Champion], object]) -> Champion:
    """The champion before the present one first became champion, so that a second rollback goes further back.

    A version that is `lost` is skipped. Raises UsageError if none is left.
    """
    moves = [entry for entry in ledger.entries() if entry.moves_champion]
    first_move = next(entry for entry in moves if is_same(entry.champion, present))
    before = first_move.champion_before
    if before is None:
        raise UsageError(
            "a rollback goes back to an earlier champion that can serve",
            f"none does: version {present.version} was the first",
            f"choose another with --to, or with retrain promote {ledger.use_case} --version N --reason WHY",
        )
    return _before(ledger, before, lost) if lost(before) else before


def _head(ledger: Ledger) -> AnyEntry:
    """The newest entry. Raises UsageError if there is none."""
    head = ledger.head()
    if head is None:
        name = ledger.use_case
        raise UsageError("an operator moves what a night decided", f"{name} has no entry", f"retrain run {name} first")
    return head


def _choose(ledger: Ledger, name: MoveName, chosen: Champion, reason: str) -> OperatorEntry:
    return _entry(ledger, name, reason, champion=chosen, reference=chosen)


def _entry(ledger: Ledger, name: MoveName, reason: str, about: str = "", **changes: Any) -> OperatorEntry:
    """The entry after the head with these changes; everything else stays true. Raises UsageError for a bad reason.

    `about` stands before the reason.
    """
    _require_reason(reason)
    decided = {"decision": name, "reason": f"{about}{reason}"}
    return OperatorEntry(**{**next_after(ledger.head(), ledger.use_case), **decided, **changes})


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise UsageError("a move has a reason", "it is empty", "say why with --reason")
    if len(reason) > LONGEST_REASON:
        raise UsageError(
            f"a reason has at most {LONGEST_REASON:,} letters", f"it has {len(reason):,}", "say it shorter"
        )
