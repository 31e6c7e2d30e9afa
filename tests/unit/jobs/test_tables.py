"""Results of queries on standard output: values that Python, JSON or CSV lack end in one line."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from uuid import uuid4

import duckdb
import pyarrow as pa
import pytest

from jobs.tables import print_arrow, print_summary
from jobs.values import as_text, plain
from pipeline.config import StorageConfig
from pipeline.errors import QueryError
from pipeline.manifest import FAILED_ROWS, open_manifest, summarise
from pipeline.storage import open_store

UNSHOWN = [
    ("select date '20000-01-01' as d", "table"),
    ("select date '20000-01-01' as d", "json"),
    ("select 'infinity'::timestamp as t", "json"),
    ("select 'infinity'::timestamp as t", "csv"),
]


@pytest.mark.parametrize(("sql", "style"), UNSHOWN)
def test_what_cannot_be_shown_is_one_line_that_says_what_to_do(sql: str, style: str) -> None:
    with pytest.raises(QueryError, match=r"cannot be shown .*; cast its column to varchar") as caught:
        print_arrow(duckdb.sql(sql).to_arrow_table(), style)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("sql", "style"), UNSHOWN)
def test_as_text_it_can(sql: str, style: str, capfd: pytest.CaptureFixture[str]) -> None:
    value, _, name = sql.removeprefix("select ").rpartition(" as ")
    print_arrow(duckdb.sql(f"select ({value})::varchar as {name}").to_arrow_table(), style)
    assert name in capfd.readouterr().out


def test_json_has_no_nan(capfd: pytest.CaptureFixture[str]) -> None:
    print_arrow(duckdb.sql("select 'nan'::double as x, 1.5::decimal(4, 1) as y").to_arrow_table(), "json")
    assert json.loads(capfd.readouterr().out) == [{"x": None, "y": 1.5}]


# SQL, and what JSON has; a table and CSV have the same text.
VALUES = [
    ("'ab'::blob", "6162"),
    ("['ab'::blob]", ["6162"]),
    ("170141183460469231731687303715884105727::hugeint", 170141183460469231731687303715884105727),
    ("9223372036854775808::hugeint", 9223372036854775808),
    ("interval '1 day'", "1 day"),
    ("interval '-14 months 3 days -1.5 seconds'", "-1 year -2 months 3 days -00:00:01.5"),
    ("interval '0 days'", "00:00:00"),
    ("timestamptz '2026-11-29 22:08:12+00'", "2026-11-29T22:08:12+00:00"),
    ("timestamp '2026-11-29 22:08:12.5'", "2026-11-29T22:08:12.500000"),
    ("date '2026-11-29'", "2026-11-29"),
    ("[timestamp '2026-11-29 22:08:12']", ["2026-11-29T22:08:12"]),
    ("time '22:08:12'", "22:08:12"),
]


@pytest.mark.parametrize(("sql", "value"), VALUES)
def test_a_value_is_one_text_in_every_format(sql: str, value: object, capfd: pytest.CaptureFixture[str]) -> None:
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    shown = {}
    for style in ("json", "csv", "table"):
        print_arrow(connection.sql(f"select {sql} as x").to_arrow_table(), style)
        shown[style] = capfd.readouterr().out
    assert json.loads(shown["json"]) == [{"x": value}]
    text = str(value[0] if isinstance(value, list) else value)
    assert shown["csv"].splitlines()[1].strip('"') == text
    assert shown["table"].splitlines()[1].strip() == text


@pytest.mark.parametrize("months", [0, 1, -1, 12, -25])
@pytest.mark.parametrize("days", [0, 1, -40])
@pytest.mark.parametrize("microseconds", [0, 1, -1_500_000, 360_000_000_000])
def test_an_interval_is_written_as_duckdb_does(months: int, days: int, microseconds: int) -> None:
    parts = f"to_months({months}) + to_days({days}) + to_microseconds({microseconds})"
    row = duckdb.sql(f"select {parts} as value, ({parts})::varchar as text").to_arrow_table().to_pylist()[0]
    assert plain(row["value"]) == row["text"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567.891, "1234568"),
        (999999.6, "1000000"),
        (123456789012345.6, "123456789012346"),
        (-2.5e9, "-2500000000"),
        (1e15, "1e+15"),
        (0.1234567, "0.123457"),
        (99999.96, "100000"),
        (Decimal("0E-10"), "0.0000000000"),
        ([b"ab", None, {"a": date(2026, 11, 29)}], '6162;;{"a": "2026-11-29"}'),
        ({"ä": [1, None]}, '{"ä": [1, null]}'),
    ],
)
def test_a_table_shows_all_digits_before_the_point(value: object, text: str) -> None:
    assert as_text(value) == text


TWICE = "select 213 as width, 320 as width, 'ok' as status"


def test_columns_of_one_name_keep_their_values_apart(capfd: pytest.CaptureFixture[str]) -> None:
    for style in ("table", "csv"):
        print_arrow(duckdb.sql(TWICE).to_arrow_table(), style)
        header, row = capfd.readouterr().out.splitlines()
        assert [each.strip('"') for each in header.replace(",", " ").split()] == ["width", "width", "status"]
        assert [each.strip('"') for each in row.replace(",", " ").split()] == ["213", "320", "ok"]


def test_columns_of_one_name_are_refused_as_json() -> None:
    with pytest.raises(QueryError, match=r"two columns are called 'width'.* AS"):
        print_arrow(duckdb.sql(TWICE).to_arrow_table(), "json")


@pytest.mark.parametrize("name", ["[/x]", "a[b]", "[link]", "[bold]x[/bold]"])
def test_a_heading_is_shown_as_it_is(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    print_arrow(duckdb.sql(f'select 1 as "{name}"').to_arrow_table(), "table")
    assert capfd.readouterr().out.splitlines()[0].strip() == name


def test_a_result_without_rows_shows_its_headings(capfd: pytest.CaptureFixture[str]) -> None:
    print_arrow(duckdb.sql("select 1 as a, 2 as b where false").to_arrow_table(), "table")
    assert capfd.readouterr().out.split() == ["a", "b"]


def test_of_many_failures_some_are_named_and_the_command_for_all_of_them(capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"source": f"{n}.jpg", "error_code": "empty", "error_message": "the file has no bytes"} for n in range(7)]
    failures = pa.Table.from_pylist(rows)
    summary = summarise(open_manifest(open_store(f"memory://{uuid4().hex}", StorageConfig())))
    print_summary(summary, "7 images", failures, "/photos in HDR")
    shown = capfd.readouterr().out
    assert shown.count("failed  ") == 5
    assert "and 2 more; for all: hdrfleet query '/photos in HDR' --failed\n" in shown
    assert duckdb.query(FAILED_ROWS.replace("manifest", "failures")).to_arrow_table().num_rows == 7
