"""The command `retrain`. Parsing imports nothing heavy, so that `--help` answers at once."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, NoReturn

from ml.errors import RetrainError, UsageError

Command = Callable[[argparse.Namespace], int]
INTERRUPTED = 130
EPILOG = (
    "exit codes: 0 done (whatever was decided), 1 error, 2 usage, 3 data rejected, "
    "130 interrupted (run again to resume)"
)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"`{self.prog}` takes what its --help says", message, f"see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; every error leaves as one sentence, or one JSON document."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parser().parse_args(words)
        _show_log(quiet=options.quiet)
        return _command(options.command)(options)
    except RetrainError as error:
        return _fail(error, as_json="--json" in words, debug="--debug" in words)
    except Exception as error:  # noqa: BLE001 - the last net
        return _fail(_unforeseen(error), as_json="--json" in words, debug="--debug" in words)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; run the same command again to resume.\n")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="retrain", description="Nightly retraining with gates that bind.", epilog=EPILOG)
    shared = Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    shared.add_argument("--quiet", action="store_true", help="no progress lines on stderr")
    shared.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for add in (_add_run, _add_status, _add_ledger, _add_score, _add_demo_data, _add_up):
        add(commands, shared)
    return top


def _add_run(commands: Any, shared: argparse.ArgumentParser) -> None:
    run = commands.add_parser("run", parents=[shared], help="one night, now", epilog=EPILOG)
    run.add_argument("use_case", metavar="USE_CASE")
    run.add_argument("--as-of", type=_date, metavar="D", help="use data before this day only (default: tonight)")
    run.add_argument("--dry-run", action="store_true", help="check the data and say what would be trained")
    run.add_argument("--seed", type=_seed, metavar="N", help="another seed than the use case's")
    run.add_argument("--again", metavar="REASON", help="run a finished night once more")
    run.add_argument("--no-wait", action="store_true", help="fail if another run of the use case is active")


def _add_status(commands: Any, shared: argparse.ArgumentParser) -> None:
    status = commands.add_parser("status", parents=[shared], help="schedule, champion and last decisions")
    status.add_argument("use_case", metavar="USE_CASE", nargs="?")


def _add_ledger(commands: Any, shared: argparse.ArgumentParser) -> None:
    ledger = commands.add_parser("ledger", parents=[shared], help="every decision: when, who, from, to, why")
    ledger.add_argument("use_case", metavar="USE_CASE")


def _add_score(commands: Any, shared: argparse.ArgumentParser) -> None:
    score = commands.add_parser("score", parents=[shared], help="the champion's answers to the rows of a file")
    score.add_argument("use_case", metavar="USE_CASE")
    score.add_argument("file", metavar="FILE", help="a .parquet, .csv or .csv.gz file of raw rows")
    score.add_argument("-o", "--output", metavar="OUT", required=True, help="a .parquet or .csv file to write")


def _add_demo_data(commands: Any, shared: argparse.ArgumentParser) -> None:
    demo = commands.add_parser("demo-data", parents=[shared], help="write the real data sets that the examples use")
    demo.add_argument("use_case", metavar="USE_CASE", nargs="?")


def _add_up(commands: Any, shared: argparse.ArgumentParser) -> None:
    up = commands.add_parser("up", parents=[shared], help="Prefect and MLflow with their pages, and the schedules")
    up.add_argument("--prefect-port", type=int, default=4200, metavar="PORT")
    up.add_argument("--mlflow-port", type=int, default=5000, metavar="PORT")


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a day is written like 2013-10-01, but it is {text!r}") from None


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0, but it is {text!r}")
    return int(text)


def _command(name: str) -> Command:
    from deployments import commands

    return getattr(commands, name.replace("-", "_"))


def _show_log(*, quiet: bool) -> None:
    """Progress on stderr: one line a task, and one an epoch."""
    logger = logging.getLogger("retrain")
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.handlers = [handler]


def _unforeseen(error: Exception) -> RetrainError:
    said = (str(error).strip() or "no message").splitlines()[0][:200]
    foreseen = RetrainError("a command ends without an error", f"{type(error).__name__}: {said}", "see it with --debug")
    foreseen.__cause__ = error
    return foreseen


def _fail(error: RetrainError, *, as_json: bool, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    if as_json:
        document = {
            "error": type(error).__name__,
            "rule": error.rule,
            "value": error.value,
            "next_step": error.next_step,
            "exit_code": error.exit_code,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
