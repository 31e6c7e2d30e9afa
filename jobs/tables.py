"""Summaries and query results as tables, CSV or JSON on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
from rich.console import Console
from rich.table import Table

from pipeline.manifest import ManifestSummary


def print_json(value: object) -> None:
    """Write one JSON document, keys in the order given."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_summary(summary: ManifestSummary, title: str) -> None:
    """Print the figures a person asks for first."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in _summary_rows(summary):
        table.add_row(name, value)
    Console(highlight=False, soft_wrap=False).print(table)


def _summary_rows(summary: ManifestSummary) -> list[tuple[str, str]]:
    rows = [("images", f"{summary.num_images:,}")]
    rows += [(f"  {status}", f"{count:,}") for status, count in summary.num_by_status.items()]
    if summary.num_by_error_code:
        rows.append(("error codes", _counts(summary.num_by_error_code)))
    if summary.num_by_warning:
        rows.append(("input notes", _counts(summary.num_by_warning)))
    rows.append(("pixels", f"{summary.megapixels:,.1f} MP"))
    rows.append(("output", f"{summary.output_bytes / 1e6:,.1f} MB"))
    if summary.clipped_fraction_p50 is not None and summary.clipped_fraction_p95 is not None:
        rows.append(
            ("clipped area", f"median {summary.clipped_fraction_p50:.2%}, p95 {summary.clipped_fraction_p95:.2%}")
        )
    if summary.stops_gained_clipped_median is not None:
        rows.append(("stops gained where clipped", f"median {_signed(summary.stops_gained_clipped_median)}"))
    if summary.dynamic_range_gained_stops_median is not None:
        rows.append(("dynamic range gained", f"median {_signed(summary.dynamic_range_gained_stops_median)} stops"))
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
    """Print a query result as `table`, `csv` (RFC 4180 with a header) or `json` (an array of objects)."""
    if style == "json":
        print_json(table.to_pylist())
    elif style == "csv":
        pa_csv.write_csv(_flat(table), sys.stdout.buffer)
    else:
        view = Table(box=None, pad_edge=False, header_style="bold")
        for name in table.column_names:
            numeric = pa.types.is_integer(table.schema.field(name).type) or pa.types.is_floating(
                table.schema.field(name).type
            )
            view.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in table.to_pylist():
            view.add_row(*[_cell(value) for value in row.values()])
        Console(highlight=False).print(view)


def _flat(table: pa.Table) -> pa.Table:
    """CSV has no lists: join their items with semicolons."""
    for index, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            joined = [None if value is None else _cell(value) for value in table.column(index).to_pylist()]
            table = table.set_column(index, field.name, pa.array(joined, pa.string()))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ";".join(map(str, value))
    return str(value)
