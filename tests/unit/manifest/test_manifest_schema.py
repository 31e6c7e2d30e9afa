from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa

from pipeline.manifest import COLUMNS, RUN_COLUMNS, SCHEMA, SCHEMA_VERSION
from pipeline.manifest.schema import STATISTIC_COLUMNS, columns_markdown, type_name
from pipeline.records import QualityStats, StageTimings

GOLDEN = Path(__file__).parent / "golden" / "schema.json"
DOCS = Path(__file__).resolve().parents[3] / "docs" / "manifest.md"
FORMULAS = DOCS.with_name("quality-statistics.md")

CONTRACT = [
    "source",
    "source_etag",
    "source_bytes",
    "source_sha256",
    "width",
    "height",
    "status",
    "error_code",
    "error_message",
    "output",
    "output_bytes",
    "output_sha256",
    "weights_sha256",
    "plan",
    "shard",
    "revision",
    "attempt",
    "worker",
    "node",
    "device",
    "precision",
    "tiles",
    "software_version",
    "started_at",
    "finished_at",
    "fetch_ms",
    "decode_ms",
    "infer_ms",
    "encode_ms",
    "put_ms",
]


def test_schema_equals_its_golden_snapshot() -> None:
    """A difference here is a change of a published format: see the versioning rule in pipeline/manifest/schema.py."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))

    assert golden == {
        "schema_version": SCHEMA_VERSION,
        "columns": [[field.name, str(field.type), field.nullable] for field in SCHEMA],
    }


def test_contract_columns_exist() -> None:
    assert set(CONTRACT) <= set(SCHEMA.names)


def test_every_statistic_and_timing_has_its_column() -> None:
    assert tuple(field.name for field in fields(QualityStats)) == STATISTIC_COLUMNS
    assert {field.name for field in fields(StageTimings)} <= set(SCHEMA.names)


def test_names_are_unique_and_types_plain() -> None:
    assert len(set(SCHEMA.names)) == len(SCHEMA.names)
    assert not any(pa.types.is_dictionary(field.type) for field in SCHEMA)


def test_run_columns_hold_timings_and_names_of_machines_but_no_pixels() -> None:
    assert {"attempt", "worker", "node", "started_at", "finished_at", "infer_ms", "adopted"} <= RUN_COLUMNS
    assert {name for name in SCHEMA.names if name.endswith("_ms")} <= RUN_COLUMNS
    assert not RUN_COLUMNS & {"output_sha256", "status", "error_code", "source", "plan", "shard", *STATISTIC_COLUMNS}


def test_docs_hold_exactly_the_schema() -> None:
    text = DOCS.read_text(encoding="utf-8")
    table = re.search(r"<!-- columns:[^\n]*-->\n(.*?)<!-- end of columns -->", text, re.DOTALL)

    assert table is not None
    assert table[1] == columns_markdown()
    assert re.findall(r"^\| `(\w+)` \|", table[1], re.MULTILINE) == SCHEMA.names


def test_docs_name_exactly_the_run_columns() -> None:
    text = DOCS.read_text(encoding="utf-8")
    section = text.partition("### What two runs have in common")[2].partition("Between copies")[0]

    assert set(re.findall(r"`(\w+)`", section)) - {"RUN_COLUMNS"} == RUN_COLUMNS


def test_every_statistic_and_count_links_to_the_section_that_defines_it() -> None:
    text = DOCS.read_text(encoding="utf-8")
    links = dict(re.findall(r"^\| `(\w+)` \|.*\[Formula\]\(quality-statistics\.md#([\w-]+)\) \|$", text, re.MULTILINE))
    assert links.keys() == {*STATISTIC_COLUMNS, "num_negative", "num_nan", "num_inf", "num_half_overflow"}

    parts = re.split(r"^## (.+)$", FORMULAS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = {title.lower().replace(" ", "-"): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    defined = {name: _names_in_first_column(sections[section]) for name, section in links.items()}
    shared = {"input_noise_sigma", "output_noise_sigma", "input_banding", "output_banding"}  # a method in words
    assert [name for name in links if name not in defined[name] and name not in shared] == []


def _names_in_first_column(section: str) -> set[str]:
    """Names of a table's columns, the shortened ones (`luminance_p1` `_p50`) in full."""
    names: set[str] = set()
    for cell in re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE):
        first, *others = re.findall(r"`(\w+)`", cell)
        names |= {first, *(other if other[0] != "_" else first.rpartition("_")[0] + other for other in others)}
    return names


def test_every_column_is_documented_and_units_are_in_the_table() -> None:
    assert all(column.doc.endswith(".") for column in COLUMNS)
    assert all(column.unit == "ms" for column in COLUMNS if column.name.endswith("_ms"))
    assert all(column.unit == "bytes" for column in COLUMNS if column.name.endswith("_bytes"))


def test_type_names_read_well() -> None:
    assert type_name(SCHEMA.field("warnings").type) == "list<string>"
    assert type_name(SCHEMA.field("started_at").type) == "timestamp[us, UTC]"
    assert type_name(SCHEMA.field("width").type) == "int32"
