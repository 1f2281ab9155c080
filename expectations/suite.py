"""Typed rules as suites of Great Expectations (GX): reads suite files, writes rules as expectations, lets GX judge.

This is the only module that imports great_expectations. It does so only to judge, because the import takes 4 s. It
refuses every part of a suite that it does not know: GX would skip an unknown expectation and call the suite a success.
"""

import functools
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from ml.data.validation import Fact
from ml.errors import ConfigError, DataRejected
from ml.serving.rules import (
    Between,
    Finite,
    InSet,
    InYears,
    Matches,
    NotBelow,
    NotNull,
    Rule,
    Scope,
    Severity,
    UniqueKey,
)


@dataclass(frozen=True)
class Form:
    """How GX writes one type of rule.

    `fields` has the rule's field for each kwarg of the expectation, `fixed` the kwargs that can only have one value.
    """

    rule: type[Rule]
    fields: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """Whether all rows obey a rule, and how many do not."""

    success: bool
    unexpected: int


WARNINGS = threading.Lock()  # filters of warnings hold for the whole process, which may run several dates at once
UNIQUE_COLUMN = "expect_column_values_to_be_unique"
UNIQUE_COLUMNS = "expect_compound_columns_to_be_unique"
BETWEEN = "expect_column_values_to_be_between"
FORMS = {
    "expect_column_values_to_not_be_null": Form(NotNull, {"column": "column"}),
    BETWEEN: Form(
        Between,
        {"column": "column", "min_value": "minimum", "max_value": "maximum"},
        optional=frozenset({"min_value", "max_value"}),
    ),
    "expect_column_values_to_be_in_set": Form(InSet, {"column": "column", "value_set": "values"}),
    "expect_column_values_to_match_regex": Form(Matches, {"column": "column", "regex": "pattern"}),
    "expect_column_pair_values_a_to_be_greater_than_b": Form(
        NotBelow,
        {"column_A": "column", "column_B": "other"},
        fixed={"or_equal": True, "ignore_row_if": "either_value_is_missing"},
    ),
    UNIQUE_COLUMN: Form(UniqueKey, {"column": "key"}),
    UNIQUE_COLUMNS: Form(UniqueKey, {"column_list": "key"}, fixed={"ignore_row_if": "any_value_is_missing"}),
}
YEARS = re.compile(r"(\d{4})-01-01T00:00:00 (\d{4})-12-31T23:59:59\.999999")
TYPES: dict[type[Rule], str] = {
    Finite: BETWEEN,
    InYears: BETWEEN,
    **{form.rule: name for name, form in FORMS.items()},
}
SEVERITIES: dict[Severity, str] = {"error": "critical", "warning": "warning"}
BASIC = {"result_format": "BASIC", "partial_unexpected_count": 0}  # so that results hold no values, of any column
SUITE_KEYS = {"name", "expectations", "meta", "id", "notes"}
EXPECTATION_KEYS = {"type", "kwargs", "meta", "severity", "id", "notes", "description"}


def suite_file(use_case_name: str, project: Path | None) -> Path | None:
    """The suite file of a use case; None if it has none.

    If the use case is the project's, its suite is in the project's folder too. Otherwise it is in this package.
    """
    own = project is not None and (project / "use_cases" / f"{use_case_name}.py").is_file()
    folder = project / "expectations" if project is not None and own else Path(__file__).parent
    file = folder / f"{use_case_name}.json"
    return file if file.is_file() else None


def load_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a suite file, read without GX. Raises ConfigError for anything that is not one of our rules."""
    suite = _read(path)
    place = f"the suite {path}"
    _require_object(suite, SUITE_KEYS, place)
    if suite.get("name") != path.stem:
        raise ConfigError(f"{place} must be named as its file", _it_is(suite.get("name")), f"name it {path.stem!r}")
    expectations = suite.get("expectations")
    if not isinstance(expectations, list) or not expectations:
        raise ConfigError(f"{place} must list expectations", _it_is(expectations), "add one or delete the file")
    return tuple(from_gx(fields, f"expectation {i} of {path}") for i, fields in enumerate(expectations, start=1))


def suite_rules(use_case_name: str, project: Path | None) -> tuple[Rule, ...]:
    """The rules of the use case's suite file; none if it has no file."""
    file = suite_file(use_case_name, project)
    return load_rules(file) if file else ()


def to_gx(rule: Rule) -> dict[str, Any]:
    """The rule as an expectation, in the form of a suite file."""
    name = UNIQUE_COLUMN if len(rule.columns) == 1 and isinstance(rule, UniqueKey) else TYPES[type(rule)]
    kwargs = {kwarg: getattr(rule, attribute) for kwarg, attribute in FORMS[name].fields.items()}
    if name == UNIQUE_COLUMN:
        kwargs = {"column": rule.columns[0]}
    stated = {k: list(v) if isinstance(v, tuple) else v for k, v in kwargs.items() if v is not None}
    return {
        "type": name,
        "kwargs": {**stated, **FORMS[name].fixed},
        "meta": {"scope": rule.scope},
        "severity": SEVERITIES[rule.severity],
    }


def from_gx(expectation: Any, place: str = "an expectation") -> Rule:
    """Inverse of `to_gx`. Raises ConfigError for any other expectation; `place` is what the error calls it."""
    _require_object(expectation, EXPECTATION_KEYS, place)
    name = expectation.get("type")
    if not isinstance(name, str) or name not in FORMS:
        raise ConfigError(f"{place} must have a type with a rule", _it_is(name), f"use one of {', '.join(FORMS)}")
    if (years := _years(name, expectation.get("kwargs"))) is not None:
        return InYears(scope=_scope(expectation, place), severity=_severity(expectation, place), **years)
    fields = _fields(FORMS[name], expectation.get("kwargs"), place)
    if name == UNIQUE_COLUMN:
        fields = {"key": (fields["key"],)}
    rule = FORMS[name].rule(scope=_scope(expectation, place), severity=_severity(expectation, place), **fields)
    _require_possible(rule, place)
    if isinstance(rule, Between) and (rule.minimum, rule.maximum) == (Finite.minimum, Finite.maximum):
        return Finite(column=rule.column, scope=rule.scope, severity=rule.severity)
    return rule


def verdicts(facts: Sequence[Fact]) -> list[Verdict]:
    """The verdict of Great Expectations on each fact, in the same order, whatever the scope and severity of its rule.

    GX is given the facts as its metrics, because it would take twenty times as long to compute them itself. Raises
    ConfigError if there are no facts, or if GX refuses a rule. Raises DataRejected if there are no rows, for then GX
    would call every rule true.
    """
    if not facts:
        raise ConfigError("rows need rules to be judged by", "there are none", "give the use case a column or a key")
    if facts[0].rows == 0:
        raise DataRejected("rules need rows to be judged on", "there are none", "check the rows' source")
    for fact in facts:
        from_gx(to_gx(fact.rule), _place(fact.rule))
    return [_verdict(fact) for fact in facts]


def confirm(facts: Sequence[Fact]) -> None:
    """Raises ConfigError if Great Expectations counts other rows than the scan that sets rows aside."""
    for fact, verdict in zip(facts, verdicts(facts), strict=True):
        if (verdict.success, verdict.unexpected) != (fact.unexpected == 0, fact.unexpected):
            raise ConfigError(
                f"Great Expectations and the scan agree on '{fact.rule.sentence}'",
                f"one counts {verdict.unexpected} rows and the other {fact.unexpected}",
                "report it with the partition",
            )


def _read(path: Path) -> Any:
    try:
        text = path.read_text("utf-8")
        return json.loads(text, object_pairs_hook=_object_without_repeats, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"the suite {path} must be readable as strict JSON", str(error), "mend the file") from error


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"an object has {', '.join(repeated)} twice")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _require_object(value: Any, keys: set[str], place: str) -> None:
    """Raises ConfigError unless the value is a JSON object that has no other keys than these."""
    allowed = f"{place} must be an object of {', '.join(sorted(keys))}"
    if not isinstance(value, dict):
        raise ConfigError(allowed, _it_is(value), "mend the file")
    if unknown := sorted(value.keys() - keys):
        raise ConfigError(allowed, f"it has {', '.join(unknown)}", "delete or rename what it should not have")


def _fields(form: Form, kwargs: Any, place: str) -> dict[str, Any]:
    """The fields of the rule, from the kwargs of an expectation. A kwarg that is null counts as missing."""
    _require_object(kwargs, {*form.fields, *form.fixed}, f"kwargs of {place}")
    stated = {kwarg: value for kwarg, value in kwargs.items() if value is not None}
    for kwarg in (*form.fields, *form.fixed):
        if kwarg not in stated and kwarg not in form.optional:
            raise ConfigError(f"kwargs of {place} must have {kwarg}", "it is not there", "add it")
    for kwarg, value in form.fixed.items():
        if stated[kwarg] != value:
            raise ConfigError(f"{kwarg} of {place} must be {json.dumps(value)}", _it_is(stated[kwarg]), "change it")
    return {form.fields[kwarg]: _value(kwarg, v, place) for kwarg, v in stated.items() if kwarg in form.fields}


def _years(name: str, kwargs: Any) -> dict[str, Any] | None:
    """The fields of an InYears rule; None if these are not its limits.

    Its limits are the first moment of a year and the last moment of the same or a later one.
    """
    if name != BETWEEN or not isinstance(kwargs, dict) or kwargs.keys() != {"column", "min_value", "max_value"}:
        return None
    years = YEARS.fullmatch(f"{kwargs['min_value']} {kwargs['max_value']}")
    if years is None or _problem_of_name(kwargs["column"]):
        return None
    return {"column": kwargs["column"], "first": int(years[1]), "last": int(years[2])}


def _value(kwarg: str, value: Any, place: str) -> Any:
    """The value of a kwarg as the rule has it. Raises ConfigError if it is not of the kwarg's kind."""
    what, problem_of = KINDS[kwarg]
    if problem := problem_of(value):
        raise ConfigError(f"{kwarg} of {place} must be {what}", problem, "change it")
    if isinstance(value, list):
        return tuple(value)
    return value if isinstance(value, str) else float(value)


def _it_is(value: Any) -> str:
    return "it is missing" if value is None else f"it is {value!r}"


def _problem_of_name(value: Any) -> str | None:
    return None if isinstance(value, str) and value else _it_is(value)


def _problem_of_texts(value: Any) -> str | None:
    texts = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    return None if texts and len(set(value)) == len(value) else _it_is(value)


def _problem_of_number(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and abs(value) <= sys.float_info.max else _it_is(value)


def _problem_of_pattern(value: Any) -> str | None:
    return _problem_of_regex(value) if isinstance(value, str) else _it_is(value)


@functools.cache
def _problem_of_regex(pattern: str) -> str | None:
    """Why the pattern cannot be used, if so. It is tried with Python, as GX does, and with Arrow, as the scan does.

    Arrow knows fewer patterns than Python, and reads those that Python warns of in another way.
    """
    with WARNINGS, warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Possible ", FutureWarning)
        try:
            if re.compile(pattern).groups:
                return f"{pattern!r} is not (it has match groups)"
            pd.Series(["text"], dtype="str").str.contains(pattern, regex=True)
        except (re.error, ValueError) as error:
            return f"{pattern!r} is not ({_one_line(str(error))})"
    messages = [text for text in (str(warning.message) for warning in caught) if text.startswith("Possible ")]
    return f"{pattern!r} is not ({_one_line(messages[0])})" if messages else None


KINDS: dict[str, tuple[str, Callable[[Any], str | None]]] = {
    "column": ("the name of a column", _problem_of_name),
    "column_A": ("the name of a column", _problem_of_name),
    "column_B": ("the name of a column", _problem_of_name),
    "column_list": ("a list of different column names", _problem_of_texts),
    "value_set": ("a list of different texts", _problem_of_texts),
    "min_value": ("a finite number", _problem_of_number),
    "max_value": ("a finite number", _problem_of_number),
    "regex": ("a regular expression that Python and Arrow know, its groups written (?:...)", _problem_of_pattern),
}


def _scope(expectation: dict[str, Any], place: str) -> Scope:
    meta = {} if expectation.get("meta") is None else expectation["meta"]
    _require_object(meta, {"scope"}, f"meta of {place}")
    scope = meta.get("scope", "row")
    if scope not in get_args(Scope):
        raise ConfigError(f"scope of {place} must be one of {', '.join(get_args(Scope))}", _it_is(scope), "change it")
    return scope


def _severity(expectation: dict[str, Any], place: str) -> Severity:
    """The rule's severity. GX's `info` is refused: it would make a rule that neither sets rows aside nor warns."""
    stated = expectation.get("severity", "critical")
    for severity, name in SEVERITIES.items():
        if stated == name:
            return severity
    raise ConfigError(f"severity of {place} must be critical or warning", _it_is(stated), "change it")


def _require_possible(rule: Rule, place: str) -> None:
    """Raises ConfigError for a range without a limit, or with its limits the wrong way round."""
    if not isinstance(rule, Between):
        return
    low, high = rule.minimum, rule.maximum
    if low is None and high is None:
        raise ConfigError(f"{place} must have min_value or max_value", "it has neither", "add one")
    if low is not None and high is not None and low > high:
        raise ConfigError(f"min_value of {place} must not exceed max_value", f"{low:g} > {high:g}", "mend one")


def _place(rule: Rule) -> str:
    return f"the rule {type(rule).__name__} of {', '.join(rule.columns)}"


def _one_line(message: str) -> str:
    return " ".join(message.split()).rstrip(".")


@functools.cache
def _expectation_class(name: str) -> Any:
    """The class in GX of this type of expectation."""
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)  # we raise what GX would log as an error
    with WARNINGS, warnings.catch_warnings():
        # GX imports sre_constants and sre_parse, which are deprecated since Python 3.11. It also sends all warnings to
        # logging, which is undone when this block ends.
        warnings.filterwarnings("ignore", "module 'sre_(constants|parse)' is deprecated", DeprecationWarning)
        from great_expectations.expectations.registry import get_expectation_impl
    return get_expectation_impl(name)


def _verdict(fact: Fact) -> Verdict:
    """What GX's expectation decides, given the metrics that it would otherwise compute."""
    configuration = to_gx(fact.rule)
    expectation = _expectation_class(configuration["type"])(**configuration["kwargs"])
    metrics = {
        "table.row_count": fact.rows,
        "column_values.nonnull.unexpected_count": fact.missing,
        f"{expectation.map_metric}.filtered_row_count": fact.rows - fact.missing,
        f"{expectation.map_metric}.unexpected_count": fact.unexpected,
    }
    validation = expectation._validate(metrics, {"result_format": BASIC})
    assert validation["result"]["element_count"] == fact.rows, "GX judged other rows than it was given"
    return Verdict(bool(validation["success"]), int(validation["result"]["unexpected_count"]))
