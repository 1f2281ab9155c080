"""Makes the decision from the gates' verdicts. Nothing is promoted unless every gate allows it.

Everything here is a pure function: it reads and writes nothing.
"""

from collections.abc import Sequence
from datetime import date

from ml.evaluation.gates import ALLOWING
from ml.evaluation.handles import Verdict
from ml.storage.records import Champion, DecisionName

# One word for each way a night can end. The message of the run's state begins with it, and it is a tag of the run. It
# is not the name of the state, because Prefect's pages leave out runs whose state has a name that is not Prefect's own.
END_WORDS = {
    "FIRST": "Promoted",
    "PROMOTE": "Promoted",
    "KEEP": "KeptChampion",
    "REJECT": "NoChampionYet",
    "NOTHING_NEW": "NothingNew",
}
DATA_REJECTED = "DataRejected"
ALL_END_WORDS = (*dict.fromkeys(END_WORDS.values()), DATA_REJECTED)
KEPT_EVENT, KEPT_NIGHTS = "retrain.kept-champion", "retrain.kept-nights"  # an event, and its label with the count
TAKEN_OVER_EVENT = "retrain.twin-took-over"
SOURCE_EVENT = "retrain.source-changed"


def decide(
    verdicts: Sequence[Verdict], champion: Champion | None, as_of: date | None, blocked: str | None = None,
    *, is_champion: bool = False,
) -> tuple[DecisionName, str]:  # fmt: skip
    """FIRST, PROMOTE, KEEP or REJECT, with the reason as a sentence.

    `blocked` is the reason why nothing may be promoted now, if there is one. `as_of` is None for data without dates;
    then the candidate always counts as newer than the champion, because its entry in the ledger comes later.
    `is_champion` says that the candidate is the champion itself, which is judged again.
    """
    stays: DecisionName = "REJECT" if champion is None else "KEEP"
    if blocked is not None:
        return stays, blocked
    if not verdicts:
        return stays, "No gate is configured, and nothing is promoted without one."
    blocking = [verdict for verdict in verdicts if verdict.verdict not in ALLOWING]
    if blocking:
        return stays, " ".join(f"{verdict.gate} says {verdict.verdict}: {verdict.reason}." for verdict in blocking)
    if champion is None:
        return "FIRST", f"There was no champion, and {_every(verdicts)} this one."
    if is_champion:
        return "KEEP", f"{_every(verdicts).capitalize()} it, and version {champion.version} is the champion already."
    if _is_past(champion, as_of):
        return "KEEP", f"All gates allow it, but as_of {as_of} is not newer than the champion's {champion.as_of}."
    return "PROMOTE", f"{_every(verdicts).capitalize()} it."


def is_open(verdicts: Sequence[Verdict], champion: Champion | None, as_of: date | None, blocked: str | None) -> bool:
    """Whether only gates that cannot tell (INCONCLUSIVE) keep the candidate from being promoted."""
    blocking = {verdict.verdict for verdict in verdicts} - ALLOWING
    return blocked is None and blocking == {"INCONCLUSIVE"} and (champion is None or not _is_past(champion, as_of))


def _is_past(champion: Champion, as_of: date | None) -> bool:
    return as_of is not None and as_of <= champion.as_of


def _every(verdicts: Sequence[Verdict]) -> str:
    return "the one gate allows" if len(verdicts) == 1 else f"all {len(verdicts)} gates allow"


def comparability(
    champion: Champion, first_test_day: str | None, target_digest: str, split_digest: str, who: str
) -> str | None:
    """Why a registered version cannot be compared on tonight's test rows; None if it can.

    It cannot if it learnt another target, or may have been trained on rows that are test rows tonight. `who` is what
    the sentence calls it.
    """
    if champion.target_digest != target_digest:
        return f"the {who} (version {champion.version}) learnt another target definition"
    if first_test_day is None:
        same = champion.fit_until is None and champion.split_digest == split_digest
        return None if same else f"the {who} (version {champion.version}) was trained under another split of the rows"
    if champion.fit_until is None or champion.fit_until >= first_test_day:
        last = champion.fit_until or "an unknown day"
        return f"the {who} (version {champion.version}) has seen data up to {last}; the test begins {first_test_day}"
    return None
