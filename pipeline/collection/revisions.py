"""Outputs of old revisions: first their rows say that they are given up, then they are deleted.

Why a running job loses nothing: a collection commits a head that names the outputs, and only then looks for planned
work that is not committed; outputs of a source in such work are left alone. Work that is planned later refreshes its
view of the head before its first image and neither adopts nor makes what that names. One of the two sees the other,
without a clock. A collection that is killed between the head and the deletion leaves outputs that the next one deletes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ManifestError, SystemicError, first_line
from pipeline.manifest.compaction import commit_marked
from pipeline.manifest.head import newest_head
from pipeline.manifest.reader import Manifest, open_snapshot
from pipeline.manifest.schema import SCHEMA
from pipeline.manifest.snapshot import Snapshot
from pipeline.sharding import iter_shards, output_key, read_plan_summaries
from pipeline.sharding.names import OUTPUT_FOLDER
from pipeline.storage import ObjectStore
from pipeline.storage.keys import folded

_MAX_RACES = 5
_COLUMNS = ("source", "plan", "output", "revision", "finished_at", "collected_at")

# A store may take outputs for one whose names differ in case, or in how accents are written, alone.
_KEPT = "SELECT DISTINCT lower(nfc_normalize(output)) AS folded FROM current WHERE output IS NOT NULL"
# An output is superseded once its source has `keep` newer ones, since the first row of the oldest of these finished.
# Sources whose names differ in a scheme alone can share an output: it goes when all of them are done with it.
_SUPERSEDED = """
    WITH outputs AS (
        SELECT source, revision, output, min(finished_at) AS first_at
        FROM history WHERE output IS NOT NULL AND collected_at IS NULL GROUP BY ALL
    ), ranked AS (
        SELECT *, lag(first_at, {keep}) OVER (PARTITION BY source ORDER BY revision DESC, output) AS superseded_at
        FROM outputs
    ), superseded AS (
        SELECT output FROM ranked GROUP BY output HAVING bool_and(coalesce(superseded_at <= $cutoff, false))
    ), free AS (
        SELECT output FROM superseded
        ANTI JOIN ({kept}) ON lower(nfc_normalize(superseded.output)) = folded
    )
    SELECT source, output FROM ranked SEMI JOIN free USING (output)
"""
_GIVEN_UP = """
    WITH given_up AS (
        SELECT output FROM history WHERE output IS NOT NULL GROUP BY output HAVING bool_and(collected_at IS NOT NULL)
    ), free AS (
        SELECT output FROM given_up ANTI JOIN ({kept}) ON lower(nfc_normalize(given_up.output)) = folded
    )
    SELECT DISTINCT source, output FROM history SEMI JOIN free USING (output)
"""


def mark_superseded(
    store: ObjectStore,
    keep_revisions: int,
    cutoff: datetime,
    now: datetime,
    before_commit: Callable[[], None] = lambda: None,
) -> int:
    """Commit a generation whose rows say `collected_at` of every superseded output; return how many that are.

    Superseded since `cutoff` or earlier. None is no new generation, and costs a few columns alone. Raises ManifestError
    when other compactions were first again and again; StorageError; what `before_commit` raises, ahead of the head.
    """
    if not find_superseded(store, keep_revisions, cutoff):
        return 0
    for _ in range(_MAX_RACES):
        snapshot, manifest = open_snapshot(store)
        outputs = _free(store, snapshot, _superseded(manifest, keep_revisions, cutoff))
        if not outputs:
            return 0
        history, is_marked = _with_marks(manifest.history, outputs, now)
        if commit_marked(store, snapshot, history, is_marked, before_commit).won:
            return len(outputs)
    raise ManifestError(f"other compactions were first, {_MAX_RACES} times; run it again when they are done")


def find_superseded(store: ObjectStore, keep_revisions: int, cutoff: datetime) -> set[str]:
    """The outputs that `mark_superseded` would mark. Writes nothing."""
    snapshot, manifest = open_snapshot(store, columns=_COLUMNS)
    return _free(store, snapshot, _superseded(manifest, keep_revisions, cutoff))


def find_given_up(store: ObjectStore) -> set[str]:
    """The outputs whose rows all say that they were collected, and which no planned work may have adopted."""
    head = newest_head(store)
    if head is None or not head.collected:
        return set()
    snapshot, manifest = open_snapshot(store, columns=("source", "plan", "output", "collected_at"))
    return _free(store, snapshot, _pairs(manifest, _GIVEN_UP.format(kept=_KEPT)))


def sizes_of(store: ObjectStore, outputs: set[str]) -> dict[str, int]:
    """The sizes in bytes of those `outputs` that are there."""
    if not outputs:
        return {}
    return {info.key: info.size_bytes for info in store.list(OUTPUT_FOLDER) if info.key in outputs}


def _superseded(manifest: Manifest, keep_revisions: int, cutoff: datetime) -> list[tuple[str, str]]:
    return _pairs(manifest, _SUPERSEDED.format(keep=int(keep_revisions), kept=_KEPT), cutoff=cutoff)


def _pairs(manifest: Manifest, sql: str, **parameters: object) -> list[tuple[str, str]]:
    """Run our own SQL over the manifest; (source, output) of every row."""
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET temp_directory = '{}'".format(tempfile.gettempdir().replace("'", "''")))
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("history", manifest.history)
        connection.register("current", manifest.current)
        return [(source, output) for source, output in connection.execute(sql, parameters).fetchall()]
    except duckdb.Error as error:  # memory or disk: the SQL is ours
        raise SystemicError(f"the manifest's revisions could not be compared: {first_line(error)}") from error
    finally:
        connection.close()


def _free(store: ObjectStore, snapshot: Snapshot, pairs: list[tuple[str, str]]) -> set[str]:
    """The outputs of `pairs` but for those of sources in planned work that `snapshot` does not know as committed.

    Plans are read after the snapshot was taken: work that was committed in between counts as in work.
    """
    outputs_of: dict[str, set[str]] = {}
    for source, output in pairs:
        outputs_of.setdefault(_name(source), set()).add(output)
    outputs = {output for _, output in pairs}
    if outputs:
        for name in _names_in_work(store, snapshot, outputs_of.__contains__):
            outputs -= outputs_of[name]
    return outputs


def _names_in_work(store: ObjectStore, snapshot: Snapshot, is_wanted: Callable[[str], bool]) -> Iterable[str]:
    """The names of the tasks in shards that are not committed."""
    committed = snapshot.committed()
    for plan in read_plan_summaries(store):
        for shard in iter_shards(store, plan, skip=committed.get(plan.plan, set())):
            for task in shard.tasks:
                if is_wanted(name := _name(task.source)):
                    yield name


def _name(source: str) -> str:
    """A source's name among outputs: that of its first, and one for all that a store may take for it."""
    return folded(output_key(source, 1))


def _with_marks(history: pa.Table, outputs: set[str], now: datetime) -> tuple[pa.Table, pa.ChunkedArray]:
    """The rows with marks, and which rows got one."""
    field = SCHEMA.field("collected_at")
    marks = pc.and_(
        pc.is_in(history["output"], pa.array(sorted(outputs), pa.string())), pc.is_null(history["collected_at"])
    )
    column = pc.if_else(marks, pa.scalar(now, field.type), history["collected_at"])
    return history.set_column(history.schema.get_field_index(field.name), field, column), marks
