import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations import suite
from expectations.suite import Verdict, from_gx, load_rules, suite_file, to_gx, verdicts
from ml.data.validation import Batch, Fact, Scan
from ml.errors import ConfigError, DataRejected
from ml.serving.rules import (
    RULE_TYPES,
    Between,
    Finite,
    InSet,
    InYears,
    Matches,
    NotBelow,
    NotNull,
    Rule,
    Scope,
    UniqueKey,
)
from ml.use_case.loading import load_use_case
from tests.stock_gx import stock_suite, stock_verdicts

PACKAGED = sorted(Path(suite.__file__).parent.glob("*.json"))
FACTS = {"rows", "duplicates", "quarantined", "quarantined_fraction", "unlabelled", "unknown_columns"}
NUMBERS = [
    np.nan,
    np.inf,
    -np.inf,
    0.0,
    -0.0,
    1.0,
    np.nextafter(1, 2),
    np.nextafter(1, 0),
    5e-324,
    1e100,
    1e101,
    1e308,
    -1e308,
]
TEXTS = [
    None,
    "",
    " ",
    "AA",
    "AA\n",
    "aa",
    "Aa",
    "A1",
    "é",
    "e\u0301",
    "٣",
    "\u017f",
    "\x0b",
    "日本",
    "nan",
    "None",
    "2013-01-01",
]
TIMES = [None, "1970-01-01", "2013-01-01T00:00:00.000001", "2013-01-01", "1800-01-01", "2400-02-29"]


def faulty_frame(rows: int = 300) -> pd.DataFrame:
    """Random draws of every special value; `no_*` columns are all null, and row labels repeat."""
    rng = np.random.default_rng(7)
    drawn = {name: rng.choice(np.array(NUMBERS), rows) for name in ("x", "y")}
    drawn |= {name: pd.Series(rng.choice(np.array(TEXTS, object), rows), dtype="str") for name in ("s", "t")}
    drawn |= {name: times(rng.choice(np.array(TIMES, object), rows)) for name in ("u", "v")}
    drawn |= {"id": np.arange(rows, dtype=np.float64), "no_x": np.full(rows, np.nan), "no_u": times([None] * rows)}
    drawn |= {"no_s": pd.Series([None] * rows, dtype="str")}
    return pd.DataFrame(drawn).set_axis(rng.integers(0, 5, rows))


def times(values) -> pd.Series:
    return pd.Series(pd.to_datetime(values, format="ISO8601")).astype("datetime64[us]")


CASES: dict[str, list[Rule]] = {
    "NotNull": [NotNull(column=name) for name in ("x", "s", "u", "id", "no_x", "no_s", "no_u")],
    "Between": [
        *(Between(column="x", minimum=low) for low in (0.0, -0.0, 1.0, 5e-324, -1e308)),
        *(Between(column="x", maximum=high) for high in (0.0, -0.0, 1.0, 1e308)),
        Between(column="x", minimum=1.0, maximum=1.0),
        Between(column="y", minimum=0, maximum=1),
        Between(column="id", minimum=1, maximum=298),
        Between(column="no_x", minimum=0, maximum=1),
    ],
    "Finite": [Finite(column=name) for name in ("x", "y", "id", "no_x")],
    "InYears": [
        *(InYears(column=name, first=first, last=2199) for name in ("u", "v", "no_u") for first in (1900, 2013)),
        InYears(column="u", last=9999),
    ],
    "InSet": [
        InSet(column="s", values=("AA", "é")),
        InSet(column="s", values=("",)),
        InSet(column="s", values=("nan", "None")),
        InSet(column="s", values=("2013-01-01", "1")),
        InSet(column="s", values=tuple(text for text in TEXTS if text is not None)),
        InSet(column="no_s", values=("AA",)),
    ],
    "Matches": [
        Matches(column=column, pattern=pattern)
        for column in ("s", "no_s")
        for pattern in (
            r"^[A-Z0-9]{2}$",
            r"\A..\Z",
            "^$",
            r"\d",
            r"^\w+$",
            r"\s",
            r"\bé",
            "(?i)^aa$",
            "(?i)s",
            "nan|None",
        )
    ],
    "NotBelow": [
        NotBelow(column=column, other=other)
        for column, other in (("x", "y"), ("y", "x"), ("u", "v"), ("x", "no_x"), ("no_u", "u"), ("x", "x"), ("s", "t"))
    ],
    "UniqueKey": [
        *(UniqueKey(key=(name,)) for name in ("x", "s", "u", "id", "no_x", "no_s")),
        *(UniqueKey(key=key) for key in (("x", "s"), ("s", "t", "x"), ("u", "v"), ("id", "s"), ("x", "no_s"))),
    ],
}


def facts_of(frame: pd.DataFrame, rules: list[Rule]) -> list[Fact]:
    """What the scan of a batch of one partition finds."""
    rows = frame.reset_index(drop=True)
    scan = Scan(Batch(rows, {"day": slice(0, len(rows))}, {"day": 0}, {"day": ()}, {"day": {}}))
    return [scan.fact(rule, scan.unexpected(rule)) for rule in rules]


def counts_of(frame: pd.DataFrame, rules: list[Rule]) -> list[int]:
    return [verdict.unexpected for verdict in verdicts(facts_of(frame, rules))]


@pytest.mark.parametrize("name", RULE_TYPES)
def test_gx_says_of_the_facts_what_it_says_of_the_rows(name):
    """Verdicts and counts of stock GX on its own metrics, of GX on ours, and of the masks that a model carries."""
    frame, rules = faulty_frame(), CASES[name]
    assert {type(rule) for rule in rules} == {RULE_TYPES[name]}
    stock = stock_verdicts(frame, rules)
    assert dict(zip(rules, verdicts(facts_of(frame, rules)), strict=True)) == dict(zip(rules, stock, strict=True))
    counts = [verdict.unexpected for verdict in stock]
    assert counts == [int(rule.unexpected(frame).sum()) for rule in rules]
    assert min(counts) == 0 and max(counts) > 0


@pytest.mark.parametrize("name", RULE_TYPES)
def test_rows_without_a_fault_are_proved_so_and_judged_alike(name):
    """What the scan proves without a mask, stock GX finds true too."""
    frame = pd.DataFrame({
        "x": np.arange(50) / 2, "y": np.arange(50.0) - 1, "id": np.arange(50.0)[::-1], "s": ["AA", "A1"] * 25,
        "t": [f"t{n}" for n in range(50)], "u": times(["2013-01-02"] * 50), "v": times(["2013-01-01"] * 50),
    }).astype({"s": "str", "t": "str"})  # fmt: skip
    rules = {
        "NotNull": [NotNull(column=column) for column in frame],
        "Between": [Between(column="x", minimum=0, maximum=24.5), Between(column="y", minimum=-1)],
        "Finite": [Finite(column=column) for column in ("x", "y", "id")],
        "InYears": [InYears(column="u"), InYears(column="v", first=2013, last=2013)],
        "InSet": [InSet(column="s", values=("A1", "AA", "B"))],
        "Matches": [Matches(column="s", pattern="^A"), Matches(column="t", pattern="[0-9]$")],
        "NotBelow": [NotBelow(column="u", other="v"), NotBelow(column="x", other="x")],
        "UniqueKey": [UniqueKey(key=key) for key in (("x",), ("id",), ("t",), ("s", "id"), ("s", "t"))],
    }[name]
    found = verdicts(facts_of(frame, rules))
    assert found == [Verdict(True, 0)] * len(rules) == stock_verdicts(frame, rules)


@pytest.mark.parametrize("name", RULE_TYPES)
def test_gx_asks_for_no_metric_that_it_is_not_given(name):
    """An upgrade that judged by more would be seen here."""
    given = {"table.row_count", "column_values.nonnull.unexpected_count"}
    for expectation in stock_suite(CASES[name]).expectations:
        asked = set(
            expectation.get_validation_dependencies(
                runtime_configuration={"result_format": "BASIC"}
            ).metric_configurations
        )
        own = {
            f"{expectation.map_metric}.{suffix}"
            for suffix in ("unexpected_count", "filtered_row_count", "unexpected_values")
        }
        assert asked <= given | own


numbers = st.one_of(st.sampled_from(NUMBERS), st.floats())
bounds = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=3)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(numbers, numbers, st.none() | texts, st.none() | texts), min_size=1, max_size=20),
    ranges=st.lists(st.tuples(bounds, bounds).map(sorted), min_size=2, max_size=2),
    values=st.lists(texts, min_size=1, max_size=4, unique=True),
)
def test_gx_and_the_masks_agree_on_random_frames(rows, ranges, values):
    x, y, s, t = zip(*rows, strict=True)
    frame = pd.DataFrame({"x": x, "y": y, "s": pd.Series(s, dtype="str"), "t": pd.Series(t, dtype="str")})
    some = [text for text in (*values, *s[:1]) if text is not None]
    rules: list[Rule] = [NotNull(column=name) for name in frame]
    for column, (low, high) in zip("xy", ranges, strict=True):
        rules += [Between(column=column, minimum=low), Between(column=column, minimum=low, maximum=high)]
        rules.append(Finite(column=column))
    rules += [InSet(column=column, values=tuple(dict.fromkeys(some))) for column in "st"]
    found = verdicts(facts_of(frame, rules))
    assert found == stock_verdicts(frame, rules)
    assert [verdict.unexpected for verdict in found] == [int(rule.unexpected(frame).sum()) for rule in rules]


def test_counts_keep_the_order_of_rules_whatever_their_severity_scope_and_repetition():
    frame = pd.DataFrame({"x": [1.0, 2.0, np.nan]})
    rules = [
        Between(column="x", maximum=1, severity="warning"),
        NotNull(column="x"),
        Between(column="x", maximum=1, severity="warning"),
        Between(column="x", maximum=0, scope="partition"),
        Between(column="x", maximum=9),
    ]
    assert counts_of(frame, rules) == [1, 1, 1, 2, 0]


def fact(rule: Rule, **found: int) -> Fact:
    return Fact(**{"rule": rule, "rows": 9, "missing": 0, "unexpected": 0, **found})


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (
            [fact(Between(column="x", minimum=2, maximum=1))],
            "min_value of the rule Between of x must not exceed max_value, but 2 > 1: mend one.",
        ),
        ([], "rows need rules to be judged by, but there are none: give the use case a column or a key."),
    ],
)
def test_a_rule_that_gx_cannot_judge_is_an_error(facts, sentence):
    with pytest.raises(ConfigError) as caught:
        verdicts(facts)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            Between(column="s", minimum=0),
            "'s is at least 0' is a rule about a number, but the column is str",
        ),
        (Finite(column="s"), "'s is finite (within 1e+100)' is a rule about a number, but the column is str"),
        (
            InSet(column="x", values=("1",)),
            "'x is one of 1' is a rule about a text, but the column is float64",
        ),
        (
            Matches(column="u", pattern="1"),
            "'u matches 1' is a rule about a text, but the column is datetime64[us]",
        ),
    ],
)
def test_a_rule_about_a_column_of_another_type_is_an_error(rule, sentence):
    with pytest.raises(ConfigError) as caught:
        facts_of(faulty_frame(), [rule])
    assert str(caught.value) == f"{sentence}: mend the rule."


def test_no_rows_are_no_pass():
    with pytest.raises(DataRejected, match="there are none"):
        verdicts([fact(NotNull(column="x"), rows=0)])


def test_gx_decides_by_the_facts():
    """Success and count come back from GX, whatever the scan thinks of them."""
    rule = Between(column="x", minimum=0)
    assert verdicts([fact(rule, unexpected=2), fact(rule, missing=9, unexpected=2), fact(rule)]) == [
        Verdict(False, 2),
        Verdict(True, 2),  # of no value present GX finds every rule true
        Verdict(True, 0),
    ]


@pytest.mark.parametrize("name", RULE_TYPES)
def test_rules_survive_the_way_to_gx_and_back(name, tmp_path):
    rules = [
        type(rule)(**{**vars(rule), "scope": scope, "severity": severity})
        for rule in CASES[name]
        for scope in get_args(Scope)
        for severity in ("error", "warning")
    ]
    assert [from_gx(to_gx(rule)) for rule in rules] == rules
    write(tmp_path / "orders.json", [to_gx(rule) for rule in rules])
    assert load_rules(tmp_path / "orders.json") == tuple(rules)


def test_a_suite_that_gx_wrote_is_read(tmp_path):
    rules = [rule for cases in CASES.values() for rule in cases]
    written = stock_suite(rules).to_json_dict()
    for expectation in written["expectations"]:
        del expectation["meta"]
    (tmp_path / "rules.json").write_text(json.dumps(written))
    assert load_rules(tmp_path / "rules.json") == tuple(rules)


def write(path: Path, expectations: list[dict]) -> None:
    path.write_text(json.dumps({"name": path.stem, "expectations": expectations}))


def test_the_projects_suite_comes_before_the_packaged_one(tmp_path):
    packaged = Path(suite.__file__).with_name("flights.json")
    assert suite_file("flights", None) == suite_file("flights", tmp_path) == packaged
    assert suite_file("orders", tmp_path) is None
    (tmp_path / "expectations").mkdir()
    (tmp_path / "use_cases").mkdir()
    for name in ("flights", "orders"):
        (tmp_path / "use_cases" / f"{name}.py").touch()  # a suite stands beside its use case
        path = tmp_path / "expectations" / f"{name}.json"
        write(path, [to_gx(NotNull(column="x"))])
        assert suite_file(name, tmp_path) == path


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_packaged_suites_speak_of_declared_columns_and_known_facts(path):
    columns = {column.name for column in load_use_case(path.stem, None).columns}
    for rule in load_rules(path):
        assert set(rule.columns) <= (columns if rule.scope == "row" else FACTS)


NOT_NULL = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "x"}}
BETWEEN = "expect_column_values_to_be_between"
PAIR = "expect_column_pair_values_a_to_be_greater_than_b"
KEYS = "description, id, kwargs, meta, notes, severity, type"
REGEX = f"regex of expectation 1 of FILE must be {suite.KINDS['regex'][0]}, but "


def one(name: str, **kwargs) -> str:
    return many({"type": name, "kwargs": kwargs})


def many(*expectations) -> str:
    return json.dumps({"name": "bad", "expectations": expectations})


def regex(pattern) -> str:
    return one("expect_column_values_to_match_regex", column="x", regex=pattern)


BAD_FILES = {
    "no JSON": (
        "{",
        "the suite FILE must be readable as strict JSON, but Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1): mend the file.",
    ),
    "not UTF-8": (
        b"\xff",
        "the suite FILE must be readable as strict JSON, but 'utf-8' codec can't decode byte 0xff in "
        "position 0: invalid start byte: mend the file.",
    ),
    "a repeated name": (
        '{"name": "bad", "name": "bad"}',
        "the suite FILE must be readable as strict JSON, but an object has name twice: mend the file.",
    ),
    "NaN": (
        '{"name": NaN}',
        "the suite FILE must be readable as strict JSON, but NaN is no JSON number: mend the file.",
    ),
    "a list": (
        "[]",
        "the suite FILE must be an object of expectations, id, meta, name, notes, but it is []: mend the file.",
    ),
    "an unknown part": (
        '{"name": "bad", "expectation": []}',
        "the suite FILE must be an object of expectations, id, meta, name, notes, but it has expectation: "
        "delete or rename what it should not have.",
    ),
    "another name": (
        json.dumps({"name": "good", "expectations": [NOT_NULL]}),
        "the suite FILE must be named as its file, but it is 'good': name it 'bad'.",
    ),
    "empty": (many(), "the suite FILE must list expectations, but it is []: add one or delete the file."),
    "no list": (
        '{"name": "bad"}',
        "the suite FILE must list expectations, but it is missing: add one or delete the file.",
    ),
    "no object": (many(3), f"expectation 1 of FILE must be an object of {KEYS}, but it is 3: mend the file."),
    "severty": (
        many(NOT_NULL, NOT_NULL | {"severty": "warning"}),
        f"expectation 2 of FILE must be an object of {KEYS}, but it has severty: "
        "delete or rename what it should not have.",
    ),
    "an unknown type": (
        one("expect_column_values_to_be_null", column="x"),
        "expectation 1 of FILE must have a type with a rule, but it is 'expect_column_values_to_be_null': "
        f"use one of {', '.join(suite.FORMS)}.",
    ),
    "an old suite": (
        many({"expectation_type": BETWEEN}),
        f"expectation 1 of FILE must be an object of {KEYS}, but it has expectation_type: "
        "delete or rename what it should not have.",
    ),
    "no kwargs": (
        many({"type": BETWEEN}),
        "kwargs of expectation 1 of FILE must be an object of column, max_value, min_value, but it is missing: "
        "mend the file.",
    ),
    "mostly": (
        one("expect_column_values_to_not_be_null", column="x", mostly=0.9),
        "kwargs of expectation 1 of FILE must be an object of column, but it has mostly: "
        "delete or rename what it should not have.",
    ),
    "strict_min and row_condition": (
        one(BETWEEN, column="x", min_value=1, strict_min=True, row_condition="y > 1"),
        "kwargs of expectation 1 of FILE must be an object of column, max_value, min_value, "
        "but it has row_condition, strict_min: delete or rename what it should not have.",
    ),
    "no column": (
        one(BETWEEN, min_value=1),
        "kwargs of expectation 1 of FILE must have column, but it is not there: add it.",
    ),
    "a column by number": (
        one(BETWEEN, column=1, min_value=1),
        "column of expectation 1 of FILE must be the name of a column, but it is 1: change it.",
    ),
    "no bound": (
        one(BETWEEN, column="x", min_value=None),
        "expectation 1 of FILE must have min_value or max_value, but it has neither: add one.",
    ),
    "bounds that cross": (
        one(BETWEEN, column="x", min_value=2, max_value=1),
        "min_value of expectation 1 of FILE must not exceed max_value, but 2 > 1: mend one.",
    ),
    "a bound as text": (
        one(BETWEEN, column="x", min_value="2013-01-01"),
        "min_value of expectation 1 of FILE must be a finite number, but it is '2013-01-01': change it.",
    ),
    "a bound that is true": (
        one(BETWEEN, column="x", max_value=True),
        "max_value of expectation 1 of FILE must be a finite number, but it is True: change it.",
    ),
    "an infinite bound": (
        one(BETWEEN, column="x", max_value=1).replace("1}", "1e999}"),
        "max_value of expectation 1 of FILE must be a finite number, but it is inf: change it.",
    ),
    "no values": (
        one("expect_column_values_to_be_in_set", column="x", value_set=[]),
        "value_set of expectation 1 of FILE must be a list of different texts, but it is []: change it.",
    ),
    "values that are numbers": (
        one("expect_column_values_to_be_in_set", column="x", value_set=[1]),
        "value_set of expectation 1 of FILE must be a list of different texts, but it is [1]: change it.",
    ),
    "a parameter": (
        one("expect_column_values_to_be_in_set", column="x", value_set={"$PARAMETER": "y"}),
        "value_set of expectation 1 of FILE must be a list of different texts, "
        "but it is {'$PARAMETER': 'y'}: change it.",
    ),
    "no pair": (
        one(PAIR, column_A="x", column_B="y", or_equal=True),
        "kwargs of expectation 1 of FILE must have ignore_row_if, but it is not there: add it.",
    ),
    "a strict pair": (
        one(PAIR, column_A="x", column_B="y", or_equal=False, ignore_row_if="either_value_is_missing"),
        "or_equal of expectation 1 of FILE must be true, but it is False: change it.",
    ),
    "a key with nulls": (
        one("expect_compound_columns_to_be_unique", column_list=["x", "y"], ignore_row_if="never"),
        "ignore_row_if of expectation 1 of FILE must be \"any_value_is_missing\", but it is 'never': change it.",
    ),
    "a column twice in a key": (
        one("expect_compound_columns_to_be_unique", column_list=["x", "x"], ignore_row_if="any_value_is_missing"),
        "column_list of expectation 1 of FILE must be a list of different column names, "
        "but it is ['x', 'x']: change it.",
    ),
    "a regex by number": (regex(1), f"{REGEX}it is 1: change it."),
    "an open bracket": (
        regex("[A-Z"),
        f"{REGEX}'[A-Z' is not (unterminated character set at position 0): change it.",
    ),
    "a nested set": (
        regex("[[:alpha:]]"),
        f"{REGEX}'[[:alpha:]]' is not (Possible nested set at position 1): change it.",
    ),
    "a regex that Arrow does not know": (
        regex("a*+"),
        f"{REGEX}'a*+' is not (Invalid regular expression: bad repetition operator: *+): change it.",
    ),
    "a group that captures": (
        regex("(a|b)"),
        f"{REGEX}'(a|b)' is not (it has match groups): change it.",
    ),
    "an unknown scope": (
        many(NOT_NULL | {"meta": {"scope": "day"}}),
        "scope of expectation 1 of FILE must be one of row, partition, snapshot, but it is 'day': change it.",
    ),
    "scop": (
        many(NOT_NULL | {"meta": {"scop": "partition"}}),
        "meta of expectation 1 of FILE must be an object of scope, but it has scop: "
        "delete or rename what it should not have.",
    ),
    "info": (
        many(NOT_NULL | {"severity": "info"}),
        "severity of expectation 1 of FILE must be critical or warning, but it is 'info': change it.",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_suite_is_refused_in_one_sentence(name, tmp_path):
    contents, sentence = BAD_FILES[name]
    path = tmp_path / "bad.json"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(ConfigError) as caught:
        load_rules(path)
    assert str(caught.value).replace(str(path), "FILE") == sentence


def test_suites_that_are_read_side_by_side_leave_the_filters_of_warnings_alone(tmp_path):
    """As the dates of a backfill do: filters of one that outlived another's once made errors of all warnings."""
    paths = [tmp_path / str(number) / "bad.json" for number in range(200)]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_text(regex(f"^[A-Z]{{{number + 1}}}$"))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(load_rules, paths))) == 200
    assert warnings.filters == before


def test_a_missing_suite_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*bad\.json"):
        load_rules(tmp_path / "bad.json")


ALONE = """
import logging, sys, warnings
logging.basicConfig(level=logging.DEBUG)
refused = {"socket.connect", "socket.getaddrinfo", "socket.sendto", "tempfile.mkdtemp", "tempfile.mkstemp"}
sys.addaudithook(lambda event, args: event in refused and sys.exit(f"{event}{args}"))
from expectations.suite import Verdict, load_rules, suite_file, verdicts
load_rules(suite_file("flights", None))
assert "great_expectations" not in sys.modules
import pandas as pd
from ml.serving.rules import NotNull
from ml.data.validation import Fact
show = warnings.showwarning
assert verdicts([Fact(rule=NotNull(column="x"), rows=2, missing=1, unexpected=1)]) == [Verdict(False, 1)]
assert warnings.showwarning is show
"""


def test_gx_is_imported_late_and_leaves_home_network_and_logs_alone(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE],
        env=os.environ | {"HOME": str(home)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*")) == [home]
