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
    """What an operator can do about a night that the gates alone could not decide; "" for any other night.

    That is a night that asked an operator, one whose source has changed, or one that kept a champion with which no
    candidate can be compared any more.
    """
    not_judged = document["not_comparable"] and document["decision"] == "KEEP"
    name, version = document["use_case"], document["version"]
    if version is None:
        return ""
    if about_source := refused_source(document) or changed_source(document):
        return about_source
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
    figures = _change_that_is(document, "FAIL")
    if figures is None:
        return ""
    right = f"If that is right after all: {_promote(document['use_case'], document['version'])}"
    if figures["kind"] == REWRITTEN:
        return f"Mend the code that makes {figures['column']}. {right}"
    return f"Leave out {_days(figures)}: {_exclude(document['use_case'], figures)}. {right}"


def changed_source(document: Document) -> str:
    """What to do about a change of the source that nobody is asked about, because more than it blocks; else ""."""
    figures = _change_that_is(document, "INCONCLUSIVE")
    if figures is None or document["asks"]:
        return ""
    right = "If it is right, nothing is to be done: the first night that nothing else blocks asks about it"
    if figures["kind"] == REWRITTEN:
        return f"If the change of {figures['column']} is not wanted, mend the code that makes it. {right}"
    exclude = _exclude(document["use_case"], figures)
    return f"If the changed source is broken, leave out {_days(figures)}: {exclude}. {right}"


def _change_that_is(document: Document, verdict: str) -> Document | None:
    """The figures of the first change of the source, if this is the verdict about it; else None."""
    verdicts = (v for v in document["verdicts"] if (v["gate"], v["verdict"]) == ("SourceUnchanged", verdict))
    figures: list[Document] = [v["figures"] for v in verdicts if "first_day" in v["figures"]]
    return figures[0] if figures else None


def _days(figures: Document) -> str:
    first, last = figures["first_day"], figures["last_day"]
    return str(first) if first == last else f"each day from {first} to {last}"


def _exclude(use_case: str, figures: Document) -> str:
    day = figures["first_day"] if figures["first_day"] == figures["last_day"] else "DAY"
    return f"retrain data exclude {use_case} {day} --reason WHY"


def _promote(use_case: str, version: int | None) -> str:
    return f"retrain promote {use_case} --version {version} --reason WHY"


def verdict_list(document: Document) -> list[str]:
    """The verdicts as lines of a Markdown list."""
    return [f"- **{v['verdict']}** {v['gate']}: {v['reason']}" for v in document["verdicts"]]
