"""The command `retrain`: its options, its exit codes, and how an error is printed.

The commands themselves are in deployments/commands and are imported when they run, so that `--help` answers at once.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from datetime import date
from importlib import import_module, metadata
from typing import Any, NoReturn

from ml.days import parse_day
from ml.errors import RetrainError, UsageError, did_you_mean, printable, unforeseen

Command = Callable[[argparse.Namespace], int]
INTERRUPTED = 130
LONGEST_REASON = 200  # letters; the form of a run has the same limit
EPILOG = (
    "exit codes: 0 done (whatever was decided), 1 error, 2 usage, 3 data rejected, "
    "130 interrupted (run again to resume)"
)
AS_OF_HELP = (
    "use data before this day only (default: today in the use case's time zone; for replayed data the day after the "
    "last night, for undated data it only names the night)"
)


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError, with the most similar option, where argparse would print and exit."""

    def __init__(self, **options: Any) -> None:
        # `--js` must not count as `--json`: errors are printed as a document only if `--json` itself is there.
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"`{self.prog}` takes what its --help says", message, f"see {self.prog} --help")

    def parse_known_args(self, *words: Any, **more: Any) -> Any:
        """Raises UsageError for unknown words, in the parser of the command that they were given to."""
        options, unknown = super().parse_known_args(*words, **more)
        if unknown:
            raise UsageError(
                f"`{self.prog}` takes what its --help says",
                f"it does not know {' '.join(unknown)[:200]}",
                self._nearest(unknown[0].split("=")[0]),
            )
        return options, unknown

    def _nearest(self, word: str) -> str:
        """The next step after an unknown word: the most similar option if it looks like one, otherwise the help."""
        options = [name[2:] for name in self._option_string_actions if name.startswith("--")]
        otherwise = f"see {self.prog} --help"
        return did_you_mean(word[2:], options, otherwise, before="--") if word.startswith("--") else otherwise


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Every error is printed as one sentence, or as one JSON document."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _require_text(words)
        options = parser().parse_args(words)
        _require_document(options)
        _show_log(quiet=options.quiet)
        code = _command(options.command)(options)
        sys.stdout.flush()
        return code
    except RetrainError as error:
        return _fail(error, as_json="--json" in words, debug="--debug" in words)
    except BrokenPipeError:  # the reader has ended, as in `retrain ledger flights | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - no exception may reach the terminal as a traceback
        return _fail(unforeseen(error), as_json="--json" in words, debug="--debug" in words)
    except KeyboardInterrupt as interrupt:
        message = interrupt.args[0] if interrupt.args else "Interrupted; run the same command again to resume."
        sys.stderr.write(f"{message}\n")
        return INTERRUPTED


def _require_document(options: argparse.Namespace) -> None:
    """Raises UsageError for --json with a command that prints lines for as long as it runs."""
    if options.json and hasattr(options, "refuses_json"):
        raise UsageError(
            "--json is for commands that end with one document",
            f"`retrain {options.command}` runs until it is stopped",
            "leave --json out",
        )


def _require_text(words: Sequence[str]) -> None:
    """Raises UsageError for bytes that are not UTF-8: they could neither be printed nor recorded."""
    for word in words:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError("words of a command are text in UTF-8", f"{word!a} is none", "write or rename it so")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="retrain", description="Nightly retraining with gates that bind.", epilog=EPILOG)
    top.add_argument("--version", action="version", version=f"retrain {metadata.version('nightly-retrain')}")
    shared = Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    shared.add_argument("--quiet", action="store_true", help="no progress lines on stderr")
    shared.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for add in (
        _add_run,
        _add_status,
        _add_ledger,
        _add_score,
        _add_demo_data,
        _add_up,
        _add_moves,
        _add_data,
        _add_doctor,
        _add_backfill,
        _add_backup,
        _add_gc,
        _add_alerts,
        _add_simulate,
    ):
        add(commands, shared)
    return top


def _add(commands: Any, shared: argparse.ArgumentParser, name: str, what: str) -> Parser:
    return commands.add_parser(name, parents=[shared], help=what, description=f"{what[0].upper()}{what[1:]}.")


def _add_run(commands: Any, shared: argparse.ArgumentParser) -> None:
    run = _add(commands, shared, "run", "one night, now")
    run.epilog = EPILOG
    run.add_argument("use_case", metavar="USE_CASE")
    run.add_argument("--as-of", type=_date, metavar="D", help=AS_OF_HELP)
    run.add_argument("--dry-run", action="store_true", help="check the data and say what would be trained")
    run.add_argument("--seed", type=_seed, metavar="N", help="another seed than the use case's")
    run.add_argument(
        "--again",
        type=_short_text,
        metavar="REASON",
        help="run a finished night once more; say why, in words not used for it before",
    )
    run.add_argument("--no-wait", action="store_true", help="fail if another run of the use case is active")


def _add_status(commands: Any, shared: argparse.ArgumentParser) -> None:
    status = _add(commands, shared, "status", "schedule, champion and last decisions")
    status.add_argument("use_case", metavar="USE_CASE", nargs="?")


def _add_ledger(commands: Any, shared: argparse.ArgumentParser) -> None:
    ledger = _add(commands, shared, "ledger", "every decision: when, who, from, to, why")
    ledger.add_argument("use_case", metavar="USE_CASE")


def _add_score(commands: Any, shared: argparse.ArgumentParser) -> None:
    score = _add(commands, shared, "score", "the champion's answers to the rows of a file")
    score.add_argument("use_case", metavar="USE_CASE")
    score.add_argument("file", metavar="FILE", help="a .parquet, .csv or .csv.gz file of raw rows")
    score.add_argument("-o", "--output", metavar="OUT", required=True, help="a .parquet or .csv file to write")
    score.add_argument("--explain", action="store_true", help="say also what each column adds to each answer")
    score.add_argument(
        "--reasons",
        type=int,
        choices=range(1, 21),
        default=0,
        metavar="K",
        help="say also in words which K columns moved a row most (1 to 20)",
    )


def _add_demo_data(commands: Any, shared: argparse.ArgumentParser) -> None:
    demo = _add(commands, shared, "demo-data", "write the real data sets that the examples use")
    demo.add_argument("use_case", metavar="USE_CASE", nargs="?")


def _add_up(commands: Any, shared: argparse.ArgumentParser) -> None:
    up = _add(commands, shared, "up", "Prefect and MLflow with their pages, and the schedules")
    up.set_defaults(refuses_json=True)
    up.add_argument("--prefect-port", type=int, default=4200, metavar="PORT")
    up.add_argument("--mlflow-port", type=int, default=5000, metavar="PORT")
    up.add_argument("--work-pool", metavar="POOL", help="work for this pool of the server at PREFECT_API_URL")


def _add_moves(commands: Any, shared: argparse.ArgumentParser) -> None:
    promote = _add(commands, shared, "promote", "make a registered version champion, whatever the gates said of it")
    rollback = _add(commands, shared, "rollback", "make an earlier champion champion again")
    hold = _add(commands, shared, "hold", "from now on train and register every night, and move nothing")
    release = _add(commands, shared, "release", "end a hold")
    for move in (promote, rollback, hold, release):
        move.add_argument("use_case", metavar="USE_CASE")
        _add_confirmation(move)
    promote.add_argument("--version", type=int, metavar="N", required=True, help="which, as `retrain ledger` shows it")
    promote.add_argument("--no", action="store_true", help="answer that it is not to serve, if a night asks about it")
    promote.add_argument(
        "--exclude", action="store_true", help="with --no: leave out the days on which the source changed, from now on"
    )
    rollback.add_argument("--to", type=int, metavar="VERSION", help="which one (default: the champion before)")


def _add_data(commands: Any, shared: argparse.ArgumentParser) -> None:
    data = _add(commands, shared, "data", "leave a day out of every snapshot, or take it in: again, or as it is")
    data.add_argument("action", choices=("exclude", "include"))
    data.add_argument("use_case", metavar="USE_CASE")
    data.add_argument("day", metavar="DAY", type=_date)
    _add_confirmation(data)


def _add_doctor(commands: Any, shared: argparse.ArgumentParser) -> None:
    doctor = _add(
        commands, shared, "doctor", "find what is wrong with this installation, and mend what is safe to mend"
    )
    doctor.add_argument("use_case", metavar="USE_CASE", nargs="?")
    doctor.add_argument("--mend", action="store_true", help="mend it (without, nothing is changed)")


def _add_backup(commands: Any, shared: argparse.ArgumentParser) -> None:
    backup = _add(commands, shared, "backup", "copy what cannot be made again into one file, while nights go on")
    restore = _add(commands, shared, "restore", "put back from a backup what is gone or damaged; what is newer stays")
    for command in (backup, restore):
        command.add_argument("file", metavar="FILE", help="a file, or s3://bucket/file")
    restore.add_argument("--yes", action="store_true", help="do not ask")
    restore.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="WHAT",
        help="let the backup's go before what is newer: a use case (its ledger), mlflow or prefect (the database)",
    )


def _add_gc(commands: Any, shared: argparse.ArgumentParser) -> None:
    gc = _add(commands, shared, "gc", "say what no retained run needs, and delete it with --yes")
    gc.add_argument("use_case", metavar="USE_CASE", nargs="?")
    gc.add_argument("--yes", action="store_true", help="delete it")


def _add_alerts(commands: Any, shared: argparse.ArgumentParser) -> None:
    alerts = _add(commands, shared, "alerts", "call an address when a night fails, or nothing succeeds")
    alerts.add_argument("url", metavar="URL", nargs="?", help="of a webhook: Slack's, or your own")
    alerts.add_argument("--kept-nights", type=_at_least_1, default=7, metavar="N", help="a kept champion (default: 7)")
    alerts.add_argument("--silent-hours", type=_at_least_1, default=36, metavar="N", help="no success (default: 36)")
    alerts.add_argument("--test", action="store_true", help="send one through what is set up, and say where it went")
    alerts.add_argument("--remove", action="store_true", help="no more alerts")


def _add_backfill(commands: Any, shared: argparse.ArgumentParser) -> None:
    backfill = _add(commands, shared, "backfill", "run many dates, each with only what was known then")
    actions = backfill.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    _add_plan(_add(actions, shared, "plan", "one row a date: whether it will run, and why"))
    driving = (
        _add(actions, shared, "apply", "run exactly a plan"),
        _add(actions, shared, "resume", "go on after a pause or a crash"),
        _add(actions, shared, "retry-failed", "run again what failed, and go on"),
    )
    others = (
        _add(actions, shared, "status", "what each date came to"),
        _add(actions, shared, "pause", "start no more dates for now"),
        _add(actions, shared, "cancel", "start no more dates for good"),
    )
    for action in (*driving, *others):
        action.add_argument("plan", metavar="PLAN", help="the beginning of its digest")
    for action in driving:
        action.add_argument(
            "--max-active", type=_from_1_to_16, default=1, metavar="N", help="dates at once (default: 1)"
        )
        action.add_argument("--fail-fast", action="store_true", help="start no date after the first that fails")


def _add_plan(plan: Parser) -> None:
    plan.add_argument("use_case", metavar="USE_CASE")
    plan.add_argument("--from", dest="first", type=_date, required=True, metavar="D1", help="the first as_of")
    plan.add_argument("--to", dest="last", type=_date, required=True, metavar="D2", help="the last as_of")
    plan.add_argument("--every", default="1d", metavar="STEP", help="1d, 2w or a cron line (default: 1d)")
    plan.add_argument(
        "--reprocess", choices=("none", "failed", "completed"), default="none", help="what to run again (default: none)"
    )
    plan.add_argument(
        "--promote", choices=("never", "if-newer"), default="never", help="move the champion or not (default: never)"
    )
    plan.add_argument("--newest-first", action="store_true", help="begin with the last date")


def _add_simulate(commands: Any, shared: argparse.ArgumentParser) -> None:
    simulate = _add(commands, shared, "simulate", "replay a year of nights: which gates would have served best")
    simulate.add_argument("use_case", metavar="USE_CASE")
    simulate.add_argument(
        "--nights", type=_at_least_1, default=365, metavar="N", help="dates (default: the newest 365)"
    )
    simulate.add_argument("--from", dest="first", type=_date, metavar="D", help="the first date")
    simulate.add_argument("--every", type=_at_least_1, default=1, metavar="N", help="only each N-th night (default: 1)")
    simulate.add_argument("--seeds", type=_at_least_1, default=1, metavar="N", help="candidates a night (default: 1)")
    simulate.add_argument(
        "--faults", action="store_true", help="plant faults in the training data of single nights too"
    )
    simulate.add_argument("--jobs", type=_from_1_to_16, default=2, metavar="N", help="fits at once (default: 2)")
    simulate.add_argument("--picture", metavar="FILE", help="draw the served score over the year: a .png or .svg file")


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is a whole number from 1, but it is {text!r}")
    return int(text)


def _from_1_to_16(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 16:
        raise argparse.ArgumentTypeError(f"it is a whole number from 1 to 16, but it is {text!r}")
    return int(text)


def _add_confirmation(move: Parser) -> None:
    move.add_argument("--reason", metavar="WHY", help="goes into the ledger (asked for on a terminal)")
    move.add_argument("--yes", action="store_true", help="do not ask")


def _date(text: str) -> date:
    try:
        return parse_day(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a day is written like 2013-10-01, but it is {text!r}") from None


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0, but it is {text!r}")
    return int(text)


def _short_text(text: str) -> str:
    if len(text) > LONGEST_REASON:
        raise argparse.ArgumentTypeError(f"a reason has at most {LONGEST_REASON} letters, but it has {len(text)}")
    return text


MODULES = dict.fromkeys(("promote", "rollback", "hold", "release", "data"), "moves") | {"restore": "backup"}


def _command(name: str) -> Command:
    """The function of this name in the command's module. Commands in MODULES share a module with others."""
    function = name.replace("-", "_")
    return getattr(import_module(f"deployments.commands.{MODULES.get(name, function)}"), function)


class OneLine(logging.Formatter):
    """Formats every record as one line, even if words from outside have line breaks."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


def _show_log(*, quiet: bool) -> None:
    """Shows our log on stderr; with `quiet` only warnings and errors."""
    logger = logging.getLogger("retrain")
    logger.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.handlers = [handler]


def _fail(error: RetrainError, *, as_json: bool, debug: bool) -> int:
    """Prints the error and returns its exit code; with `debug` the tracebacks too."""
    if debug:
        import traceback

        traceback.print_exception(error)
        if error.hidden is not None:
            sys.stderr.write("It came from:\n")
            traceback.print_exception(error.hidden)
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
