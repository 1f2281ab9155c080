"""How a night ended, as the state of its flow run says it: one word and a sentence.

Both agree with the ledger. A run that repeats an old night has the word that the ledger has for that night, is marked
as a replay, and says what became of the night's version since.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from ml.evaluation.decision import END_WORDS
from ml.evaluation.handles import short
from ml.reporting.decision_section import serving_sentence, way_out
from ml.reporting.document import Document, served_document
from ml.reporting.score_section import LABELS, cell
from ml.storage.ledger import AnyEntry, NightEntry, OperatorEntry, TakeOverEntry, closing_of, is_same, version_of
from ml.storage.records import Champion

SCORE = ", "  # separates the name of a run from its score
REPLAY = "replay"  # a tag of a run that repeats an old night; its name has the word in brackets
STILL_RED = (
    "a later night is red"  # stands in the name of a good night that settles nothing, so no alert tells a recovery
)


@dataclass(frozen=True)
class Ending:
    """How a night ended. `word` is one of END_WORDS, `reason` a sentence.

    `score` is the candidate's score in short, `scores` those of candidate and champion; "" if nothing was scored.
    `is_replay` says that the run only repeats a night that was decided before, and `still_red` that a night of a later
    date ended red and no night has ended well since.
    """

    word: str
    reason: str
    score: str = ""
    scores: str = ""
    is_replay: bool = False
    still_red: bool = False

    @property
    def message(self) -> str:
        """The message of the run's state. Automations recognize it by the word that it begins with.

        The message of a replay begins otherwise, because a replay decides nothing that an automation could act on.
        """
        word = f"{REPLAY.title()}, {self.word}" if self.is_replay else self.word
        return f"{word}: {self.reason}" + (f" {self.scores}." if self.scores else "")

    @property
    def mark(self) -> str:
        """The word about the run that its name has in brackets; "" if there is none."""
        return REPLAY if self.is_replay else STILL_RED if self.still_red else ""

    @property
    def tags(self) -> list[str]:
        """The tags by which lists of runs show the ending."""
        return [self.word, REPLAY] if self.is_replay else [self.word]


def ending(entry: NightEntry, answer: AnyEntry | None = None, replayed_in: Sequence[AnyEntry] | None = None) -> Ending:
    """The ending of a night.

    `answer` is the entry that closed its question. `replayed_in` are all entries of the ledger, if the run only repeats
    a night that was decided before.
    """
    scores = compared_scores(entry.result)
    if replayed_in is None:
        return Ending(end_word(entry, answer), _reason(entry, answer), short_score(entry.result), scores)
    answer = closing_of(replayed_in, entry)
    reason = f"{_decided_then(entry, answer)} {since(entry, replayed_in)}"
    scores = scores and f"Scored then: {scores}"
    return Ending(end_word(entry, answer), reason, short_score(entry.result), scores, is_replay=True)


def end_word(entry: NightEntry, answer: AnyEntry | None) -> str:
    """One of END_WORDS: for what the night decided or, if it asked, for what closed its question."""
    return END_WORDS["PROMOTE" if answered_yes(entry, answer) else entry.decision]


def answered_yes(entry: NightEntry, answer: AnyEntry | None) -> bool:
    """Whether the entry that closed the night's question made its version champion."""
    return answer is not None and is_same(answer.champion, entry.candidate)


def _reason(entry: NightEntry, answer: AnyEntry | None) -> str:
    """Why the night ended so, in one or two sentences."""
    if answer is not None:
        return answer_sentence(answer)
    command = way_out(entry.result)
    return f"{entry.reason} {command}." if command else entry.reason


def answer_sentence(answer: AnyEntry) -> str:
    """What closed a night's question: who answered what and when, which other choice of the champion it was, or which
    later night judged the version again."""
    when, why = f"{answer.at[:16].replace('T', ' ')} UTC", answer.reason.rstrip(".")
    if isinstance(answer, OperatorEntry) and answer.answers is not None:
        return f"{answer.by} answered on {when} (entry {answer.seq}): {why}."
    if isinstance(answer, NightEntry) and not answer.moves_champion:
        judged = f"which judged version {version_of(answer.candidate)} again, {answer.decision}"
        return f"The question was closed on {when} by entry {answer.seq}, {judged}: {why}."
    chosen = f"{answer.decision} of version {version_of(answer.champion)} by {answer.by}"
    return f"The question was closed on {when} by entry {answer.seq}, {chosen}: {why}."


def late_answer_sentence(name: str, reason: str, *, promote: bool) -> str:
    """An answer that came when the question was closed already."""
    return f"The later answer of {name}, {'yes' if promote else 'no'} ({reason.rstrip('.')}), was not used."


def since(entry: NightEntry, entries: Sequence[AnyEntry]) -> str:
    """What has become of a night's version since, and who is champion and what serves now. `entries` are all of the
    ledger."""
    moves = [later for later in entries if later.seq > entry.seq and _moves(later, entry.candidate)]
    moved = _move_sentence(moves[-1], entry.candidate) if moves and entry.candidate else ""
    champion = entries[-1].champion
    now = f"Champion is now version {champion.version}." if champion else "There is no champion."
    return " ".join(filter(None, (moved, now, serving_sentence(served_document(champion)))))


def moved_by_hand(entries: Sequence[AnyEntry]) -> str | None:
    """Which version serves and who chose it, if an operator was the last to choose the champion; else None.

    Then the report of the last night does not say who serves.
    """
    move = next((entry for entry in reversed(entries) if entry.chooses_champion), None)
    if not isinstance(move, OperatorEntry) or move.champion is None:
        return None
    deed = {"ROLLBACK": "rolled back to it", "OPERATOR_PROMOTE": "promoted it"}[move.decision]
    why = f"entry {move.seq}: {move.reason.rstrip('.')}"
    return f"version {move.champion.served.version} serves: {move.by} {deed} on {move.at[:10]} ({why})."


def taken_over(entries: Sequence[AnyEntry]) -> str | None:
    """Since when a judged version serves in place of its refit, and why, as a sentence; None if none does."""
    move = next((entry for entry in reversed(entries) if entry.moves_champion), None)
    if not isinstance(move, TakeOverEntry):
        return None
    return f"{move.reason.rstrip('.')} on {move.at[:10]} (entry {move.seq})."


def _move_sentence(move: AnyEntry, candidate: Champion) -> str:
    """The move that made the candidate champion, or another version in its place, as a sentence."""
    why = f"on {move.at[:10]} by {move.by} (entry {move.seq}: {move.reason.rstrip('.')})."
    if is_same(move.champion, candidate):
        return f"Version {candidate.version} was made champion {why}"
    if move.decision == "ROLLBACK":
        return f"Version {candidate.version} was rolled back {why}"
    assert move.champion is not None, move.seq
    return f"Version {candidate.version} was followed by version {move.champion.version} {why}"


def _decided_then(entry: NightEntry, answer: AnyEntry | None) -> str:
    """What was decided when the night ran, in one or two sentences."""
    answered = f" {answer_sentence(answer)}" if answer else ""
    if entry.candidate is None:
        return f"Decided before, in entry {entry.seq} of the ledger: {entry.reason}{answered}"
    decided = "was not promoted then" if entry.decision in {"KEEP", "REJECT"} else "was promoted then"
    decided = "was the champion already" if entry.judged_champion else decided
    said = f"Version {entry.candidate.version} {decided}, in entry {entry.seq} of the ledger: {entry.reason}"
    return f"{said}{answered}"


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


def shown_name(run: str, score: str, mark: str = "") -> str:
    """The name of a run that has ended, with its score: lists of runs show names, but no messages of states.

    `mark` is a word about the run, which stands in brackets: alerts of successes and recoveries leave such runs out.
    """
    title = run.split(SCORE)[0].removesuffix(f" ({REPLAY})").removesuffix(f" ({STILL_RED})")
    title += f" ({mark})" if mark else ""
    return f"{title}{SCORE}{score}" if score else title


def run_title(use_case: str, as_of: date | None, *, dry_run: bool = False) -> str:
    """`flights 2013-10-01`, the name of a run in lists; a dry run is marked, so that it does not look like a night."""
    title = f"{use_case} {as_of}" if as_of else use_case
    return f"{title} (dry run)" if dry_run else title
