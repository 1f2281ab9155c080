"""How a night ended, as the state of its flow run says it: one word and a sentence.

Both agree with the ledger as it is now. A run that repeats an old night says what became of its version since.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from ml.evaluation.decision import END_WORDS
from ml.evaluation.handles import short
from ml.reporting.decision_section import way_out
from ml.reporting.document import Document
from ml.reporting.score_section import LABELS, cell
from ml.storage.ledger import AnyEntry, NightEntry, OperatorEntry, is_same
from ml.storage.records import Champion

SCORE = ", "  # separates the name of a run from its score


@dataclass(frozen=True)
class Ending:
    """How a night ended. `word` is one of END_WORDS, `reason` a sentence.

    `score` is the candidate's score in short, `scores` those of candidate and champion; "" if nothing was scored.
    """

    word: str
    reason: str
    score: str = ""
    scores: str = ""

    @property
    def message(self) -> str:
        """The message of the run's state. Automations recognize it by the word that it begins with."""
        return f"{self.word}: {self.reason}" + (f" {self.scores}." if self.scores else "")


def ending(entry: NightEntry, answer: AnyEntry | None = None, replayed_in: Sequence[AnyEntry] | None = None) -> Ending:
    """The ending of a night that has just decided.

    `answer` is an operator's entry that answered its question. `replayed_in` are all entries of the ledger, if the run
    only repeats a night that was decided before.
    """
    if replayed_in is None:
        word, reason = _word_and_reason(entry, answer)
    else:
        word, reason = _word_now(entry, replayed_in), f"{_decided_then(entry)} {since(entry, replayed_in)}"
    compared = compared_scores(entry.result)
    if replayed_in is not None and compared:
        compared = f"Scored then: {compared}"
    return Ending(word, reason, short_score(entry.result), compared)


def _word_and_reason(entry: NightEntry, answer: AnyEntry | None) -> tuple[str, str]:
    if answer is None:
        command = way_out(entry.result)
        return END_WORDS[entry.decision], f"{entry.reason} {command}." if command else entry.reason
    promoted = is_same(answer.champion, entry.candidate)
    word = END_WORDS["PROMOTE" if promoted else entry.decision]
    return word, f"{answer.decision} by {answer.by}: {answer.reason}"


def since(entry: NightEntry, entries: Sequence[AnyEntry]) -> str:
    """What has become of a night's version since, and who is champion now. `entries` are all of the ledger."""
    moves = [later for later in entries if later.seq > entry.seq and _moves(later, entry.candidate)]
    champion = entries[-1].champion
    now = f"Champion is now version {champion.version}." if champion else "There is no champion."
    return f"{_move_sentence(moves[-1], entry.candidate)} {now}" if moves and entry.candidate else now


def moved_by_hand(entries: Sequence[AnyEntry]) -> str | None:
    """Which version serves and who chose it, if an operator was the last to choose the champion; else None.

    Then the report of the last night does not say who serves.
    """
    move = next((entry for entry in reversed(entries) if entry.moves_champion), None)
    if not isinstance(move, OperatorEntry) or move.champion is None:
        return None
    deed = {"ROLLBACK": "rolled back to it", "OPERATOR_PROMOTE": "promoted it"}[move.decision]
    why = f"entry {move.seq}: {move.reason.rstrip('.')}"
    return f"version {move.champion.version} serves: {move.by} {deed} on {move.at[:10]} ({why})."


def _move_sentence(move: AnyEntry, candidate: Champion) -> str:
    """The move that made the candidate champion, or another version in its place, as a sentence."""
    why = f"on {move.at[:10]} by {move.by} (entry {move.seq}: {move.reason.rstrip('.')})."
    if is_same(move.champion, candidate):
        return f"Version {candidate.version} was made champion {why}"
    if move.decision == "ROLLBACK":
        return f"Version {candidate.version} was rolled back {why}"
    assert move.champion is not None, move.seq
    return f"Version {candidate.version} was followed by version {move.champion.version} {why}"


def _decided_then(entry: NightEntry) -> str:
    """What was decided when the night ran, as a sentence."""
    if entry.candidate is None:
        return f"Decided before, in entry {entry.seq} of the ledger: {entry.reason}"
    decided = "was not promoted then" if entry.decision in {"KEEP", "REJECT"} else "was promoted then"
    return f"Version {entry.candidate.version} {decided}, in entry {entry.seq} of the ledger: {entry.reason}"


def _word_now(entry: NightEntry, entries: Sequence[AnyEntry]) -> str:
    """One of END_WORDS for where the night's version stands now. Repeating a night does not promote it."""
    if entry.candidate is None:
        return END_WORDS[entry.decision]
    champion = entries[-1].champion
    if champion is None:
        return END_WORDS["REJECT"]
    return END_WORDS["PROMOTE" if is_same(champion, entry.candidate) else "KEEP"]


def _moves(entry: AnyEntry, candidate: Champion | None) -> bool:
    """Whether the entry made the candidate champion, or another version in its place."""
    return candidate is not None and is_same(entry.champion, candidate) != is_same(entry.champion_before, candidate)


def short_score(document: Document) -> str:
    """`F1 0.771`; "" where nothing was scored."""
    score = (document["scores"]["candidate"] or {}).get(document["metric"])
    return f"{LABELS[document['metric']]} {short(score['value'])}" if score and score["value"] is not None else ""


def compared_scores(document: Document) -> str:
    """`F1 0.771 [0.749, 0.792], the champion's 0.767 [0.745, 0.787]`; "" where nothing was scored."""
    metric, scores = document["metric"], document["scores"]
    if scores["candidate"] is None:
        return ""
    words = f"{LABELS[metric]} {cell(scores['candidate'].get(metric))}"
    champion = scores["champion"]
    return words + (f", the champion's {cell(champion.get(metric))}" if champion else "")


def shown_name(run: str, score: str) -> str:
    """The name of a run that has ended, with its score: lists of runs show names, but no messages of states."""
    return f"{run.split(SCORE)[0]}{SCORE}{score}" if score else run.split(SCORE)[0]


def run_title(use_case: str, as_of: date | None, *, dry_run: bool = False) -> str:
    """`flights 2013-10-01`, the name of a run in lists; a dry run is marked, so that it does not look like a night."""
    title = f"{use_case} {as_of}" if as_of else use_case
    return f"{title} (dry run)" if dry_run else title
