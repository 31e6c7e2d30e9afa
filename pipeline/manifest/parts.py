"""The parts as they lie below `manifest/`: their keys, and their rows in the current schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ManifestError, first_line
from pipeline.manifest.schema import META_ATTEMPT, META_PLAN, META_SCHEMA_VERSION, META_SHARD, SCHEMA, SCHEMA_VERSION
from pipeline.manifest.seal import require_seal

MANIFEST_PREFIX = "manifest"
_PART_KEY = re.compile(rf"{MANIFEST_PREFIX}/plan=(\d+)/shard-(\d{{6,}})\.parquet")


class PartRef(NamedTuple):
    """A part that is listed; sorts by plan and shard, which byte order of the keys does not (plan=10 before plan=2)."""

    plan: int
    shard: int
    key: str


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One committed part: its numbers from the file's metadata and its rows in the current schema."""

    plan: int
    shard: int
    attempt: int
    rows: pa.Table


def part_key(plan: int, shard: int) -> str:
    """The part's key below DST; shard numbers have at least six digits, so that keys of one plan sort by number."""
    return f"{MANIFEST_PREFIX}/plan={plan}/shard-{shard:06d}.parquet"


def parse_part_key(key: str) -> PartRef | None:
    """The part that `key` names; None for any other object."""
    match = _PART_KEY.fullmatch(key)
    ref = PartRef(int(match[1]), int(match[2]), key) if match else None
    # `plan=01` would stand for the shard of `plan=1` a second time.
    return ref if ref and key == part_key(ref.plan, ref.shard) else None


def read_part(data: bytes, key: str, *, columns: Sequence[str] | None = None) -> StoredPart:
    """Parse one part's bytes. Raises ManifestError, naming `key`, where it is damaged, newer or not what it says."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        meta = file.metadata.metadata or {}
        require_seal(data, meta, key)
        check_version(meta, key)
        plan, shard, attempt = (_number(meta, name, key) for name in (META_PLAN, META_SHARD, META_ATTEMPT))
        ref = parse_part_key(key)
        if ref is None or (ref.plan, ref.shard) != (plan, shard):
            raise ManifestError(f"{key}: holds plan {plan}, shard {shard}, which is not what its name says")
        wanted = SCHEMA.names if columns is None else list(columns)
        present = set(file.schema_arrow.names)
        rows = file.read(columns=[name for name in wanted if name in present], use_threads=False)
        return StoredPart(plan, shard, attempt, conformed(rows, wanted, key))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{key}: not a readable manifest part ({first_line(error)})") from error


def check_version(metadata: Mapping[bytes, bytes], key: str) -> None:
    """Raise ManifestError unless a Parquet file of rows, by its key-value metadata, is one that this release reads."""
    version = _number(metadata, META_SCHEMA_VERSION, key)
    if version > SCHEMA_VERSION:
        raise ManifestError(
            f"{key}: written with manifest schema {version}; this hdrfleet reads up to {SCHEMA_VERSION}: upgrade it"
        )
    if version < 1:
        raise ManifestError(f"{key}: manifest schema {version} does not exist")


def conformed(rows: pa.Table, wanted: Sequence[str], key: str) -> pa.Table:
    """Put the columns into the current order and types; a nullable column that is missing becomes null."""
    schema = pa.schema([SCHEMA.field(name) for name in wanted])
    if rows.schema.equals(schema):  # a required column of a Parquet file cannot hold nulls
        return rows.replace_schema_metadata(None)
    arrays = []
    for name in wanted:
        field = SCHEMA.field(name)
        if name in rows.column_names:
            column = rows[name] if rows.schema.field(name).type == field.type else rows[name].cast(field.type)
        elif field.nullable:
            column = pa.nulls(rows.num_rows, field.type)
        else:
            raise ManifestError(f"{key}: the required column {name} is missing")
        if not field.nullable and column.null_count:
            raise ManifestError(f"{key}: the required column {name} holds nulls")
        arrays.append(column)
    return pa.table(arrays, schema=schema)


def _number(meta: Mapping[bytes, bytes], name: bytes, key: str) -> int:
    value = meta.get(name, b"")
    if not value.isdigit():
        raise ManifestError(f"{key}: not a manifest part: its metadata lacks {name.decode()}")
    return int(value)
