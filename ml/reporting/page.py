"""The page of a night in Markdown: all sections in their order. Words from outside are escaped."""

from datetime import date

from ml.reporting.data_section import data_sentences
from ml.reporting.decision_section import champion_then, headline, verdict_list, way_out
from ml.reporting.document import Document
from ml.reporting.escaping import on_a_page
from ml.reporting.fit_section import fit_sentence
from ml.reporting.score_section import comparison_sentence, score_table, scored


def artifact_key(use_case: str, what: str) -> str:
    """The key of a Prefect artifact, in which `_` is not allowed."""
    return f"{use_case.replace('_', '-')}-{what}"


def stages_artifact(use_case: str, as_of: date) -> dict[str, str]:
    """Key and description of the Prefect artifact with the table of stages."""
    return {"key": artifact_key(use_case, "stages"), "description": f"Stages as of {as_of}"}


def markdown(document: Document) -> str:
    """The page of a night, for readers who have never seen the code. What matters least comes last, because MLflow cuts
    long notes."""
    document = on_a_page(document)
    lines = [
        f"# {headline({**document, 'replayed': True})}",
        "",
        f"*{document['question']}*",
        "",
        f"**{document['decision']}.** {document['reason']}",
        "",
        champion_then(document),
        *([way_out(document)] if way_out(document) else []),
    ]
    if scored(document):
        lines += ["", "## Scores on the same test rows", "", *score_table(document), "", comparison_sentence(document)]
        lines += ["", "## Gates", "", *verdict_list(document)]
    lines += ["", "## Data", "", *(f"- {line}" for line in data_sentences(document))]
    lines += ["", "## Cost", "", *([fit_sentence(document), ""] if fit_sentence(document) else [])]
    lines += ["| stage | seconds | reused | computed |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {stage} | {seconds:.1f} | {document['reused'][stage]} | {document['computed'][stage]} |"
        for stage, seconds in document["seconds"].items()
    ]
    lines += ["", f"Device {document['device']}, {document['threads']} thread(s), seed {document['seed']}."]
    lines += ["", f"Run key `{document['run_key']}`, snapshot `{document['snapshot']['digest']}`."]
    return "\n".join(lines) + "\n"
