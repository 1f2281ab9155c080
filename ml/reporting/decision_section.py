"""What a report says about the decision: its headline, the verdicts, who is champion, and what an operator can do."""

from ml.evaluation.gates import ALLOWING
from ml.evaluation.source_evidence import REWRITTEN
from ml.reporting.document import Document

TRAINING_VIEW = "workflowType=machine_learning"  # otherwise MLflow's pages begin with traces of language models

# For a night that has just ended, and for one that is read about later.
HEADLINES = {
    "FIRST": "is the first champion",
    "PROMOTE": "is the new champion",
    "KEEP": "was not promoted; the champion stays",
    "REJECT": "was not promoted; there is no champion yet",
}
HEADLINES_THEN = {
    "FIRST": "became the first champion",
    "PROMOTE": "became the new champion",
    "KEEP": "was not promoted; the champion stayed",
    "REJECT": "was not promoted; there was no champion yet",
}


def headline(document: Document, *, answered_yes: bool = False) -> str:
    """The night in one sentence, in the past tense if `replayed` says that it was finished before.

    `answered_yes` says that an operator was asked, and that the version became champion by the answer.
    """
    name, decision = document["use_case"], document["decision"]
    if answered_yes:
        decision = "PROMOTE" if document["champion_before"] else "FIRST"
    if decision == "NOTHING_NEW":
        return f"{name} as of {document['as_of']}: nothing new to learn"
    words = (HEADLINES_THEN if document["replayed"] else HEADLINES)[decision]
    return f"{name} version {document['version']} (as of {document['as_of']}) {words}"


def decision_sentence(document: Document) -> str:
    """What was decided and why, for a place that shows the gates' own sentences too.

    A reason that begins with the sentence of a gate is therefore cut to the names of the gates that blocked.
    """
    blocking = [f"{v['gate']} says {v['verdict']}" for v in document["verdicts"] if v["verdict"] not in ALLOWING]
    quoted = blocking and document["reason"].startswith(blocking[0])
    why = f"{', '.join(blocking)}." if quoted else document["reason"]
    return f"{document['decision']}: {why}" + (" An operator is asked." if quoted and document["asks"] else "")


def version_page(document: Document) -> str:
    """The path of the version's page, to be appended to MLflow's address."""
    return f"#/models/{document['use_case']}/versions/{document['version']}?{TRAINING_VIEW}"


def champion_sentence(document: Document) -> str:
    """Who is champion, right after the night."""
    before, after = document["champion_before"], document["champion_after"]
    if after is None:
        return "There is no champion."
    if before == after:
        return f"Champion is still version {after}."
    return f"Champion is now version {after}" + (f", before it was version {before}." if before else ".")


def champion_then(document: Document) -> str:
    """Who was champion after the night, for a page that is read later."""
    before, after = document["champion_before"], document["champion_after"]
    if after is None:
        return "This night left no champion."
    if before == after:
        return f"This night left version {after} champion."
    return f"This night made version {after} champion" + (f" in place of version {before}." if before else ".")


def serving_sentence(served: Document | None) -> str:
    """Which version serves, and up to which day it learnt; "" for a night from before refits, or without champion.

    `served` is the part `serves` of a night's document, as `served_document` makes it.
    """
    if served is None:
        return ""
    of = f", the refit of version {served['refit_of']}" if served["refit_of"] is not None else ", as it was judged"
    until = f" It learnt from rows up to {served['fit_until']}." if served["fit_until"] else ""
    return f"Version {served['version']} serves{of}.{until}"


def refit_sentence(document: Document) -> str:
    """What became of the night's refit if it does not serve: it was refused, or waits for an answer; else ""."""
    refit = document.get("refit")
    if refit is None:
        return ""
    if refit["refused"]:
        serves = "would serve" if document["asks"] else "serves"
        return f"The refit is refused, and the judged model {serves}: {refit['refused']}."
    if document["asks"]:
        return f"If the answer is yes, version {refit['version']} serves, the refit of version {document['version']}."
    return ""


def serving_words(document: Document) -> str:
    """What serves after the night and, if it has a refit that does not, why."""
    return " ".join(filter(None, (refit_sentence(document), serving_sentence(document.get("serves")))))


def way_out(document: Document) -> str:
    """The command by which an operator promotes a candidate that the gates could not judge; "" for any other night.

    That is a night that asked an operator, or one that kept a champion with which no candidate can be compared any
    more.
    """
    not_judged = document["not_comparable"] and document["decision"] == "KEEP"
    name, version = document["use_case"], document["version"]
    if version is None:
        return ""
    if said_broken := refused_source(document):
        return said_broken
    if not (not_judged or document["asks"]):
        return ""
    if document["asks"]:
        has_days = any(change["kind"] != REWRITTEN for change in document.get("source_changes", []))
        return f"Is version {version} to serve? {ways_to_answer(name, version, has_days=has_days)}"
    return f"If version {version} is to serve all the same: {_promote(name, version)}"


def ways_to_answer(use_case: str, version: int | None, *, has_days: bool = False) -> str:
    """The commands that answer the question whether the version is to serve.

    If it was asked because of days on which the source changed (`has_days`), one of them also leaves these out.
    """
    yes = _promote(use_case, version)
    ways = f"Yes: {yes}. No: {yes.replace(' --reason', ' --no --reason')}"
    if not has_days:
        return ways
    return f"{ways}. No, and the days are to be left out: {yes.replace(' --reason', ' --no --exclude --reason')}"


def refused_source(document: Document) -> str:
    """What to do about days of a source that an operator said is broken, if they are still learnt from; else ""."""
    refused = [v for v in document["verdicts"] if v["gate"] == "SourceUnchanged" and v["verdict"] == "FAIL"]
    if not refused or "first_day" not in refused[0]["figures"]:
        return ""
    name, figures = document["use_case"], refused[0]["figures"]
    first, last = figures["first_day"], figures["last_day"]
    days = first if first == last else f"each day from {first} to {last}"
    right = f"If that is right after all: {_promote(name, document['version'])}"
    if figures["kind"] == REWRITTEN:
        return f"Mend the code that makes {figures['column']}. {right}"
    exclude = f"retrain data exclude {name} {first if first == last else 'DAY'} --reason WHY"
    return f"Leave out {days}: {exclude}. {right}"


def _promote(use_case: str, version: int | None) -> str:
    return f"retrain promote {use_case} --version {version} --reason WHY"


def verdict_list(document: Document) -> list[str]:
    """The verdicts as lines of a Markdown list."""
    return [f"- **{v['verdict']}** {v['gate']}: {v['reason']}" for v in document["verdicts"]]
