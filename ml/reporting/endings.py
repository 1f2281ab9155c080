"""How a night ended, as its run's state says it: a word, and a sentence that agrees with the ledger as it is now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from ml.evaluation.decision import END_WORDS
from ml.evaluation.gates import short
from ml.reporting.decision_section import way_out
from ml.reporting.document import Document
from ml.reporting.score_section import LABELS, cell
from ml.storage.ledger import AnyEntry, NightEntry, OperatorEntry, is_same
from ml.storage.records import Champion

SCORE = ", "  # between the name of a run and its score


@dataclass(frozen=True)
class Ending:
    """One of END_WORDS, why, the candidate's score in short, and the scores that were compared."""

    word: str
    reason: str
    score: str = ""
    scores: str = ""

    @property
    def message(self) -> str:
        """The message of the run's state. It begins with the word, by which automations match it."""
        return f"{self.word}: {self.reason}" + (f" {self.scores}." if self.scores else "")


def ending(entry: NightEntry, answer: AnyEntry | None = None, replayed_in: Sequence[AnyEntry] | None = None) -> Ending:
    """Of a night that decided just now, that an operator answered, or that is replayed under these entries."""
    told = _words(entry, answer) if replayed_in is None else _words_now(entry, replayed_in)
    compared = compared_scores(entry.result)
    if replayed_in is not None and compared:
        compared = f"Scored then: {compared}"
    return Ending(*told, short_score(entry.result), compared)


def _words(entry: NightEntry, answer: AnyEntry | None) -> tuple[str, str]:
    if answer is None:
        way = way_out(entry.result)
        return END_WORDS[entry.decision], f"{entry.reason} {way}." if way else entry.reason
    promoted = is_same(answer.champion, entry.candidate)
    word = END_WORDS["PROMOTE" if promoted else entry.decision]
    return word, f"{answer.decision} by {answer.by}: {answer.reason}"


def _words_now(entry: NightEntry, entries: Sequence[AnyEntry]) -> tuple[str, str]:
    return _word_now(entry, entries), f"{_then(entry)} {since(entry, entries)}"


def since(entry: NightEntry, entries: Sequence[AnyEntry]) -> str:
    """What became of a night's version since, and who is champion now."""
    later = [each for each in entries if each.seq > entry.seq and _moves(each, entry.candidate)]
    champion = entries[-1].champion
    now = f"Champion is now version {champion.version}." if champion else "There is no champion."
    return f"{_moved(later[-1], entry.candidate)} {now}" if later and entry.candidate else now


def moved_by_hand(entries: Sequence[AnyEntry]) -> str | None:
    """Who serves and who chose it, where an operator was the last to move the champion; the last night cannot tell."""
    move = next((entry for entry in reversed(entries) if entry.moves_champion), None)
    if not isinstance(move, OperatorEntry) or move.champion is None:
        return None
    done = {"ROLLBACK": "rolled back to it", "OPERATOR_PROMOTE": "promoted it"}[move.decision]
    why = f"entry {move.seq}: {move.reason.rstrip('.')}"
    return f"version {move.champion.version} serves: {move.by} {done} on {move.at[:10]} ({why})."


def _moved(move: AnyEntry, candidate: Champion) -> str:
    """The last move of the candidate's alias, to it or away from it."""
    why = f"on {move.at[:10]} by {move.by} (entry {move.seq}: {move.reason.rstrip('.')})."
    if is_same(move.champion, candidate):
        return f"Version {candidate.version} was made champion {why}"
    if move.decision == "ROLLBACK":
        return f"Version {candidate.version} was rolled back {why}"
    assert move.champion is not None, move.seq
    return f"Version {candidate.version} was followed by version {move.champion.version} {why}"


def _then(entry: NightEntry) -> str:
    """What was decided when the night ran."""
    if entry.candidate is None:
        return f"Decided before, in entry {entry.seq} of the ledger: {entry.reason}"
    decided = {"KEEP": "was not promoted then", "REJECT": "was not promoted then"}.get(
        entry.decision, "was promoted then"
    )
    return f"Version {entry.candidate.version} {decided}, in entry {entry.seq} of the ledger: {entry.reason}"


def _word_now(entry: NightEntry, entries: Sequence[AnyEntry]) -> str:
    """Where the night's version stands: a replay itself moves nothing."""
    if entry.candidate is None:
        return END_WORDS[entry.decision]
    champion = entries[-1].champion
    if champion is None:
        return END_WORDS["REJECT"]
    return END_WORDS["PROMOTE" if is_same(champion, entry.candidate) else "KEEP"]


def _moves(entry: AnyEntry, candidate: Champion | None) -> bool:
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
    """The name of a run that has ended: lists of runs show names, and no messages of states."""
    return f"{run.split(SCORE)[0]}{SCORE}{score}" if score else run.split(SCORE)[0]


def run_title(use_case: str, as_of: date | None, *, dry_run: bool = False) -> str:
    """`flights 2013-10-01`, as lists of runs show it; a dry run must not look like a night."""
    title = f"{use_case} {as_of}" if as_of else use_case
    return f"{title} (dry run)" if dry_run else title
