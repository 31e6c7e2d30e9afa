"""Run a user's SQL over the manifest with DuckDB, and nothing else.

The SQL is untrusted: it may come from a web form in front of this function. The connection holds two views over
Arrow tables and has no files, network, extensions, secrets or Python variables to reach for.
"""

from __future__ import annotations

from threading import Timer

import duckdb
import pyarrow as pa

from pipeline.errors import QueryError, first_line
from pipeline.manifest.reader import Manifest

DEFAULT_MEMORY_LIMIT_BYTES = 2 * 2**30
FAILED_ROWS = "SELECT source, error_code, error_message FROM manifest WHERE error_code IS NOT NULL ORDER BY source"

# In this order: the last two close the door for good, and no later statement can open it again.
_LOCKDOWN = (
    "SET python_enable_replacements = false",  # `FROM table` must not find a Python variable of that name
    "SET python_scan_all_frames = false",
    "SET TimeZone = 'UTC'",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET secret_directory = ''",
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def run_query(
    manifest: Manifest,
    sql: str,
    *,
    timeout_s: float | None = None,
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
) -> pa.Table:
    """Run one SELECT-like statement over the views `manifest` (current rows) and `manifest_history` (all rows).

    SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW and SUMMARIZE count as such. DuckDB reads only the columns that the
    statement names. Integer sums come back as int64 where they fit; times are UTC. The whole result is held in memory.

    Raises QueryError, in one line, for anything else: invalid SQL, another kind of statement, more than one, access
    to anything outside, a spent `timeout_s` or `memory_limit_bytes` (DuckDB's working memory, without the result).
    `timeout_s` is looked at between rows and operators: one expression that computes for longer ends first. Ctrl-C
    raises KeyboardInterrupt.
    """
    connection = duckdb.connect(":memory:")
    try:
        _require_one_select(connection, sql)
        connection.register("manifest", manifest.current)
        connection.register("manifest_history", manifest.history)
        connection.execute(f"SET memory_limit = '{memory_limit_bytes // 2**20}MiB'")
        for statement in _LOCKDOWN:
            connection.execute(statement)
        return _plain_integers(_fetch(connection, sql, timeout_s))
    except duckdb.Error as error:
        raise QueryError(_explained(error)) from error
    except RuntimeError as error:
        # DuckDB looks for signals while it works, and drops what their handler raised for an exception of its own.
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise
    finally:
        connection.close()


def took_too_long(timeout_s: float) -> QueryError:
    """The error of a query that has spent its time."""
    return QueryError(f"the query took longer than {timeout_s:g} s")


def _explained(error: duckdb.Error) -> str:
    """Its first line, with what there is in place of a name that there is not."""
    if isinstance(error, duckdb.CatalogException) and "Table with name" in str(error):
        return f"{first_line(error)} The views are manifest and manifest_history"
    candidates = [line.strip() for line in str(error).splitlines() if line.startswith("Candidate bindings")]
    return " ".join([first_line(error), *candidates])


def _require_one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"expected one SELECT statement, found {len(statements)}")
    try:
        kind = statements[0].type
    except ValueError as error:  # UPDATE EXTENSIONS, for one, has a type that DuckDB's Python package does not know
        raise QueryError("only SELECT statements are allowed") from error
    if kind is not duckdb.StatementType.SELECT:
        raise QueryError(f"only SELECT statements are allowed, not {kind.name.replace('_', ' ')}")


def _fetch(connection: duckdb.DuckDBPyConnection, sql: str, timeout_s: float | None) -> pa.Table:
    if timeout_s is None:
        return connection.sql(sql).to_arrow_table()
    timer = Timer(timeout_s, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        return connection.sql(sql).to_arrow_table()
    except duckdb.InterruptException as error:
        raise took_too_long(timeout_s) from error
    finally:
        timer.cancel()


def _plain_integers(table: pa.Table) -> pa.Table:
    """DuckDB sums integers as 128-bit; turn such columns into int64, which every reader and JSON can take."""
    for index, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type) and field.type.scale == 0:
            try:
                column = table.column(index).cast(pa.int64())
            except pa.ArrowInvalid:
                continue  # a true 128-bit value keeps its type
            table = table.set_column(index, field.name, column)
    return table
