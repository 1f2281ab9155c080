"""Escaping: pages of Prefect and MLflow render Markdown and HTML, and words from outside must be shown as they are.

A column, a class, a reason or a file may be called anything, for example `<img src=x onerror=...>` or
`[here](http://...)`.
"""

import re
from typing import Any

from ml.errors import printable

# Characters that may mean something in Markdown or HTML.
MARKS = re.compile(r"[\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w)|^[#+=-]|(?<=^\d)[.)]")
# These are replaced; every other mark gets a backslash, with which a | would still end the cell of a table.
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;"}
LINKS = {"://": "&#58;//", "www.": "www&#46;", "@": "&#64;"}  # bare addresses would become links


def literal(text: str) -> str:
    """The text, escaped so that Markdown shows every letter of it in one line."""
    escaped = MARKS.sub(lambda mark: ENTITIES.get(mark[0], f"\\{mark[0]}"), printable(text))
    for plain, hidden in LINKS.items():
        escaped = escaped.replace(plain, hidden)
    return escaped


def on_a_page(value: Any) -> Any:
    """The value with every text in it escaped, also the names of fields. Our own field names are plain and stay
    equal."""
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, dict):
        return {on_a_page(name): on_a_page(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [on_a_page(item) for item in value]
    return value
