"""Words from outside on pages that render Markdown and HTML, as Prefect's and MLflow's do: shown letter by letter.

A column, a class, a reason or a file may be called anything, also `<img src=x onerror=...>` or `[here](http://...)`.
"""

import re
from typing import Any

from ml.errors import printable

MARKS = re.compile(r"[\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w)|^[#+=-]|(?<=^\d)[.)]")
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;"}  # a backslash does not keep a table's cell together
LINKS = {"://": "&#58;//", "www.": "www&#46;", "@": "&#64;"}  # bare addresses become links too


def literal(text: str) -> str:
    """The text so that Markdown shows it letter by letter, in one line."""
    marked = MARKS.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), printable(text))
    for plain, hidden in LINKS.items():
        marked = marked.replace(plain, hidden)
    return marked


def on_a_page(value: Any) -> Any:
    """The value with every text in it, names of fields too, as `literal`; our own plain names stay what they are."""
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, dict):
        return {on_a_page(name): on_a_page(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [on_a_page(each) for each in value]
    return value
