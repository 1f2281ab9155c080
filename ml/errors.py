"""Every error a user can meet; each reads as one sentence: the rule, the value seen, the next step.

RetrainError                exit code
├── UsageError              2   the command asks for something that cannot be
├── ConfigError             1   a use case, a suite or a setting is wrong
├── DataRejected            3   the data broke a rule that no retry can mend
├── Corrupt                 1   stored bytes are not the bytes that were written
├── Busy                    1   another run of the use case is active
├── Unforeseen              1   a library raised what nobody here expected; its words may quote data and are not told
└── Unavailable             1   transient: the only errors that are retried
    ├── SourceUnavailable
    ├── StoreUnavailable
    ├── RegistryUnavailable
    └── PrefectUnavailable
"""

import difflib
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

SENTENCE = re.compile(r"(.*?), but (.*?): (.*?)\.?", flags=re.DOTALL)
PASSWORDS = re.compile(r"(?<=://)\S*(?=@)|(?<=password=)[^&\s]+")


def without_passwords(text: str) -> str:
    """The text with *** for who asks and with which password in its addresses."""
    return PASSWORDS.sub("***", text)


def printable(text: str) -> str:
    """The text in one line, with what moves a terminal's cursor or colours it written like \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def what_and_where(error: BaseException) -> str:
    """What was raised and where, without its words: a library's may quote the rows that it was given."""
    kind = type(error).__name__
    if isinstance(error, ImportError) and error.name:
        kind += f" of {error.name}"  # a module's name
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return kind
    own = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts]
    last = (own or frames)[-1]
    return f"{kind} at {Path(last.filename).name}:{last.lineno}"


def is_passing(error: BaseException) -> bool:
    """Whether this machine and this moment are the cause, or a part of it: memory, a disk, a network. What a library
    says of the bytes that it was given is an OSError too, but none of the system's, which have numbers."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return any(
        isinstance(each, MemoryError) or (isinstance(each, OSError) and each.errno is not None) for each in causes
    )


def unforeseen(error: BaseException) -> "Unforeseen":
    """The sentence for what nobody here expected."""
    told = Unforeseen("a library raises nothing that we do not expect", what_and_where(error), "see it with --debug")
    told.hidden = error
    return told


@contextmanager
def only_our_words() -> Iterator[None]:
    """What leaves this context says only what we wrote.

    Other exceptions become Unforeseen, and the causes of ours are taken off: whoever prints a traceback, as Prefect's
    log does, would print the words of a library, which may quote the rows that it was given.
    """
    try:
        yield
    except RetrainError as error:
        error.hidden = error.__cause__ or error.hidden
        raise error from None
    except Exception as error:  # noqa: BLE001 - nothing is decided here: every one of them is raised again
        raise unforeseen(error) from None


def did_you_mean(word: str, known: Iterable[str], otherwise: str, before: str = "") -> str:
    """The next step where a word is not known: the nearest that is, if one is near; `before` stands before each."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {before}{nearest[0]}?" if nearest else otherwise


class RetrainError(Exception):
    """A user's error, kept in its three parts so that a machine can read them too: printable, without passwords."""

    exit_code = 1
    hidden: BaseException | None = None  # what it came from: shown with --debug, on the operator's own terminal only

    def __init__(self, rule: str, value: str | None = None, next_step: str = "") -> None:
        """From its parts, or from the whole sentence alone: Prefect keeps an error's class and what it says."""
        if value is None:
            parts = SENTENCE.fullmatch(rule)
            rule, value, next_step = parts.groups() if parts else (rule, "it does not", "see the log")
        rule, value, next_step = (printable(without_passwords(part)) for part in (rule, value, next_step))
        super().__init__(rule, value, next_step)
        self.rule, self.value, self.next_step = rule, value, next_step

    def __reduce__(self) -> tuple[type["RetrainError"], tuple[str, str, str]]:
        """Between processes it travels without what it came from."""
        return type(self), (self.rule, self.value, self.next_step)

    def __str__(self) -> str:
        return f"{self.rule}, but {self.value}: {self.next_step}" + ("" if self.next_step.endswith("?") else ".")


class UsageError(RetrainError):
    exit_code = 2


class ConfigError(RetrainError):
    pass


class DataRejected(RetrainError):
    exit_code = 3


class Corrupt(RetrainError):
    pass


class Busy(RetrainError):
    pass


class Unforeseen(RetrainError):
    pass


class Unavailable(RetrainError):
    pass


class SourceUnavailable(Unavailable):
    pass


class StoreUnavailable(Unavailable):
    pass


class RegistryUnavailable(Unavailable):
    pass


class PrefectUnavailable(Unavailable):
    pass
