"""How a model says that it does not take the rows: to a caller in Python, and to one behind MLflow's own server.

And how the failure of a company's own code is told: its message may quote a row, and is not used.
"""

import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any


class UnusableRows(ValueError):
    """Rows cannot be read, derived or joined as declared; the message is the reason."""


def refusal(sentence: str) -> ValueError:
    """A ValueError with this sentence. Where MLflow is loaded it is MLflow's exception too.

    MLflow's server answers any other exception with status 400 and words of its own, and shows a sentence only in a
    traceback. Before it answers with an MlflowException, it writes the rows of the request in front of the message;
    this one keeps its message.
    """
    mlflow: Any = sys.modules.get("mlflow.exceptions")  # nothing here imports MLflow: a model does without
    if mlflow is None:
        return ValueError(sentence)

    class Refusal(mlflow.MlflowException, ValueError):
        @property
        def message(self) -> str:
            return sentence

        @message.setter
        def message(self, words: str) -> None:
            """The server's addition is left out."""

        def __reduce__(self) -> tuple[type[ValueError], tuple[str]]:
            return ValueError, (sentence,)  # another process may have no MLflow

    kind: Any = Refusal
    error: ValueError = kind(sentence, error_code=mlflow.BAD_REQUEST)
    return error


def failure(error: BaseException) -> str:
    """The kind of the error, and the line of the company's own code where it happened."""
    libraries = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"))
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if not frame.filename.startswith((*libraries, "<"))]
    where = f" in line {own[-1].lineno} of {Path(own[-1].filename).name}" if own else ""
    return f"fails with {type(error).__name__}{where}"
