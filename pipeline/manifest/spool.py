"""Rows in a temporary Arrow file that is mapped into memory and unlinked: they need disk, not memory."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from pipeline.errors import ConfigError, DiskFullError

SPOOL_BATCH_ROWS = 16_384


def spool(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Write the rows to a temporary Arrow file and map it; the file has no name any more when this returns.

    Raises DiskFullError or ConfigError where the temporary folder cannot hold them.
    """
    with _temporary_folder_errors(), tempfile.TemporaryDirectory(prefix="hdrfleet-manifest-") as folder:
        path = Path(folder) / "rows.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in _merged(tables):
                # Parts hold a few dozen rows each; one batch per part would cost every scan thousands of calls.
                writer.write_table(table.combine_chunks())
        return pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()


def _merged(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        waiting.append(table)
        num_rows += table.num_rows
        if num_rows >= SPOOL_BATCH_ROWS:
            yield pa.concat_tables(waiting)
            waiting, num_rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


@contextmanager
def _temporary_folder_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(
                "no space left for the manifest's temporary copy; set TMPDIR to a larger disk"
            ) from error
        raise ConfigError(f"the manifest needs a temporary folder; set TMPDIR to one that works ({error})") from error
