"""The manifest: one row per input image, in Parquet; a part's existence commits its shard.

`schema` says what a row is, `writer` commits parts, `reader` reads them back, `query` and `summary` answer questions.
`compaction` merges parts into a generation, whose files `generation` writes and reads and whose `head` commits it;
`snapshot` says what counts; `collected` and `distrusted` say which outputs nobody may adopt.
"""

from pipeline.manifest.collected import CollectedOutputs
from pipeline.manifest.compaction import Compaction, compact
from pipeline.manifest.distrusted import DistrustedOutputs
from pipeline.manifest.parts import part_key
from pipeline.manifest.query import FAILED_ROWS, run_query, took_too_long
from pipeline.manifest.reader import Manifest, committed_parts, completed_shards, open_manifest
from pipeline.manifest.schema import COLUMNS, RUN_COLUMNS, SCHEMA, SCHEMA_VERSION
from pipeline.manifest.summary import SUMMARY_COLUMNS, ManifestSummary, summarise
from pipeline.manifest.writer import commit_part, rows_to_part

__all__ = [
    "COLUMNS",
    "FAILED_ROWS",
    "RUN_COLUMNS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "SUMMARY_COLUMNS",
    "CollectedOutputs",
    "Compaction",
    "DistrustedOutputs",
    "Manifest",
    "ManifestSummary",
    "commit_part",
    "committed_parts",
    "compact",
    "completed_shards",
    "open_manifest",
    "part_key",
    "rows_to_part",
    "run_query",
    "summarise",
    "took_too_long",
]
