"""The ledger: every decision of a night and every move of an operator. It alone says which version is champion.

Entries are numbered objects that never change. An entry is created only if its number is free, so of two writers one
fails and looks again. Every entry holds all that is true after it (champion, reference, hold, excluded and accepted
days), so the newest entry, the head, answers alone. The first line of an object is the SHA-256 of all that follows it,
and the second line is the SHA-256 of the whole object before it, so that the entries form a chain. A broken chain is
refused.
"""

import getpass
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import takewhile
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from ml.digests import digest_bytes, sealed, unsealed
from ml.errors import Corrupt
from ml.storage import paths
from ml.storage.json_form import to_json
from ml.storage.records import Champion, DecisionName, Identity, Refit, SourceAnswer, SourceChange
from ml.storage.store import Store

MoveName = Literal["OPERATOR_PROMOTE", "OPERATOR_KEEP", "ROLLBACK", "HOLD", "RELEASE", "EXCLUDE", "INCLUDE"]
CHAMPION_MOVES = {"OPERATOR_PROMOTE", "ROLLBACK"}
RESTORE = "restore it from a copy with retrain restore FILE"


def _is_empty(value: Sequence[object]) -> bool:
    return not value


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What every entry says: when, by whom, why, and what is true after it.

    `held` says who holds the champion and why. `excluded` and `accepted` map days to the operator's reason.
    `source_answers` are what operators said of changes of the source, the oldest first; like a night's
    `source_changes` they are left out of the JSON where there are none, as older entries do not have them.
    """

    seq: int
    use_case: str
    at: str
    by: str
    decision: str
    reason: str
    champion_before: Champion | None
    champion: Champion | None
    reference: Champion | None
    held: str | None = None
    excluded: dict[str, str] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    source_answers: Annotated[tuple[SourceAnswer, ...], Field(exclude_if=_is_empty)] = ()
    nonce: str = ""  # makes the bytes of every entry different, so that `Store.create` tells whose entry was created

    @property
    def chooses_champion(self) -> bool:
        """Whether it chose the champion. A twin that takes over chooses none: it is of the same champion."""
        return self.moves_champion and self.decision != "TAKE_OVER"

    @property
    def moves_champion(self) -> bool:
        """Whether another version serves after it. It may be the refit of the same judged version, or that one
        itself in place of its refit."""
        return _serving(self.champion_before) != _serving(self.champion)


@dataclass(frozen=True, kw_only=True)
class NightEntry(Entry):
    """A night's decision. `judged_against` is the number of the head that it was made under, 0 if there was none.

    `training_key` is that of its judged model; entries from before 2026-11-28 have none, and their run key names
    their model. `blocked` is set if every gate allowed the promotion and only a hold, a backfill or a moved alias
    prevented it; it says which. Such a night may be judged again later. `asks` says that the gates could not decide and
    that an operator was asked. `source_changes` are the changes of the source that it asks about. `result` is the
    document that `--json` prints.
    """

    kind: Literal["night"] = "night"
    as_of: date
    run_key: str
    learning_key: str
    training_key: str = ""
    decision: DecisionName
    candidate: Champion | None
    judged_against: int
    blocked: str | None = None
    asks: bool = False
    source_changes: Annotated[tuple[SourceChange, ...], Field(exclude_if=_is_empty)] = ()
    manifest: str
    result: dict[str, Any]

    @property
    def model_key(self) -> str:
        """The key under which its model was made and registered."""
        return self.training_key or self.run_key

    @property
    def judged_champion(self) -> bool:
        """Whether its model was the champion already, and was judged again because its gates had changed."""
        return self.candidate is not None and is_same(self.candidate, self.champion_before)


@dataclass(frozen=True, kw_only=True)
class OperatorEntry(Entry):
    """What an operator did. `answers` is the number of the night's entry that asked; None if nobody asked."""

    kind: Literal["operator"] = "operator"
    decision: MoveName
    answers: int | None = None

    @property
    def moves_champion(self) -> bool:
        """True also if the chosen version is champion already: the alias may have been moved by hand."""
        return self.decision in CHAMPION_MOVES


@dataclass(frozen=True, kw_only=True)
class TakeOverEntry(Entry):
    """A night found that the refit which serves is surely worse than its twin: the judged version serves in its place.

    The champion is still the same judged version, so that it answers no question and ends no count of kept nights.
    """

    kind: Literal["take-over"] = "take-over"
    decision: Literal["TAKE_OVER"] = "TAKE_OVER"
    as_of: date


AnyEntry = NightEntry | OperatorEntry | TakeOverEntry
ENTRY: TypeAdapter[AnyEntry] = TypeAdapter(Annotated[AnyEntry, Field(discriminator="kind")])


def next_after(head: "AnyEntry | None", use_case: str) -> dict[str, Any]:
    """The common fields of the entry after the head, made now by the user of this process; what was true stays true."""
    return {
        "seq": head.seq + 1 if head else 1,
        "use_case": use_case,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": operator_name(),
        "champion_before": head.champion if head else None,
        "champion": head.champion if head else None,
        "reference": head.reference if head else None,
        "held": head.held if head else None,
        "excluded": head.excluded if head else {},
        "accepted": head.accepted if head else {},
        "source_answers": head.source_answers if head else (),
        "nonce": secrets.token_hex(8),
    }


def operator_name() -> str:
    """The user of this process; `user <number>` where the machine has no name for it, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def is_same(one: Champion | None, other: Champion | None) -> bool:
    """Whether both are the same judged version, or both are None."""
    return (one and one.identity) == (other and other.identity)


def _serving(champion: Champion | None) -> Identity | None:
    return None if champion is None else champion.served.identity


def version_of(model: Champion | None) -> int | None:
    """The ledger's number of the judged version; None if there is none."""
    return None if model is None else model.version


def named(model: Champion) -> str:
    """The judged version and, if there is one, its refit by their numbers: `4`, or `4 (refitted as 5)`."""
    return f"{model.version}" if model.refit is None else f"{model.version} (refitted as {model.refit.version})"


class Ledger:
    """One use case's ledger in a store. Whatever reads entries raises Corrupt for a damaged one."""

    def __init__(self, store: Store, use_case: str) -> None:
        self.store, self.use_case = store, use_case

    def entries(self) -> list[AnyEntry]:
        """All entries, oldest first. Raises Corrupt if the chain is broken."""
        return list(self.by_digest().values())

    def by_digest(self) -> dict[str, AnyEntry]:
        """All entries, oldest first, by the SHA-256 of their objects. Raises Corrupt if the chain is broken."""
        keys, entries, digest_before = self._keys(), {}, ""
        for number, (key, data) in enumerate(zip(keys, self.store.get_many(keys), strict=True), start=1):
            named_digest, entry = _opened(key, data)
            if (named_digest, entry.seq, key) != (digest_before, number, paths.ledger_entry(self.use_case, number)):
                raise Corrupt("each ledger entry names the SHA-256 of the one before", f"{key} does not", RESTORE)
            digest_before = digest_bytes(data or b"")
            entries[digest_before] = entry
        return entries

    def nights(self) -> list[NightEntry]:
        """The entries of nights, oldest first."""
        return [entry for entry in self.entries() if isinstance(entry, NightEntry)]

    def head(self) -> AnyEntry | None:
        """The newest entry; None if there is none."""
        keys = self._keys()
        return self._read(keys[-1]) if keys else None

    def entry(self, seq: int) -> AnyEntry:
        """The entry with this number. Raises Corrupt if it is damaged or not there."""
        return self._read(paths.ledger_entry(self.use_case, seq))

    def last_night(self) -> NightEntry | None:
        """The newest entry of a night; None if there is none."""
        return next((entry for entry in self._newest_first() if isinstance(entry, NightEntry)), None)

    def finished(self, run_key: str) -> NightEntry | None:
        """The newest entry of the run with this key; None if it was never judged."""
        return next((night for night in reversed(self.nights()) if night.run_key == run_key), None)

    def trained(self, training_key: str) -> Champion | None:
        """The version with this training key as a night recorded it; None if none did."""
        nights = (night for night in reversed(self.nights()) if night.model_key == training_key)
        return next((night.candidate for night in nights if night.candidate), None)

    def refitted(self, key: str) -> Refit | None:
        """The refit with this training key as a night recorded it; None if none did."""
        refits = (night.candidate.refit for night in reversed(self.nights()) if night.candidate)
        return next((refit for refit in refits if refit and refit.key == key), None)

    def append(self, entry: AnyEntry) -> bool:
        """Adds the entry as the new head. Returns False if another entry took its number first."""
        data = sealed(self.digest(entry.seq - 1).encode() + b"\n" + to_json(entry))
        return self.store.create(paths.ledger_entry(self.use_case, entry.seq), data)

    def digest(self, seq: int) -> str:
        """The SHA-256 of the whole object of entry `seq`; "" for 0. Raises Corrupt if the entry is damaged, so that
        nothing is added after it."""
        if seq == 0:
            return ""
        key = paths.ledger_entry(self.use_case, seq)
        data = self.store.get(key)
        _opened(key, data)
        return digest_bytes(data or b"")

    def last_move(self) -> AnyEntry | None:
        """The newest entry that chose the champion; None if none did."""
        return next((entry for entry in self._newest_first() if entry.moves_champion), None)

    def kept_nights(self) -> int:
        """How many nights decided KEEP since the champion was chosen.

        Several nights of one date count once, and nights whose date is not after the champion's do not count. In a use
        case without dates every night counts. A night that judged the champion itself again does not.
        """
        since = takewhile(lambda entry: not entry.chooses_champion, self._newest_first())
        nights = (entry for entry in since if isinstance(entry, NightEntry))
        kept = [entry for entry in nights if entry.decision == "KEEP" and not entry.judged_champion]
        undated = {entry.seq for entry in kept if entry.champion and not entry.champion.dated}
        dates = {entry.as_of for entry in kept if entry.champion and entry.champion.dated_before(entry.as_of)}
        return len(undated) + len(dates)

    def candidate(self, version: int) -> Champion | None:
        """The judged version with this number, or the one whose refit has it, as a night recorded it; None if no
        night did.

        Two nights may have recorded the same number, as MLflow counts from 1 again in an emptied registry. Then it is
        the newer version.
        """
        candidates = (night.candidate for night in reversed(self.nights()) if night.candidate)
        return next((model for model in candidates if version in {one.version for one in model.versions}), None)

    def answer_to(self, night: NightEntry) -> AnyEntry | None:
        """The entry that closed the night's question: an answer, or a later choice of the champion. None if open."""
        return closing_of(self.entries(), night)

    def alias_confirmed(self, entry: AnyEntry) -> bool:
        """Whether the registry's alias was seen to follow this entry."""
        return self.store.get(paths.alias_confirmation(self.use_case, entry.seq)) is not None

    def confirm_alias(self, entry: AnyEntry) -> None:
        """Notes that the registry's alias was seen to follow this entry."""
        self.store.create(paths.alias_confirmation(self.use_case, entry.seq), b"{}")

    def is_published(self, entry: NightEntry) -> bool:
        """Whether tags and report of this entry were written."""
        return self.store.get(paths.published(self.use_case, entry.seq)) is not None

    def mark_published(self, entry: NightEntry) -> None:
        """Notes that tags and report of this entry were written."""
        self.store.create(paths.published(self.use_case, entry.seq), b"{}")

    def _newest_first(self) -> Iterator[AnyEntry]:
        return (self._read(key) for key in reversed(self._keys()))

    def _keys(self) -> list[str]:
        keys = self.store.keys(paths.ledger_folder(self.use_case))
        refuse_replaced_in_part(keys)
        return keys

    def _read(self, key: str) -> AnyEntry:
        return _opened(key, self.store.get(key))[1]


def refuse_replaced_in_part(keys: Iterable[str]) -> None:
    """Raises Corrupt if these keys show that a restore was cut off while it replaced a ledger. Its entries may look
    whole, so they are not to be read."""
    for key in keys:
        folder, _, name = key.rpartition("/")
        if name == paths.REPLACING:
            use_case = folder.rpartition("/")[2]
            raise Corrupt(
                "a restore that replaces a ledger runs to its end", f"the one of {use_case} was cut off",
                f"run it again: retrain restore FILE --replace {use_case}",
            )  # fmt: skip


def open_questions(entries: Sequence[AnyEntry]) -> list[NightEntry]:
    """The nights among all entries that asked an operator and are not answered, oldest first.

    Of several that asked about one version it is the last one.
    """
    asking_nights = [entry for entry in entries if isinstance(entry, NightEntry) and entry.asks]
    still_open = [night for night in asking_nights if closing_of(entries, night) is None]
    return list({night.candidate and night.candidate.identity: night for night in still_open}.values())


def closing_of(entries: Iterable[AnyEntry], night: NightEntry) -> AnyEntry | None:
    """The first later entry that closed the night's question; None if it is open or the night asked nothing.

    A question is closed by its answer, by any choice of the champion, and by a later night that judged the same version
    and has no question. If that night asks too, the question goes on, and an answer to one is an answer to both.
    """
    if not night.asks:
        return None
    same_question = {night.seq}
    for entry in (entry for entry in entries if entry.seq > night.seq):
        if entry.chooses_champion or (isinstance(entry, OperatorEntry) and entry.answers in same_question):
            return entry
        if isinstance(entry, NightEntry) and is_same(entry.candidate, night.candidate):
            if not entry.asks:
                return entry
            same_question.add(entry.seq)
    return None


def _opened(key: str, data: bytes | None) -> tuple[str, AnyEntry]:
    """The SHA-256 of the object before, as this one names it, and the entry. Raises Corrupt for damaged bytes."""
    digest_before, _, body = (unsealed(data or b"") or b"").partition(b"\n")
    try:
        return digest_before.decode(), ENTRY.validate_json(body)
    except ValueError as error:
        raise Corrupt("a ledger entry has the bytes that were written", f"{key} has not", RESTORE) from error
