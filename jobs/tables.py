"""Summaries and query results as tables, CSV or JSON on standard output."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.units import byte_size, megapixel_size
from jobs.values import as_text, plain
from pipeline.errors import QueryError, first_line
from pipeline.manifest import ManifestSummary

_NUM_FAILURES_SHOWN = 5
_PIPED_WIDTH = 100_000
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_TEXT_IN_CSV = (
    pa.types.is_nested,
    pa.types.is_timestamp,
    pa.types.is_time,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_interval,
)


def print_json(value: object) -> None:
    """Write one JSON document, keys in the order given."""
    sys.stdout.write(json.dumps(plain(value), indent=2, default=str, allow_nan=False) + "\n")


def print_summary(
    summary: ManifestSummary, title: str, failures: pa.Table | None = None, destination: str = "DST"
) -> None:
    """Print the figures a person asks for first, and up to five `failures` (rows of the manifest) by name.

    Of more, the command that shows all of those in `destination` is named.
    """
    console = fitting_console()
    console.print(title, style="bold", markup=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in _summary_rows(summary):
        table.add_row(name, value)
    console.print(table)
    if failures is not None and failures.num_rows:
        console.print()
        for row in failures.slice(0, _NUM_FAILURES_SHOWN).to_pylist():
            console.print(f"failed  {row['source']}: {row['error_message']} [{row['error_code']}]", markup=False)
        if failures.num_rows > _NUM_FAILURES_SHOWN:
            more = f"{failures.num_rows - _NUM_FAILURES_SHOWN:,} more"
            console.print(
                f"        and {more}; for all: hdrfleet query {shlex.quote(destination)} --failed", markup=False
            )


def fitting_console() -> Console:
    """Wraps on a terminal; when piped, lines are as long as they are, so that grep finds whole names."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=_PIPED_WIDTH)


def _summary_rows(summary: ManifestSummary) -> list[tuple[str, str]]:
    rows = [("images", f"{summary.num_images:,}")]
    rows += [(f"  {status}", f"{count:,}") for status, count in summary.num_by_status.items()]
    if summary.num_by_error_code:
        rows.append(("error codes", _counts(summary.num_by_error_code)))
    if summary.num_by_warning:
        rows.append(("input notes", _counts(summary.num_by_warning)))
    rows.append(("pixels", megapixel_size(summary.megapixels)))
    rows.append(("output", byte_size(summary.output_bytes)))
    if summary.clipped_fraction_p50 is not None and summary.clipped_fraction_p95 is not None:
        rows.append(
            ("clipped area", f"median {summary.clipped_fraction_p50:.2%}, p95 {summary.clipped_fraction_p95:.2%}")
        )
    if summary.stops_gained_clipped_median is not None:
        rows.append(("stops gained where clipped", f"median {_signed(summary.stops_gained_clipped_median)}"))
    if summary.dynamic_range_gained_stops_median is not None:
        change = _signed(summary.dynamic_range_gained_stops_median)
        rows.append(("dynamic range", f"median {change} stops against the input's"))
    if summary.megapixels_per_s is not None:
        rows.append(("speed", f"{summary.megapixels_per_s:.2f} MP/s while working"))
    if summary.num_by_device:
        rows.append(("computed on", f"{_counts(summary.num_by_device)} in {_counts(summary.num_by_precision)}"))
    if summary.num_by_weights:
        rows.append(("weights", _counts(summary.num_by_weights)))
    return rows


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # adding 0.0 turns -0.0 into 0.0


def _counts(counts: Any) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())


def print_arrow(table: pa.Table, style: str) -> None:
    """Print a query result as `table`, `csv` (RFC 4180 with a header) or `json` (an array of objects).

    Raises QueryError for values that these cannot show, such as dates beyond the year 9999, and for two columns of one
    name as JSON.
    """
    try:
        if style == "json":
            print_json(_objects(table))
        elif style == "csv":
            pa_csv.write_csv(_flat(table), sys.stdout.buffer)
        else:
            _print_rows(table)
    except (OverflowError, ValueError, pa.ArrowException) as error:
        raise QueryError(
            f"a value of the result cannot be shown ({first_line(error)}); cast its column to varchar"
        ) from error


def _objects(table: pa.Table) -> list[dict[str, Any]]:
    double = [name for name, number in Counter(table.column_names).items() if number > 1]
    if double:
        raise QueryError(f"two columns are called {double[0]!r}, and a JSON object has one; name them apart with AS")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _print_rows(table: pa.Table) -> None:
    """A table where it fits the terminal, else one block per row with a line per column."""
    console = fitting_console()
    # Column by column: a row as a mapping would lose all but the last of several columns with one name.
    columns = [[as_text(value) for value in column.to_pylist()] for column in table.columns]
    cells = list(zip(*columns, strict=True))
    names = table.column_names
    widths = [max(map(len, [name, *column])) for name, column in zip(names, columns, strict=True)]
    if console.is_terminal and sum(widths) + 2 * len(widths) > console.width:
        indent = max(map(len, names))
        for index, row in enumerate(cells, start=1):
            console.print(f"-- row {index} --", style="bold")
            for name, cell in zip(names, row, strict=True):
                console.print(f"{name:<{indent}}  {cell}", markup=False)
        return
    view = Table(box=None, pad_edge=False, header_style="bold")
    for field in table.schema:
        numeric = any(is_kind(field.type) for is_kind in _NUMBERS)
        view.add_column(escape(field.name), justify="right" if numeric else "left", no_wrap=True)
    for row in cells:
        view.add_row(*map(escape, row))
    console.print(view)


def _flat(table: pa.Table) -> pa.Table:
    """What CSV lacks, and what Arrow would write in another form than tables and JSON have, as text."""
    for index, field in enumerate(table.schema):
        if any(is_kind(field.type) for is_kind in _TEXT_IN_CSV):
            texts = [None if value is None else as_text(value) for value in table.column(index).to_pylist()]
            table = table.set_column(index, field.name, pa.array(texts, pa.string()))
    return table
