"""The page of a night in Markdown: all sections in their order. Words from outside are escaped.

A new section is a module beside this one, and a row of SECTIONS. docs/adding.md shows it.
"""

from collections.abc import Callable
from datetime import date
from typing import NamedTuple

from ml.reporting.data_section import data_sentences
from ml.reporting.decision_section import (
    champion_then,
    headline,
    serving_words,
    verdict_list,
    way_out,
)
from ml.reporting.document import Document
from ml.reporting.escaping import on_a_page
from ml.reporting.fit_section import fit_sentence, output_sentences, refit_fit_sentence
from ml.reporting.importance_section import importance_lines
from ml.reporting.score_section import (
    calibration_error_sentence,
    comparison_sentence,
    resolution_sentence,
    score_table,
    scored,
)
from ml.reporting.served_section import served_lines
from ml.reporting.source_section import source_lines


def artifact_key(use_case: str, what: str) -> str:
    """The key of a Prefect artifact, in which `_` is not allowed."""
    return f"{use_case.replace('_', '-')}-{what}"


def stages_artifact(use_case: str, as_of: date) -> dict[str, str]:
    """Key and description of the Prefect artifact with the table of stages."""
    return {"key": artifact_key(use_case, "stages"), "description": f"Stages as of {as_of}"}


class Section(NamedTuple):
    """A part of the page. `lines` makes Markdown of the night's document; it makes none if the section is left out."""

    heading: str
    lines: Callable[[Document], list[str]]


def markdown(document: Document) -> str:
    """The page of a night, for readers who have never seen the code."""
    document = on_a_page(document)
    lines = [
        f"# {headline({**document, 'replayed': True})}",
        "",
        f"*{document['question']}*",
        "",
        f"**{document['decision']}.** {document['reason']}",
        "",
        f"{champion_then(document)} {serving_words(document)}".rstrip(),
        *([way_out(document)] if way_out(document) else []),
    ]
    for section in SECTIONS:
        if of_section := section.lines(document):
            lines += ["", f"## {section.heading}", "", *of_section]
    return "\n".join(lines) + "\n"


def _score_lines(document: Document) -> list[str]:
    if not scored(document):
        return []
    sentences = (comparison_sentence(document), calibration_error_sentence(document))
    return [*score_table(document), *(line for sentence in sentences if sentence for line in ("", sentence))]


def _gate_lines(document: Document) -> list[str]:
    if not scored(document):
        return []
    resolution = resolution_sentence(document)
    return [*verdict_list(document), *(["", resolution] if resolution else [])]


def _data_lines(document: Document) -> list[str]:
    return [f"- {sentence}" for sentence in data_sentences(document)]


def _fit_lines(document: Document) -> list[str]:
    told = (fit_sentence(document), output_sentences(document), refit_fit_sentence(document))
    return [sentence for sentence in told if sentence]


def _cost_lines(document: Document) -> list[str]:
    """Each stage's seconds and counts, and what the night ran with."""
    rows = [
        f"| {stage} | {seconds:.1f} | {document['reused'][stage]} | {document['computed'][stage]} |"
        for stage, seconds in document["seconds"].items()
    ]
    return [
        *("| stage | seconds | reused | computed |", "| --- | ---: | ---: | ---: |", *rows),
        *("", f"Device {document['device']}, {document['threads']} thread(s), seed {document['seed']}."),
        *("", f"Run key `{document['run_key']}`, snapshot `{document['snapshot']['digest']}`."),
    ]


# What matters least comes last, because MLflow cuts long notes.
SECTIONS = (
    Section("Scores on the same test rows", _score_lines),
    Section("Gates", _gate_lines),
    Section("Which columns matter", importance_lines),
    Section("What served", served_lines),
    Section("Source", source_lines),
    Section("Data", _data_lines),
    Section("Fit", _fit_lines),
    Section("Cost", _cost_lines),
)
