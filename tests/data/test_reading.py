# ruff: noqa: E501 - a case is one line
"""Inputs that nobody wrote while building: each is read as it is meant, or refused in a sentence that says why.

The same files are read as a night's partition, as a FileSource, as a side table and as a file to score.
"""

import gzip
import io
import re
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml import SideTable, UseCase
from ml.data.csv_fields import BrokenCsv, open_fields
from ml.data.partitions import read_partition
from ml.data.reading import Declared, UnusablePartition, parse_table, refuse_other_columns, together
from ml.data.snapshots import take_manifest
from ml.data.source_kinds import CsvForm, FileSource, Source
from ml.data.sources.bringing import partition_files
from ml.errors import DataRejected
from ml.serving.columns import Column, conform
from ml.settings import Settings
from tests.tiny import site, tills

COLUMNS = (
    Column(name="id", type="integer", nullable=True, feature=False),
    Column(name="at", type="timestamp", nullable=True, parts=("hour",)),
    Column(name="amount", nullable=True),
    Column(name="qty", type="integer", nullable=True),
    Column(name="shop", type="text", nullable=True),
    Column(name="y", type="integer", nullable=True, feature=False),
)
HEADER = "id,at,amount,qty,shop,y\n"
FIELDS = {"id": "1", "at": "2024-01-03 10:00:00", "amount": "12.50", "qty": "2", "shop": "north", "y": "0"}
DAY = date(2024, 1, 3)
COMMAS = CsvForm()


def use_case(**changes: Any) -> UseCase:
    """Rows of COLUMNS, by day."""
    fields = {"columns": COLUMNS, "key": ("id",), "target": replace(tills().target, column="y"), **changes}
    return tills(**fields)


def row(**fields: str) -> str:
    return ",".join((FIELDS | fields).values()) + "\n"


def csv(*rows: str) -> bytes:
    return (HEADER + "".join(rows or [row()])).encode()


def read(data: bytes, name: str = "x.csv", form: CsvForm = COMMAS, **changes: Any) -> pd.DataFrame:
    """The rows as a night has them. Raises UnusablePartition."""
    case = use_case(**changes)
    rows = parse_table(name, data, Declared(case.columns, case.time_zone, form))
    refuse_other_columns(case, rows, case.columns)
    return conform(rows, case.columns, case.time_zone)


# CSV: what is refused, by the words of its sentence


REFUSED: dict[str, tuple[bytes, str]] = {
    "a comma at the end of each row": (csv(row()[:-1] + ",\n"), "row 1 has 7 fields where the header has 6 names; remove the ','"),
    "a comma at the end of one row": (csv(row(), row()[:-1] + ",\n"), "row 2 has 7 fields"),
    "a comma at the end of the header and the rows": ((HEADER[:-1] + ",\n" + row()[:-1] + ",\n").encode(), "its last name is empty; remove the separator"),
    "row names without a name": (csv("1," + row()), "row 1 has 7 fields"),
    "a short row": (csv(row(), "2,2024-01-03,7\n"), "row 2 has 3 fields"),
    "a cut row": (csv(row())[:-9] + b"\n", "row 1 has 4 fields"),
    "a long row": (csv(row(), row(shop="north,east")), "row 2 has 7 fields"),
    "a cut last value": (csv(row(), row())[:-2], "its last line has no end, so nobody can tell whether the file is whole; end that line"),
    "a last line without its end": (csv(row())[:-1], "its last line has no end"),
    "a header without its end": (HEADER[:-1].encode(), "its last line has no end"),
    "one name twice": (b"id,id\n1,2\n", "the name 'id' is there twice; rename or remove one"),
    "an undeclared name twice": (b"id,x,x\n1,2,3\n", "the name 'x' is there twice"),
    "two names that differ in a blank": ((HEADER[:-1] + ", amount\n" + row()[:-1] + ",7\n").encode(), "which differ only in blanks, unseen signs or large letters"),
    "two names that differ in a large letter": ((HEADER[:-1] + ",Shop\n" + row()[:-1] + ",7\n").encode(), "differ only in blanks"),
    "two names that differ in a sign without width": ((HEADER[:-1] + ",\u200bqty\n" + row()[:-1] + ",7\n").encode(), "'qty' and '\\u200bqty', which differ"),
    "a name with a blank": (csv().replace(b",amount", b", amount"), "column amount is missing (there is ' amount'; rename it to 'amount')"),
    "a name with a no-break space": (csv().replace(b"amount", "amount\u00a0".encode()), "there is 'amount\\xa0'"),
    "a name with a sign without width": (csv().replace(b"amount", "amo\u200bunt".encode()), "there is 'amo\\u200bunt'"),
    "names in large letters": (HEADER.upper().encode() + row().encode(), "there is 'ID'; rename it to 'id'"),
    "a second mark of the byte order": (b"\xef\xbb\xbf\xef\xbb\xbf" + csv(), "there is '\\ufeffid'"),
    "no header but numbers": (row().encode() + row(id="2").encode(), "column id, at, amount, qty, shop, y is missing"),
    "a stray quote in a field": (csv(row(shop='no"rth')), "a quote in line 2 neither opens nor closes a field"),
    "a stray quote at a field's end": (csv(row(), row(shop='12"')), "a quote in line 3 neither"),
    "text behind a closing quote": (csv(row(shop='"no"rth')), "a quote in line 2 neither"),
    "a blank before a quote": (csv(row(shop=' "north"')), "a quote in line 2 neither"),
    "a quote escaped by a backslash": (csv(row(shop='"no\\"rth"')), "write a quote inside it twice"),
    "a quote and a comma escaped by a backslash": (csv(row(shop='"no\\",rth"')), "a quote in line 2 neither"),
    "a quote that is never closed": (csv(row(shop='"north'), row()), "a quote is opened and never closed, or the file is cut"),
    "two stray quotes that swallow a row's end": (csv(row(shop='"north'), row(shop='south"'), row()), "column shop of row 1 holds what looks like further rows"),
    "two stray quotes that swallow a row": (csv(row(shop='"north'), row(), row(shop='south"')), "column shop of row 1 holds what looks like further rows"),
    "the header again": (csv(row(), HEADER, row()), "row 2 is the header again"),
    "a line of totals": (csv(row(), "Total,,12.5,,,\n"), "column id must be integer, but it is str (the first, 'Total', in row 2)"),
    "a null byte": (csv(row(shop="a\0b")), "line 2 has a null byte"),
    "UTF-16": (csv().decode().encode("utf-16"), "line 1 is not in utf-8 (byte 0xff); declare the encoding of its source, like encoding='utf-16'"),
    "UTF-16 without a mark": (csv().decode().encode("utf-16-le"), "has a null byte; declare the encoding of its source, like encoding='utf-16'"),
    "cp1252": (csv(row(), row(shop="Z\u00fcrich")).decode().encode("cp1252"), "line 3 is not in utf-8 (byte 0xfc); declare the encoding of its source, like encoding='cp1252'"),
    "half a letter at the end": (csv(row(y="\u00fc"))[:-2], "is not in utf-8"),
    "semicolons": (csv().replace(b",", b";"), "likely separated by semicolons; declare separator=';'"),
    "semicolons beside decimal commas": (csv().replace(b",", b";").replace(b".", b","), "declare separator=';' of its"),
    "tabs": (csv().replace(b",", b"\t"), "likely separated by tabs; declare separator='\\t'"),
    "bars": (csv().replace(b",", b"|"), "likely separated by bars"),
    "Excel's line of the separator": (b"sep=,\n" + csv(), "its first line is Excel's `sep=`; remove it"),
    "a comment": (b"# of January\n" + csv(), "row 1 has 6 fields where the header has 1 names"),
    "nothing": (b"", "it is empty"),
    "a blank line": (b"\n", "it has no header"),
    "gzip": (gzip.compress(csv()), "it is packed by gzip; name it .csv.gz"),
    "Parquet": (b"PAR1\0\0PAR1", "it is Parquet; name it .parquet"),
    "Excel": (b"PK\x03\x04\x14\0\0\0", "it is an archive or an Excel file; save it as CSV"),
    **{
        f"{words} for a number": (csv(row(), row(amount=text)), f"column amount must be number, but it is str (the first, {text!r}, in row 2")
        for words, text in {
            "an apostrophe among thousands": "1'234.50", "a no-break space among thousands": "1\u00a0234", "a currency": "$12.5", "a percentage": "12%",
            "a negative in brackets": "(12.5)", "a minus behind": "12.5-", "a typographic minus": "\u221212.5", "Fortran's exponent": "1D5",
            "a hexadecimal number": "0x10", "an underscore": "1_000", "Arabic digits": "\u0663", "an error of Excel": "#DIV/0!", "a hyphen": "-", "\\N": "\\N",
        }.items()
    },
    "commas among thousands": (csv(row(amount='"1,234.50"')), "it is str (the first, '1,234.50', in row 1)"),
    "a fraction for an integer": (csv(row(), row(qty="1.5")), "column qty must be integer, but it is float64 (the first, '1.5', in row 2)"),
    "a hexadecimal integer": (csv(row(qty="0x10")), "column qty must be integer, but it is str"),
    "yes and a number": (csv(row(y="True"), row(y="7")), "column y must be integer, but it is str (the first, '7', in row 2)"),
    **{
        f"{text} for a time": (csv(row(), row(at=text)), f"column at must be timestamp, but it is str, not all in ISO 8601 like 2024-01-31T12:00:00, or not all with an offset (the first, {text!r}, in row 2")
        for text in ["05.02.2024", "1/3/2024 10.00", "1704276000", "1704276000000", "45294.5", "2024", "2024-01", "2024-W01-3", "2024-003", "2024-01-03 24.00", "2024-02-30", "soon", "0201", "2024-01-03T10Z"]
    },
    **{
        f"{text} for {name}": (csv(row(), row(**{name: text}), row(**{name: ""})), f"column {name} must be .*over 2**53, which float64 cannot tell apart (declare it text)")
        for name in ("id", "amount") for text in ("9007199254740993", "-9007199254740993", "1766666666666666667", "12345678901234567890", "1" * 400)
    },
    "a wide integer and no null": (csv(row(amount="1766666666666666667")), "it is int64 over 2**53"),
    "a wide integer with a fraction of nothing": (csv(row(amount="1766666666666666667.0")), "column amount must be number"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_csv_of_another_shape_or_type_is_refused_and_says_why(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(UnusablePartition) as caught:
        read(data)
    assert re.search(re.escape(words).replace(r"\.\*", ".*"), str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_no_value_is_quoted_where_a_column_is_sensitive(name: str) -> None:
    columns = tuple(replace(column, sensitive=column.name == "y") for column in COLUMNS)
    with pytest.raises(UnusablePartition) as caught:
        read(REFUSED[name][0], columns=columns)
    assert "the first, " not in str(caught.value)


# CSV: what is read, and as which values


def with_quotes(data: bytes) -> bytes:
    return (
        b"\n".join(b",".join(b'"' + field + b'"' for field in line.split(b",")) for line in data.splitlines()) + b"\n"
    )


READ: dict[str, tuple[bytes, dict[str, list[Any]]]] = {
    "plain": (csv(), {"id": [1], "amount": [12.5], "qty": [2], "shop": ["north"], "y": [0], "at": [datetime(2024, 1, 3, 10)]}),
    "every field in quotes": (with_quotes(csv()), {"id": [1], "shop": ["north"]}),
    "a mark of the byte order": (b"\xef\xbb\xbf" + csv(), {"id": [1]}),
    "a mark of the byte order before a quote": (b"\xef\xbb\xbf" + with_quotes(csv()), {"id": [1]}),
    "line ends of Windows": (csv(row(), row(id="2")).replace(b"\n", b"\r\n"), {"id": [1, 2], "y": [0, 0]}),
    "line ends of an old Mac": (csv(row(), row(id="2")).replace(b"\n", b"\r"), {"id": [1, 2], "y": [0, 0]}),
    "blank lines": (csv("\n", row(), "\n\n", row(id="2"), "\n"), {"id": [1, 2]}),
    "a line of commas": (csv(row(), ",,,,,\n"), {"id": [1, None], "shop": ["north", None]}),
    "a header alone": (csv("\n"), {"id": []}),
    "a last line that a quote ends": (csv(row(y='"1"'))[:-1], {"y": [1]}),
    "an index without a name": ((f",{HEADER}0,{row()}").encode(), {"id": [1]}),
    "odd names that nobody declared": (csv().replace(b",qty", b", x ,\xc2\xa0z,qty").replace(b",2,", b",8,9,2,"), {"qty": [2]}),
    "a newline in quotes": (csv(row(shop='"no\nrth"')), {"shop": ["no\nrth"]}),
    "a carriage return in quotes": (csv(row(shop='"no\rrth"')), {"shop": ["no\rrth"]}),
    "both in quotes": (csv(row(shop='"no\r\nrth"'), row()), {"shop": ["no\r\nrth", "north"]}),
    "commas and newlines in quotes": (csv(row(shop='"no,\nr,th\n,"')), {"shop": ["no,\nr,th\n,"]}),
    "rows of another table in quotes": (csv(row(shop='"a,b\nc,d,e,f,g"')), {"shop": ["a,b\nc,d,e,f,g"]}),
    "quotes in quotes": (csv(row(shop='"a ""b"" c"'), row(shop='""""')), {"shop": ['a "b" c', '"']}),
    "an empty field in quotes": (csv(row(shop='""')), {"shop": [None]}),
    "a path of Windows": (csv(row(shop='"C:\\"')), {"shop": ["C:\\"]}),
    "single quotes": (csv(row(shop="'a'")), {"shop": ["'a'"]}),
    "blanks around values": (csv("1 , 2024-01-03 10:00:00, 12.50 ,\t2, north ,0\n"), {"id": [1], "amount": [12.5], "qty": [2], "shop": [" north "]}),
    "words that stand for nothing": (csv(row(amount="NA", qty="null", shop="NA", y="NaN"), row(amount="None", shop="None", at="NaT")),
        {"amount": [None, None], "qty": [None, 2], "shop": ["NA", "None"], "y": [None, 0], "at": [datetime(2024, 1, 3, 10), None]}),
    "leading zeros": (csv(row(amount="0012", shop="007")), {"amount": [12], "shop": ["007"]}),
    "signs and exponents": (csv(row(amount="+12.5"), row(amount="-1E+05"), row(amount=".5"), row(amount="5.")), {"amount": [12.5, -1e5, 0.5, 5]}),
    "a number rounded once": (csv(row(amount="0.1"), row(amount="123456789.123456789123456789"), row(amount="5e-324")), {"amount": [0.1, 123456789.12345679, 5e-324]}),
    "infinities": (csv(row(amount="inf"), row(amount="-inf"), row(amount="1e400")), {"amount": [np.inf, -np.inf, np.inf]}),
    "the widest integers": (csv(row(id="9007199254740992"), row(id="-9007199254740992")), {"id": [2**53, -(2**53)]}),
    "a wide integer that is exact": (csv(row(amount="1152921504606846976"), row(amount="1e18")), {"amount": [2.0**60, 1e18]}),
    "yes and no": (csv(row(y="True"), row(y="False")), {"y": [1, 0]}),
    "yes and nothing": (csv(row(y="true"), row(y="")), {"y": [1, None]}),
    "a day": (csv(row(at="2024-01-03"), row(at="20240103")), {"at": [datetime(2024, 1, 3)] * 2}),
    "a T, and parts of a second": (csv(row(at="2024-01-03T10:00"), row(at="2024-01-03T10:00:00.5"), row(at="2024-01-03 10:00:00.123456789")),
        {"at": [datetime(2024, 1, 3, 10), datetime(2024, 1, 3, 10, 0, 0, 500_000), datetime(2024, 1, 3, 10, 0, 0, 123_456)]}),
    "a time in UTC": (csv(row(at="2024-01-03T10:00:00Z")), {"at": [datetime(2024, 1, 3, 10)]}),
    "offsets that differ": (csv(row(at="2024-01-03T10:00:00+01:00"), row(at="2024-01-03 10:00:00.5-0500"), row(at="2024-01-03 10:00:00+00")),
        {"at": [datetime(2024, 1, 3, 9), datetime(2024, 1, 3, 15, 0, 0, 500_000), datetime(2024, 1, 3, 10)]}),
    "the end of all years": (csv(row(at="9999-12-31 23:59:59"), row(at="0001-01-01")), {"at": [datetime(9999, 12, 31, 23, 59, 59), datetime(1, 1, 1)]}),
    "signs that look alike": (csv(row(shop="nor\u200bth"), row(shop="\U0001f600")), {"shop": ["nor\u200bth", "\U0001f600"]}),
}  # fmt: skip


def values(column: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in column]


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("packed", [False, True])
def test_a_csv_is_read_as_it_is_meant(name: str, packed: bool) -> None:
    data, expected = READ[name]
    rows = read(gzip.compress(data), "x.csv.gz") if packed else read(data)
    assert {column: values(rows[column]) for column in expected} == expected


GZIPPED = {
    "cut": (gzip.compress(csv())[:-5], "ended before the end-of-stream marker"),
    "cut in the midst": (gzip.compress(csv(*(row(id=str(n)) for n in range(999))))[:900], "cannot be read"),
    "with something behind": (gzip.compress(csv()) + b"garbage", "no gzip file, or other bytes follow"),
    "that is none": (csv(), "no gzip file, or other bytes follow"),
    "whose text is cut": (gzip.compress(csv(row(), row())[:-2]), "its last line has no end"),
}


@pytest.mark.parametrize("name", GZIPPED)
def test_a_gzip_that_is_not_whole_is_refused(name: str) -> None:
    data, words = GZIPPED[name]
    with pytest.raises(UnusablePartition, match=words):
        read(data, "x.csv.gz")


def test_a_gzip_of_several_members_is_one_file() -> None:
    parts = [csv(row()), row(id="2").encode(), row(id="3").encode()]
    assert values(read(b"".join(map(gzip.compress, parts)) + b"\0" * 9, "x.csv.gz")["id"]) == [1, 2, 3]


FORMS: dict[str, tuple[CsvForm, bytes]] = {
    "semicolons and decimal commas": (CsvForm(separator=";", decimal=","), csv(row(amount="12,5")).replace(b",", b";").replace(b"12;5", b"12,5")),
    "tabs": (CsvForm(separator="\t"), csv().replace(b",", b"\t")),
    "thousands": (CsvForm(thousands=","), csv(row(amount='"1,012.50"')).replace(b"1,0", b"0")),
    "thousands of Europe": (CsvForm(separator=";", decimal=",", thousands="."), csv(row(amount="12#5")).replace(b",", b";").replace(b"#", b",")),
    "cp1252": (CsvForm(encoding="cp1252"), csv(row(shop="north"))),
    "UTF-16": (CsvForm(encoding="utf-16"), csv().decode().encode("utf-16")),
    "UTF-16 without a mark": (CsvForm(encoding="utf-16-le"), csv().decode().encode("utf-16-le")),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_csv_of_a_declared_form_is_read(name: str) -> None:
    form, data = FORMS[name]
    rows = read(data, form=form)
    assert values(rows["amount"]) == [12.5]
    assert values(rows["shop"]) == ["north"]


def test_letters_of_another_encoding_are_the_same_letters() -> None:
    for encoding in ("cp1252", "utf-16", "utf-16-le", "latin-1", "utf-8-sig"):
        data = csv(row(shop="Z\u00fcrich")).decode().encode(encoding)
        assert values(read(data, form=CsvForm(encoding=encoding))["shop"]) == ["Z\u00fcrich"]


@pytest.mark.parametrize(
    ("form", "amount"),
    [
        (CsvForm(separator=";", decimal=","), "1.234"),
        (CsvForm(separator=";", decimal=","), "1.234,5"),
        (CsvForm(separator=";", thousands=","), "12,34"),
        (CsvForm(separator=";", thousands=","), "1234,567"),
        (CsvForm(separator=";", thousands=","), "1,2345.6"),
        (CsvForm(separator=";", decimal=",", thousands="."), "1.23"),
        (CsvForm(separator=";", decimal=",", thousands="."), "1,234.5"),
    ],
)
def test_a_number_of_another_form_than_the_declared_one_is_refused(form: CsvForm, amount: str) -> None:
    data = csv(row(amount="#")).replace(b",", b";").replace(b"#", amount.encode())
    with pytest.raises(UnusablePartition, match="column amount must be number"):
        read(data, form=form)


def test_a_header_among_rows_of_texts_alone_is_told(tmp_path: Path) -> None:
    texts = tuple(Column(name=name, type="text") for name in ("a", "b"))
    with pytest.raises(UnusablePartition, match="row 2 is the header again"):
        parse_table("x.csv", b"a,b\n1,2\na,b\n3,4\n", Declared(texts, "UTC", CsvForm()))


def test_a_part_of_a_csv_that_is_read_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes, letters and rows lie across the borders of what is read at once."""
    data = csv(*(row(id=str(n), shop=f'"{n} ""\u00fc"",\r\n\U0001f600"') for n in range(40)))
    whole = read(data)
    for size in (30, 31, 37, 64):
        monkeypatch.setattr("ml.data.csv_fields.CHUNK", size)
        pd.testing.assert_frame_equal(read(data), whole)
    assert values(whole["shop"])[39] == '39 "\u00fc",\r\n\U0001f600'


# Parquet: types that warehouses write


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def column_of(array: pa.Array, name: str, **options: Any) -> bytes:
    """A file of COLUMNS in which this one has another type, all rows alike otherwise."""
    n = len(array)
    given: dict[str, Any] = {
        "id": range(n),
        "at": [datetime(2024, 1, 3)] * n,
        "amount": [1.0] * n,
        "qty": [1] * n,
        "shop": ["north"] * n,
        "y": [0] * n,
    }
    return parquet(pa.table({each: array if each == name else pa.array(given[each]) for each in given}), **options)


@dataclass
class Kind:
    """Values of an Arrow type in a declared column, and as what they are read."""

    name: str
    array: Any
    read: list[Any]


NOON = datetime(2024, 1, 3, 12)
WAREHOUSE = [
    *(
        Kind(name, pa.array([1, None, 3], kind), [1, None, 3])
        for name in ("amount", "qty")
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    ),
    *(Kind("amount", pa.array([1.5, None], kind), [1.5, None]) for kind in (pa.float16(), pa.float32(), pa.float64())),
    *(
        Kind("amount", pa.array([Decimal("12.50"), None], kind), [12.5, None])
        for kind in (
            pa.decimal32(5, 2),
            pa.decimal64(10, 2),
            pa.decimal128(10, 2),
            pa.decimal128(38, 9),
            pa.decimal256(60, 2),
        )
    ),
    *(Kind(name, pa.array([Decimal(7), None], pa.decimal128(38, 0)), [7, None]) for name in ("amount", "qty", "id")),
    Kind(
        "amount",
        pa.array([Decimal("0.1"), Decimal("123456789.123456789123456789")], pa.decimal128(38, 18)),
        [0.1, 123456789.12345679],
    ),
    Kind("amount", pa.array([2**60, 2**53], pa.int64()), [2.0**60, 2.0**53]),
    Kind("amount", pa.array([float("inf"), float("nan"), None]), [np.inf, None, None]),
    *(Kind(name, pa.array([True, False, None]), [1, 0, None]) for name in ("amount", "qty", "y")),
    *(Kind(name, pa.array([True, False]), [1, 0]) for name in ("amount", "qty", "y")),
    *(
        Kind("shop", pa.array(["a", "", None], kind), ["a", "", None])
        for kind in (pa.string(), pa.large_string(), pa.string_view())
    ),
    *(
        Kind("shop", pa.array(["a", "b", None]).cast(pa.dictionary(index, pa.string())), ["a", "b", None])
        for index in (pa.int8(), pa.int32())
    ),
    *(Kind(name, pa.array([5, 7, None]).dictionary_encode(), [5, 7, None]) for name in ("amount", "qty")),
    Kind("amount", pa.array([Decimal("1.5"), None]).dictionary_encode(), [1.5, None]),
    *(
        Kind(name, pa.nulls(2, kind), [None, None])
        for name in ("amount", "shop", "at", "qty")
        for kind in (pa.null(), pa.string(), pa.float64(), pa.date32(), pa.binary())
    ),
    *(Kind("at", pa.array([NOON, None], pa.timestamp(unit)), [NOON, None]) for unit in ("s", "ms", "us", "ns")),
    *(
        Kind("at", pa.array([NOON, None], pa.timestamp(unit, zone)), [datetime(2024, 1, 3, 13), None])
        for unit in ("s", "ms", "us", "ns")
        for zone in ("UTC", "America/New_York", "+05:30", "Nowhere/City")
    ),
    *(
        Kind("at", pa.array([date(2024, 1, 3), None], kind), [datetime(2024, 1, 3), None])
        for kind in (pa.date32(), pa.date64())
    ),
    Kind("at", pa.array(["2024-01-03T12:00:00", None]), [NOON, None]),
    Kind("at", pa.array(["2024-01-03T12:00:00Z", None], pa.large_string()), [datetime(2024, 1, 3, 13), None]),
    Kind("at", pa.array([NOON]).dictionary_encode(), [NOON]),
    Kind(
        "at",
        pa.array([10**18, -(10**18)], pa.timestamp("us")),
        [datetime(9999, 12, 31, 23, 59, 59, 999_999), datetime(1, 1, 1)],
    ),
    Kind(
        "at",
        pa.array([2**52, -(2**52)], pa.timestamp("s")),
        [datetime(9999, 12, 31, 23, 59, 59, 999_000), datetime(1, 1, 1)],
    ),
    Kind("at", pa.array([2**31 - 1], pa.date32()), [datetime(9999, 12, 31)]),
]


@pytest.mark.parametrize("kind", WAREHOUSE, ids=lambda kind: f"{kind.name}-{kind.array.type}")
def test_a_type_that_a_warehouse_writes_is_read_where_that_is_exact(kind: Kind) -> None:
    """Times with a zone are those of a clock in the use case's time zone, an hour before UTC."""
    rows = read(column_of(kind.array, kind.name), "x.parquet", time_zone="Europe/Berlin")
    assert values(rows[kind.name]) == kind.read


WRONG = [
    *(
        ("amount", pa.array([value], kind), f"it is {kind} over 2**53")
        for value in (2**53 + 1, 1766666666666666667)
        for kind in (pa.int64(), pa.uint64(), pa.decimal128(38, 0), pa.decimal256(70, 0))
    ),
    *(
        ("qty", pa.array([value, None], kind), f"it is {kind} over 2**53")
        for value in (2**53 + 1,)
        for kind in (pa.int64(), pa.uint64(), pa.decimal128(38, 0))
    ),
    ("amount", pa.array([2**53 + 1, None]).dictionary_encode(), "it is int64 over 2**53"),
    ("amount", pa.array([Decimal("12345678901234567.89")]), "it is decimal128(19, 2) over 2**53"),
    ("qty", pa.array([2.0**53 + 2, None]), "it is float64 over 2**53"),
    ("qty", pa.array([Decimal("1.5")]), "it is decimal128(2, 1)"),
    ("amount", pa.array(["12"]), "it is str"),
    ("amount", pa.array([b"12"]), "it is binary"),
    ("amount", pa.array([1], pa.time64("us")), "it is time64[us]"),
    ("amount", pa.array([1], pa.duration("s")), "it is duration[s]"),
    ("amount", pa.array([date(2024, 1, 3)]), "it is date32[day]"),
    ("amount", pa.array([NOON]), "it is datetime64[us]"),
    ("amount", pa.array([[1, 2]]), "it is list<element: int64>"),
    ("amount", pa.array([{"a": 1}]), "it is struct<a: int64>"),
    ("shop", pa.array([b"ab"], pa.binary(2)), "it is fixed_size_binary[2]"),
    ("shop", pa.array([b"ab"]), "it is binary"),
    ("shop", pa.array([1]), "it is int64"),
    ("shop", pa.array([5, None]).dictionary_encode(), "it is int64"),
    ("shop", pa.array([True, None]), "it is bool"),
    ("shop", pa.array([date(2024, 1, 3)]), "it is date32[day]"),
    ("shop", pa.array([Decimal("1.5")]), "it is decimal128(2, 1)"),
    ("shop", pa.array([["a"]]), "it is list<element: string>"),
    ("shop", pa.array([b"0" * 16], pa.uuid()), "it is extension<arrow.uuid>"),
    ("at", pa.array([1], pa.time64("us")), "it is time64[us]"),
    ("at", pa.array([1], pa.duration("s")), "it is duration[s]"),
    ("at", pa.array([True]), "it is bool"),
    ("at", pa.array([1704276000]), "it is int64 (numbers are times where the column declares their unit"),
    ("at", pa.array([1704276000.5]), "it is float64 (numbers are times where"),
    ("at", pa.array([Decimal(1704276000)]), "it is decimal128(10, 0) (numbers are times"),
    ("at", pa.array(["1704276000"]), "it is str, not all in ISO 8601"),
    (
        "at",
        pa.array(["2024-01-03", "2024-01-03T00:00:00Z"]),
        "not all with an offset (the first, '2024-01-03T00:00:00Z', in row 2)",
    ),
]


@pytest.mark.parametrize(("name", "array", "words"), WRONG, ids=lambda value: str(getattr(value, "type", value))[:40])
def test_another_type_is_refused_by_its_arrow_name(name: str, array: pa.Array, words: str) -> None:
    with pytest.raises(UnusablePartition) as caught:
        read(column_of(array, name), "x.parquet")
    assert f"column {name} must be" in str(caught.value)
    assert words in str(caught.value)


COUNTED = [("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)]


@pytest.mark.parametrize(("unit", "in_a_second"), COUNTED)
@pytest.mark.parametrize("kind", ["int64", "float64", "decimal", "csv", "csv with null"])
def test_numbers_are_times_in_their_declared_unit(unit: str, in_a_second: int, kind: str) -> None:
    """They count from 1970 in UTC, and are read as a clock in the use case's time zone."""
    columns = tuple(replace(column, unit=unit) if column.name == "at" else column for column in COLUMNS)
    count = int(NOON.replace(tzinfo=ZoneInfo("UTC")).timestamp()) * in_a_second
    if kind.startswith("csv"):
        data = csv(row(at=str(count)), *([row(at="")] if "null" in kind else []))
        rows = read(data, columns=columns, time_zone="Europe/Berlin")
    else:
        array = pa.array([Decimal(count)]) if kind == "decimal" and unit != "ns" else pa.array([count])
        rows = read(
            column_of(array.cast(pa.float64()) if kind == "float64" and unit != "ns" else array, "at"),
            "x.parquet",
            columns=columns,
            time_zone="Europe/Berlin",
        )
    assert values(rows["at"])[0] == datetime(2024, 1, 3, 13)


def test_int96_is_read_in_microseconds() -> None:
    """Nanoseconds end in 2262 and begin again: 9999-12-31 would be 1816-03-29."""
    data = column_of(
        pa.array([datetime(9999, 12, 31), NOON, None], pa.timestamp("us")), "at", use_deprecated_int96_timestamps=True
    )
    assert values(read(data, "x.parquet")["at"]) == [datetime(9999, 12, 31), NOON, None]


def test_a_column_that_pandas_wrote_as_an_index_is_a_column() -> None:
    for index in ("id", ["id", "shop"], "at"):
        frame = pd.DataFrame(
            {"id": [1, 2], "at": [NOON] * 2, "amount": [1.5, None], "qty": [1, 2], "shop": ["a", None], "y": [0, 1]}
        )
        sink = io.BytesIO()
        frame.set_index(index).to_parquet(sink)
        rows = read(sink.getvalue(), "x.parquet")
        assert (values(rows["id"]), values(rows["shop"]), values(rows["at"])) == ([1, 2], ["a", None], [NOON] * 2)


@pytest.mark.parametrize(
    "dtypes",
    [
        {"id": "Int64", "amount": "Float64", "qty": "boolean", "shop": "string"},
        {"id": "int64[pyarrow]", "amount": "double[pyarrow]", "qty": "bool[pyarrow]", "shop": "string[pyarrow]"},
        {"shop": "category", "id": "category"},
    ],
)
def test_pandas_own_types_are_read_whatever_pandas_noted_of_them(dtypes: dict[str, str]) -> None:
    frame = pd.DataFrame(
        {"id": [1, 2], "at": [NOON] * 2, "amount": [1.5, 2.5], "qty": [True, False], "shop": ["a", "b"], "y": [0, 1]}
    ).astype(dtypes)
    sink = io.BytesIO()
    frame.to_parquet(sink)
    rows = read(sink.getvalue(), "x.parquet")
    assert [values(rows[name]) for name in ("id", "amount", "qty", "shop")] == [[1, 2], [1.5, 2.5], [1, 0], ["a", "b"]]


@pytest.mark.parametrize(
    "noted",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"columns": 7}',
        b'{"index_columns": ["gone", {"kind": "range", "name": "amount", "start": 0, "stop": 1, "step": 1}]}',
        b'{"index_columns": [{"name": "x", "start": 0, "stop": 9, "step": 0}]}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_pandas_noted_in_a_file_is_not_believed(noted: bytes) -> None:
    table = pq.read_table(io.BytesIO(column_of(pa.array([1.5]), "amount"))).replace_schema_metadata({b"pandas": noted})
    assert values(read(parquet(table), "x.parquet")["amount"]) == [1.5]


def test_a_parquet_file_with_a_name_twice_is_refused() -> None:
    for names in (["id", "at", "amount", "qty", "shop", "y", "y"], ["id", "at", "amount", "qty", "shop", "y", "Y"]):
        data = parquet(pa.table([pa.array([1])] * 7, names=names))
        with pytest.raises(UnusablePartition, match=r"is there twice|which differ only in"):
            read(data, "x.parquet")


@pytest.mark.parametrize("place", range(4, 400, 9))
def test_a_parquet_file_with_checksums_that_is_damaged_is_not_read_as_other_values(place: int) -> None:
    data = bytearray(column_of(pa.array([1.5, 2.5, None]), "amount", write_page_checksum=True, compression="none"))
    whole = read(bytes(data), "x.parquet")
    data[place] ^= 0x55
    try:
        rows = read(bytes(data), "x.parquet")
    except UnusablePartition:
        return
    pd.testing.assert_frame_equal(rows, whole)


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("us", "Nowhere/City"),
        pa.date32(),
        pa.duration("s"),
        pa.map_(pa.string(), pa.int64()),
        pa.uuid(),
        pa.decimal256(70, 3),
    ],
    ids=str,
)
def test_a_column_that_nobody_declared_may_be_of_any_type(kind: pa.DataType) -> None:
    odd = {
        "date32[day]": [2**31 - 1],
        "duration[s]": [2**62],
        "extension<arrow.uuid>": [b"0" * 16],
        "map<string, int64>": [[("a", 1)]],
    }
    table = pq.read_table(io.BytesIO(column_of(pa.array([1.5]), "amount"))).append_column(
        "odd", pa.array(odd.get(str(kind), [1]), kind)
    )
    assert values(read(parquet(table), "x.parquet")["amount"]) == [1.5]


@pytest.mark.parametrize("other", [pd.Series([1.5]), pd.Series([np.nan]), pd.Series([1], dtype="uint64") - 0.5])
@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_parts_of_a_day_whose_integers_would_be_rounded_are_refused(kind: str, other: pd.Series) -> None:
    wide = pd.DataFrame({"qty": pd.Series([2**53 + 1], dtype=kind)})
    for parts in ([wide, other.to_frame("qty")], [other.to_frame("qty"), wide]):
        with pytest.raises(UnusablePartition, match=r"column qty of day=x has integers over 2\*\*53 in one part"):
            together(parts, "day=x")
    narrow = together([pd.DataFrame({"qty": [2**53]}), other.to_frame("qty")], "day=x")
    assert narrow["qty"].tolist()[0] == 2**53


def test_a_row_that_is_longer_than_what_is_read_at_once_is_said_in_our_words() -> None:
    long = b"a,b\n" + b"1,2\n" * 10 + b"x," + b"secret" * 500_000 + b"\n"
    with (
        pytest.raises(BrokenCsv, match=r"^a row is longer than 1,048,576 bytes; shorten it$"),
        open_fields(io.BytesIO(long), "x.csv", CsvForm(), 1 << 20) as (_, batches),
    ):
        list(batches)


def test_parts_of_a_day_with_other_columns_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "rows" / f"day={DAY}"
    folder.mkdir(parents=True)
    (folder / "part-0.csv").write_bytes(csv())
    (folder / "part-1.csv").write_bytes(csv().replace(b"qty", b"pieces"))
    with pytest.raises(
        UnusablePartition, match=r"parts of day=2024-01-03 must have the same columns, .* pieces, qty is not in both"
    ):
        partition(site(tmp_path), use_case(source=Source(folder="rows")))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_blank_line_of_one_column_may_be_a_row_and_is_refused(end: str) -> None:
    def table(*lines: str) -> pd.DataFrame:
        return parse_table("x.csv", end.join([*lines, ""]).encode(), Declared((), "UTC", CsvForm()))

    for lines in (["a", "1", "", "2"], ["a", "1", ""], ["", "a", "1"]):
        with pytest.raises(UnusablePartition, match="a line is blank, and with one column"):
            table(*lines)
    assert values(table("a", "1", '""', "2")["a"]) == [1.0, None, 2.0]
    assert values(table("a,b", "1,2", "", "3,4")["a"]) == [1, 3]


def test_a_column_that_nobody_declared_is_of_one_type_in_all_parts_of_a_day(tmp_path: Path) -> None:
    """A derive would see the number 7 in some rows and the text A7 in others."""
    folder = tmp_path / "data" / "rows" / f"day={DAY}"
    folder.mkdir(parents=True)
    for part, code in enumerate(("007", "A7")):
        rows = csv().decode().splitlines()
        (folder / f"part-{part}.csv").write_text(
            "\n".join([f"{rows[0]},code", *(f"{row},{code}" for row in rows[1:])]) + "\n"
        )
    case = use_case(source=Source(folder="rows"))
    with pytest.raises(UnusablePartition, match=r"same types, but code is int64 in one and str in another \(declare"):
        partition(site(tmp_path), case)
    declared = replace(case, columns=(*case.columns, Column(name="code", type="text", feature=False)))
    assert set(partition(site(tmp_path), declared)["code"]) == {"007", "A7"}


def test_a_text_of_parquet_that_is_not_in_utf_8_is_refused_by_its_column() -> None:
    wrong = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"], pa.binary()).buffers())
    with pytest.raises(UnusablePartition, match="column note has a text that is not in UTF-8"):
        read(parquet(pa.table({"note": wrong})), "x.parquet")


@pytest.mark.parametrize(
    ("begins", "seen"),
    [
        (b"BZh9", "packed by bzip2"), (b"\xfd7zXZ\x00", "packed by xz"), (b"\x28\xb5\x2f\xfd", "packed by zstd"),
        (b"\xd0\xcf\x11\xe0", "an Excel file"), (b"ARROW1", "an Arrow file"), (b"SQLite format 3\0", "an SQLite database"),
        (b'{"a": 1}\n', "JSON"), (b'[{"a": 1}]\n', "JSON"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_csv_is_named_as_what_it_is(begins: bytes, seen: str) -> None:
    """Another encoding, or another quote, would not help."""
    with pytest.raises(UnusablePartition, match=rf"it is {seen}; (pack|save|use)"):
        read(begins, "x.csv")


# The same in every place that reads a file


def partition(place: Settings, case: UseCase, day: date = DAY) -> pd.DataFrame:
    """The day's rows as a night has them."""
    manifest, _ = take_manifest(place, case, date.fromordinal(day.toordinal() + 1), {})
    return read_partition(place, case, manifest, str(day)).rows


def by_file_source(place: Settings, name: str, data: bytes, **changes: Any) -> pd.DataFrame:
    place.data.mkdir(parents=True, exist_ok=True)
    (place.data / name).write_bytes(data)
    return partition(place, use_case(source=FileSource(file=name, time_column="at"), **changes))


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "a line of totals"])
def test_what_a_night_refuses_a_file_source_refuses_too(tmp_path: Path, name: str) -> None:
    """A line of totals has no time there, and so belongs to no day."""
    with pytest.raises((UnusablePartition, DataRejected)) as caught:
        by_file_source(site(tmp_path), "rows.csv", REFUSED[name][0])
    assert not isinstance(caught.value, DataRejected) or caught.value.next_step


SAME = {
    name: case
    for name, case in READ.items()
    if name not in {"a line of commas", "words that stand for nothing", "a header alone", "the end of all years"}
}


@pytest.mark.parametrize("name", SAME)
def test_a_file_source_changes_no_field(tmp_path: Path, name: str) -> None:
    data, expected = SAME[name]
    rows = by_file_source(site(tmp_path), "rows.csv.gz", gzip.compress(data))
    assert {column: values(rows[column]) for column in expected} == expected


@pytest.mark.parametrize("name", FORMS)
def test_a_file_source_of_a_declared_form_is_read(tmp_path: Path, name: str) -> None:
    form, data = FORMS[name]
    place = site(tmp_path)
    place.data.mkdir(parents=True)
    (place.data / "rows.csv").write_bytes(data)
    source = FileSource(file="rows.csv", time_column="at", **vars(form))
    assert values(partition(place, use_case(source=source))["amount"]) == [12.5]


TIMED = [kind for kind in WAREHOUSE if kind.name == "at" and kind.read[0] is not None and kind.read[0].year == 2024]


@pytest.mark.parametrize("kind", TIMED, ids=lambda kind: str(kind.array.type))
def test_a_file_source_finds_the_day_of_any_time_as_a_night_does(tmp_path: Path, kind: Kind) -> None:
    """A row without a time belongs to no day."""
    rows = by_file_source(site(tmp_path), "rows.parquet", column_of(kind.array, "at"), time_zone="Europe/Berlin")
    assert values(rows["at"]) == [value for value in kind.read if value is not None]


def test_the_day_of_an_instant_is_that_of_the_use_cases_time_zone(tmp_path: Path) -> None:
    late = datetime(2024, 1, 2, 23, 30, tzinfo=ZoneInfo("UTC"))
    data = column_of(pa.array([late]), "at")
    assert values(by_file_source(site(tmp_path), "rows.parquet", data, time_zone="Europe/Berlin")["at"]) == [
        datetime(2024, 1, 3, 0, 30)
    ]


@pytest.mark.parametrize("stray", ["9999-12-31", "2262-04-11", "1970-01-01", "0201-01-03", "0001-01-01"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_one_stray_time_in_a_file_makes_no_day_but_its_own(tmp_path: Path, stray: str, ending: str) -> None:
    place = site(tmp_path)
    case = use_case(source=FileSource(file=f"rows.{ending}", time_column="at"))
    place.data.mkdir(parents=True)
    data = csv(row(), row(id="2", at=stray))
    table = pd.read_csv(io.BytesIO(data), dtype={"at": "str"})
    (place.data / f"rows.{ending}").write_bytes(data if ending == "csv" else parquet(pa.Table.from_pandas(table)))
    days = list(partition_files(place, case, case.source))
    assert days == sorted({str(DAY), *([stray] if "1000" < stray < "8000" else [])})


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_side_table_is_read_by_the_form_of_its_own_source(tmp_path: Path, ending: str) -> None:
    place = site(tmp_path)
    for name in ("rows", "rates"):
        (place.data / name).mkdir(parents=True)
    (place.data / "rows" / f"{DAY}.csv").write_bytes(csv())
    rates = pa.table({"shop": ["north"], "rate": [Decimal("1.5")]})
    (place.data / "rates" / f"all.{ending}").write_bytes(
        b"shop;rate\nnorth;1,5\n" if ending == "csv" else parquet(rates)
    )
    table = SideTable(
        name="rates", source=Source(folder="rates", separator=";", decimal=","), on=("shop",), take=("rate",)
    )
    case = use_case(source=Source(folder="rows"), columns=(*COLUMNS, Column(name="rate")), side_tables=(table,))
    assert values(partition(place, case)["rate"]) == [1.5]
    (place.data / "rates" / f"all.{ending}").unlink()
    (place.data / "rates" / "all.csv").write_bytes(b"shop;rate\nnorth;1,5;\n")
    with pytest.raises(UnusablePartition, match="row 1 has 3 fields where the header has 2 names"):
        partition(place, case)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.csv.gz"])
@pytest.mark.parametrize("error", [pa.lib.ArrowMemoryError("x"), OSError(5, "x"), OSError(28, "x")], ids=repr)
def test_what_the_machine_does_while_a_file_is_read_is_no_word_on_the_file(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ml.data.reading._read_parquet", fail)
    monkeypatch.setattr("ml.data.reading.read_fields", fail)
    with pytest.raises(type(error)):
        parse_table(name, b"", Declared((), "UTC", CsvForm()))


TRUTHS = "must be text, but it is bool.*declared integer"


@pytest.mark.parametrize("values", [[True, False], [True, None]])
@pytest.mark.parametrize("kind", ["bool", "boolean", "bool[pyarrow]", "object"])
def test_truths_of_a_column_that_is_declared_text_say_what_to_declare(values: list[Any], kind: str) -> None:
    if kind == "bool" and None in values:
        return
    rows = pd.DataFrame({"open": pd.Series(values, dtype=kind)})
    text, integer = (Column(name="open", type=each, nullable=True) for each in ("text", "integer"))
    with pytest.raises(UnusablePartition, match=TRUTHS):
        refuse_other_columns(tills(), rows, (text,))
    refuse_other_columns(tills(), rows, (integer,))
