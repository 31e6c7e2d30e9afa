"""Parts of a manifest as another release, or a fault of this one, might have written them: whole, but not the same."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.manifest.seal import META_SEAL, UNSEALED, seal


def written_part(table: pa.Table, metadata: Mapping[bytes, bytes]) -> bytes:
    """The table as a Parquet file with this key-value metadata, sealed anew where that has a seal."""
    is_sealed = META_SEAL in metadata
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**metadata, **({META_SEAL: UNSEALED} if is_sealed else {})}), sink)
    return seal(sink.getvalue()) if is_sealed else sink.getvalue()
