"""What slow tests wait for in the log of a night is what a night says; they run too seldom to find that out."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOGS = {"info", "warning", "error"}


def said() -> str:
    """The text of every line that stages and flows log, a line each."""
    lines = []
    for path in (path for folder in ("ml", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in LOGS:
                lines += [ast.unparse(text) for text in call.args if isinstance(text, ast.Constant)]
    return "\n".join(lines)


SAID = said()


def awaited() -> Iterator[tuple[str, str]]:
    """The file and the words of every `said(...)`, and of every parameter `words`."""
    for path in sorted((ROOT / "tests" / "slow").glob("test_*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args:
                of_run = call.func.attr == "said"
                of_parameter = call.func.attr == "parametrize" and ast.unparse(call.args[0]) == "'words'"
                nodes = ast.walk(call) if of_run or of_parameter else ()
                texts = [node.value for node in nodes if isinstance(node, ast.Constant) and node.value != "words"]
                yield from ((path.name, str(text)) for text in texts)


@pytest.mark.parametrize(("file", "words"), sorted(set(awaited())))
def test_a_night_says_what_a_slow_test_waits_for(file: str, words: str) -> None:
    assert words in SAID, f"{file} waits for {words!r}"
