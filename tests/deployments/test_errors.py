"""Every error is one sentence of three parts, for people and machines."""

import pickle
import re

import pytest

import ml.errors
from ml.errors import RetrainError, Unavailable, printable

PARTS = ("a day has one file", "there are 2 of 2024-01-01", "remove one of them")
EXIT_CODES = {"UsageError": 2, "DataRejected": 3}


def every_class() -> list[type[RetrainError]]:
    found = [value for value in vars(ml.errors).values() if isinstance(value, type) and issubclass(value, RetrainError)]
    assert len(found) >= 10
    return found


@pytest.mark.parametrize("kind", every_class())
def test_an_error_is_one_sentence_with_rule_value_and_next_step(kind: type[RetrainError]) -> None:
    sentence = str(kind(*PARTS))
    assert sentence == "a day has one file, but there are 2 of 2024-01-01: remove one of them."
    assert str(kind("a", "b", "did you mean c?")) == "a, but b: did you mean c?"


@pytest.mark.parametrize("kind", every_class())
def test_an_error_survives_a_journey_between_processes(kind: type[RetrainError]) -> None:
    error = pickle.loads(pickle.dumps(kind(*PARTS)))
    assert type(error) is kind
    assert (error.rule, error.value, error.next_step) == PARTS
    assert str(error) == str(kind(*PARTS))


SENTENCES = [
    ("a, but b: c.", ("a", "b", "c")),
    ("a, but b: did you mean c?", ("a", "b", "did you mean c?")),
    ("x.y, but it is 3: 4, but 5: write 1.2.", ("x.y", "it is 3", "4, but 5: write 1.2")),
    ("a, but it is\nb: c.", ("a", "it is\\nb", "c")),
]


@pytest.mark.parametrize(("sentence", "parts"), SENTENCES)
def test_an_error_comes_back_from_its_sentence_alone(sentence: str, parts: tuple[str, str, str]) -> None:
    error = RetrainError(sentence)
    assert (error.rule, error.value, error.next_step) == parts
    assert str(error) == printable(sentence)
    assert str(RetrainError("something else")).startswith("something else, but ")


@pytest.mark.parametrize("kind", every_class())
def test_an_error_has_the_exit_code_that_the_tree_at_the_top_of_its_file_says(kind: type[RetrainError]) -> None:
    assert kind.exit_code == EXIT_CODES.get(kind.__name__, 1)
    assert re.search(rf"\b{kind.__name__}\b", ml.errors.__doc__ or "")


def test_only_what_is_unavailable_is_retried() -> None:
    transient = {kind.__name__ for kind in every_class() if issubclass(kind, Unavailable)}
    assert transient == {
        "Unavailable",
        "SourceUnavailable",
        "StoreUnavailable",
        "RegistryUnavailable",
        "PrefectUnavailable",
    }
