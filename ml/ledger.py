"""The record of decisions and alias moves: the truth about who is champion.

Entries are immutable objects, created only if absent: that create is the compare-and-set. Every entry holds the
champion and the reference after it, so that the head alone answers.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any

from ml import paths
from ml.artifacts import Champion, DecisionName, from_json, to_json
from ml.errors import Corrupt
from ml.store import Store


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One decision, made under the head `judged_against`; `result` is what `--json` prints."""

    seq: int
    use_case: str
    at: str
    by: str
    as_of: date
    run_key: str
    learning_key: str
    decision: DecisionName
    reason: str
    version: int | None
    champion_before: Champion | None
    champion: Champion | None
    reference: Champion | None
    judged_against: int
    manifest: str
    result: dict[str, Any]

    @property
    def moves_champion(self) -> bool:
        return _version(self.champion_before) != _version(self.champion)


def _version(model: Champion | None) -> int | None:
    return None if model is None else model.version


class Ledger:
    def __init__(self, store: Store, use_case: str) -> None:
        self.store, self.use_case = store, use_case

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        return [self._read(key) for key in self._keys()]

    def head(self) -> Entry | None:
        """The newest entry."""
        keys = self._keys()
        return self._read(keys[-1]) if keys else None

    def entry(self, seq: int) -> Entry:
        return self._read(paths.ledger_entry(self.use_case, seq))

    def finished(self, run_key: str) -> Entry | None:
        """The entry of a run that was judged before."""
        newest_first = (self._read(key) for key in reversed(self._keys()))
        return next((entry for entry in newest_first if entry.run_key == run_key), None)

    def append(self, entry: Entry) -> bool:
        """Adds the entry as the new head; False if another one took its place first."""
        return self.store.create(paths.ledger_entry(self.use_case, entry.seq), to_json(entry))

    def last_move(self) -> Entry | None:
        """The newest entry that changed the champion."""
        newest_first = (self._read(key) for key in reversed(self._keys()))
        return next((entry for entry in newest_first if entry.moves_champion), None)

    def alias_confirmed(self, entry: Entry) -> bool:
        return self.store.get(paths.alias_confirmation(self.use_case, entry.seq)) is not None

    def confirm_alias(self, entry: Entry) -> None:
        """Notes that the registry's alias was seen to follow this entry."""
        self.store.create(paths.alias_confirmation(self.use_case, entry.seq), b"{}")

    def is_published(self, entry: Entry) -> bool:
        return self.store.get(paths.published(self.use_case, entry.seq)) is not None

    def mark_published(self, entry: Entry) -> None:
        """Notes that tags and report of this entry were written."""
        self.store.create(paths.published(self.use_case, entry.seq), b"{}")

    def _keys(self) -> list[str]:
        return self.store.keys(paths.ledger_folder(self.use_case))

    def _read(self, key: str) -> Entry:
        data = self.store.get(key)
        try:
            return from_json(Entry, data or b"")
        except ValueError as error:
            raise Corrupt(
                "a ledger entry is a whole JSON document", f"{key} is not", "restore it from a copy"
            ) from error
