"""What verification compares, in a temporary DuckDB database: listing and rows of any number need disk, not memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DiskFullError, SystemicError, first_line
from pipeline.storage import ObjectInfo

_OPTIONS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "192MiB",
    "threads": 2,
    "preserve_insertion_order": False,
}
_BATCH_ROWS = 16_384
_FETCH_ROWS = 4_096
_HASH_SPACE = 2**64

_ROW_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("source", "output")),
        ("output_bytes", pa.int64()),
        ("output_sha256", pa.string()),
        *((name, pa.int32()) for name in ("width", "height")),
        ("has_alpha", pa.bool_()),
        *((name, pa.string()) for name in ("source_sha256", "pixel_digest", "weights_sha256")),
        ("is_collected", pa.bool_()),
        ("plan", pa.int32()),
        ("adopts_earlier", pa.bool_()),
        ("part", pa.string()),
        ("number", pa.int64()),
    ]
)
_LISTING_SCHEMA = pa.schema([("key", pa.string()), ("size_bytes", pa.int64())])
_KEY_SCHEMA = pa.schema([("key", pa.string())])

# What all rows that name one output have to agree about; `ExpectedOutput` has the same fields after `key`.
_AGREED = "output_bytes, output_sha256, width, height, has_alpha, source_sha256, pixel_digest, weights_sha256"
_COLUMNS = """source VARCHAR, output VARCHAR, output_bytes BIGINT, output_sha256 VARCHAR, width INTEGER,
    height INTEGER, has_alpha BOOLEAN, source_sha256 VARCHAR, pixel_digest VARCHAR, weights_sha256 VARCHAR"""
_TABLES = f"""
    CREATE TABLE listed (key VARCHAR, size_bytes BIGINT);
    CREATE TABLE distrusted (key VARCHAR);
    CREATE TABLE noted ({_COLUMNS}, is_collected BOOLEAN, plan INTEGER, adopts_earlier BOOLEAN, part VARCHAR,
        number BIGINT, fingerprint UBIGINT);
    CREATE TABLE outputs ({_COLUMNS}, plan INTEGER);
    CREATE TABLE replaced (key VARCHAR)
"""
_FORGET = "DELETE FROM distrusted; DELETE FROM noted; DELETE FROM outputs; DELETE FROM replaced"
# The latest row that names an output counts for it. One of a source that was repaired since is nobody's: where all of
# a repair's plan was made anew, whatever came before; else what was distrusted, once a later row names another. Two
# sources can share an output, and the current row of one that was not repaired still stands for it.
_SETTLE = f"""
    INSERT INTO outputs SELECT source, output, {_AGREED}, plan FROM noted SEMI JOIN (
        SELECT max(number) AS number FROM noted WHERE output IS NOT NULL AND NOT is_collected GROUP BY output
    ) USING (number);
    INSERT INTO replaced WITH repaired AS (
        SELECT source, max(plan) AS plan FROM noted WHERE output IS NOT NULL AND NOT adopts_earlier GROUP BY source
    ), suspects AS (
        SELECT DISTINCT source FROM noted SEMI JOIN distrusted ON output = key
    ), latest AS (
        SELECT max(number) AS number FROM noted SEMI JOIN suspects USING (source) WHERE output IS NOT NULL
        GROUP BY source
    ), trusted AS (
        SELECT source, plan FROM noted SEMI JOIN latest USING (number) ANTI JOIN distrusted ON output = key
    )
    SELECT output FROM outputs SEMI JOIN repaired
        ON outputs.source = repaired.source AND outputs.plan < repaired.plan
    UNION SELECT output FROM outputs SEMI JOIN distrusted ON output = key SEMI JOIN trusted
        ON outputs.source = trusted.source AND outputs.plan < trusted.plan;
    DELETE FROM replaced WHERE key IN (
        SELECT output FROM noted SEMI JOIN (SELECT max(number) AS number FROM noted GROUP BY source) USING (number)
        WHERE output IS NOT NULL AND NOT is_collected
    );
    DELETE FROM outputs WHERE output IN (SELECT key FROM replaced)
"""  # noqa: S608 - constants
_CONTRADICTED = """
    SELECT output, fingerprint, source, part FROM noted SEMI JOIN (
        SELECT output FROM noted WHERE output IS NOT NULL AND NOT is_collected
        GROUP BY output HAVING min(fingerprint) <> max(fingerprint)
    ) USING (output) WHERE NOT is_collected ORDER BY output, number
"""
_CURRENT_COLLECTED = """
    SELECT source, output FROM noted SEMI JOIN (
        SELECT max(number) AS number FROM noted
        SEMI JOIN (SELECT DISTINCT source FROM noted WHERE is_collected) USING (source) GROUP BY source
    ) USING (number) WHERE is_collected ORDER BY number
"""
_OTHER_SIZES = """
    SELECT key, size_bytes, output_bytes, source FROM listed JOIN outputs ON output = key
    WHERE size_bytes <> output_bytes ORDER BY key
"""
# A store that takes names for one that differ in case or in how accents are written alone lists what it was given in
# one of these folders under the name of whichever was made first.
_UNNAMED = """
    WITH named AS (
        SELECT output FROM outputs UNION SELECT key FROM replaced
    ), listed_otherwise AS (
        SELECT DISTINCT lower(nfc_normalize(output)) AS folded FROM named ANTI JOIN listed ON key = output
    )
    SELECT key, key IN (SELECT output FROM noted WHERE is_collected) FROM listed
    ANTI JOIN named ON output = key ANTI JOIN listed_otherwise ON lower(nfc_normalize(key)) = folded ORDER BY key
"""
_UNLISTED = "SELECT output, output_bytes, source FROM outputs ANTI JOIN listed ON key = output ORDER BY output"


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """What `ok` rows say of one EXR. `source` and `plan` are those of the latest row that names it."""

    key: str
    num_bytes: int
    sha256: str
    width: int
    height: int
    has_alpha: bool
    source_sha256: str
    pixel_digest: str
    weights_sha256: str
    source: str = field(compare=False)
    plan: int = field(compare=False)


class Ledger:
    """Rows and listing of one destination, to be compared when all of them are noted.

    Note the listing, then for each look at the manifest: `forget`, `distrust`, rows in ascending order of their plans,
    and `settle`; then ask. Every method raises DiskFullError where the temporary folder is full, SystemicError where
    DuckDB cannot go on.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self._number = 0

    def note_listing(self, objects: Iterable[ObjectInfo]) -> None:
        """Note every object below images/."""
        objects = iter(objects)
        while batch := list(islice(objects, _BATCH_ROWS)):
            columns = [[info.key for info in batch], [info.size_bytes for info in batch]]
            self._insert("listed", pa.table(columns, schema=_LISTING_SCHEMA))

    def forget(self) -> None:
        """Drop all but the listing."""
        self._waiting, self._num_waiting, self._number = [], 0, 0
        self._run(_FORGET)

    def distrust(self, outputs: Iterable[str]) -> None:
        """Note what repairs found bad."""
        self._insert("distrusted", pa.table([sorted(outputs)], schema=_KEY_SCHEMA))

    def note(self, rows: pa.Table, *, plan: int, adopts_earlier: bool, part: str) -> None:
        """Note consistent rows of one shard, with at least the manifest's columns of outputs and `collected_at`."""
        count = rows.num_rows
        columns = {name: rows[name] for name in _ROW_SCHEMA.names if name in rows.column_names}
        columns |= {
            "has_alpha": pc.fill_null(rows["has_alpha"], False),
            "is_collected": rows["collected_at"].is_valid(),
            "plan": pa.repeat(pa.scalar(plan, pa.int32()), count),
            "adopts_earlier": pa.repeat(pa.scalar(adopts_earlier), count),
            "part": pa.repeat(part, count),
            "number": pa.array(range(self._number, self._number + count), pa.int64()),
        }
        self._number += count
        self._waiting.append(pa.table([columns[name] for name in _ROW_SCHEMA.names], schema=_ROW_SCHEMA))
        self._num_waiting += count
        if self._num_waiting >= _BATCH_ROWS:
            self._flush()

    def settle(self) -> None:
        """Decide what is expected, now that every row is noted."""
        self._flush()
        self._run(_SETTLE)

    def contradicted(self) -> Iterator[tuple[str, str, str]]:
        """Yield output, source and part of each row that says otherwise of an output than the row before it."""
        for before, row in pairwise(self._rows(_CONTRADICTED)):
            if before[0] == row[0] and before[1] != row[1]:
                yield row[0], row[2], row[3]

    def current_collected(self) -> Iterator[tuple[str, str]]:
        """Yield source and output of each current row whose output was collected."""
        yield from self._rows(_CURRENT_COLLECTED)

    def other_sizes(self) -> Iterator[tuple[str, int, int, str]]:
        """Yield key, listed and expected size in bytes, and source, where the two differ; by key."""
        yield from self._rows(_OTHER_SIZES)

    def unnamed(self) -> Iterator[tuple[str, bool]]:
        """Yield the listed keys that no row names, or only rows that say it was collected (True); by key.

        Outputs that a repair replaced may be there or not. What may be an output that is not listed by its name, but by
        one that differs in case or in how accents are written alone, is none of them.
        """
        yield from self._rows(_UNNAMED)

    def has_listing(self) -> bool:
        """Whether anything lies below images/."""
        return next(self._rows("SELECT key FROM listed LIMIT 1"), None) is not None

    def has_outputs_below(self, folder: str) -> bool:
        """Whether a row's output lies below that folder."""
        sql = "SELECT output FROM outputs WHERE starts_with(output, ?) LIMIT 1"
        with _duckdb_errors():
            return self._connection.execute(sql, [f"{folder}/"]).fetchone() is not None

    def sources(self) -> Iterator[str]:
        """Yield the source of every row once, in no order."""
        for (source,) in self._rows("SELECT DISTINCT source FROM noted"):
            yield source

    def unlisted(self) -> Iterator[tuple[str, int, str]]:
        """Yield key, expected size in bytes and source of the expected outputs that are not listed; by key."""
        yield from self._rows(_UNLISTED)

    def num_outputs(self, share: float = 1.0) -> int:
        """Number of expected outputs, or of those in the sample of that share."""
        return int(next(self._rows(f"SELECT count(*) FROM outputs WHERE {_sampled(share)}"))[0])  # noqa: S608

    def sample(self, share: float) -> Iterator[ExpectedOutput]:
        """Yield a fixed share (0 to 1) of the expected outputs, chosen by a hash of the key; by key.

        The one of the lowest hash is in every share but 0, however few outputs there are.
        """
        sql = f"SELECT output, {_AGREED}, source, plan FROM outputs WHERE {_sampled(share)} ORDER BY output"  # noqa: S608
        for row in self._rows(sql):
            yield ExpectedOutput(*row)

    def _flush(self) -> None:
        if self._waiting:
            self._insert("noted", pa.concat_tables(self._waiting), f", hash({_AGREED})")
            self._waiting, self._num_waiting = [], 0

    def _insert(self, table: str, rows: pa.Table, more: str = "") -> None:
        with _duckdb_errors():
            self._connection.register("batch", rows)
            self._connection.execute(f"INSERT INTO {table} SELECT *{more} FROM batch")  # noqa: S608
            self._connection.unregister("batch")

    def _run(self, sql: str) -> None:
        with _duckdb_errors():
            self._connection.execute(sql)

    def _rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Stream a result; cursors of their own let results be read beside each other."""
        with _duckdb_errors():
            cursor = self._connection.cursor().execute(sql)
            while rows := cursor.fetchmany(_FETCH_ROWS):
                yield from rows


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """A ledger in a folder of its own below TMPDIR, which is gone afterwards. Raises as a Ledger does."""
    with tempfile.TemporaryDirectory(prefix="hdrfleet-verify-") as folder, _duckdb_errors():
        connection = duckdb.connect(f"{folder}/ledger.duckdb", config=_OPTIONS | {"temp_directory": folder})
        try:
            connection.execute(_TABLES)
            yield Ledger(connection)
        finally:
            connection.close()


def _sampled(share: float) -> str:
    """The condition on a key in SQL: the first 64 bits of its SHA-256, as hex digits, or the lowest of all."""
    bound = -int(-share * _HASH_SPACE // 1)
    if bound <= 0 or bound >= _HASH_SPACE:
        return "true" if bound > 0 else "false"
    lowest = "(SELECT min_by(output, sha256(output)) FROM outputs)"
    return f"(left(sha256(output), 16) < '{bound:016x}' OR output = {lowest})"


@contextmanager
def _duckdb_errors() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:  # memory or disk: the SQL is ours
        if "No space left" in str(error) or "out of disk" in str(error).lower():
            raise DiskFullError("no space left to compare the rows; set TMPDIR to a larger disk") from error
        raise SystemicError(f"rows and listing could not be compared: {first_line(error)}") from error
