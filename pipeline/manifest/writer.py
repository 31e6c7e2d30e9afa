"""Write a manifest part: the rows of one shard, whose creation commits the shard."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ManifestError, ObjectExistsError, ObjectMissingError, first_line
from pipeline.manifest.generation import GenerationReader
from pipeline.manifest.head import MAX_LOOKS, newest_head
from pipeline.manifest.parts import part_key, read_part
from pipeline.manifest.schema import (
    META_ATTEMPT,
    META_PLAN,
    META_SCHEMA_VERSION,
    META_SHARD,
    SCHEMA,
    SCHEMA_VERSION,
    STATISTIC_COLUMNS,
)
from pipeline.manifest.seal import META_SEAL, UNSEALED, seal
from pipeline.records import (
    ConversionStatus,
    ImageFailure,
    ImageResult,
    ImageTask,
    InferenceInfo,
    LdrInfo,
    OutputInfo,
    Provenance,
    Shard,
    ShardResult,
)
from pipeline.storage import ObjectStore, redact_url

MAX_MESSAGE_CHARS = 500
_WHAT_NEXT = "; hdrfleet verify DST says what else contradicts itself there"

Row = dict[str, object]


def rows_to_part(results: Sequence[ImageResult], shard: Shard, attempt: int, provenance: Provenance) -> bytes:
    """Encode the shard's rows, in the order of `shard.tasks`, as one Parquet file (zstd).

    `provenance` is that of the rows that have none of their own. The same arguments give the same bytes, whatever the
    order of `results`. Raises ManifestError unless there is
    exactly one result for each task and each result is consistent: an output where the status is ok, an error code
    where it is not, times with a zone.
    """
    by_source = _matched(results, shard)
    rows = [_row(by_source[task.source], shard, attempt, provenance) for task in shard.tasks]
    metadata = {
        META_SCHEMA_VERSION: str(SCHEMA_VERSION).encode(),
        META_PLAN: str(shard.plan).encode(),
        META_SHARD: str(shard.shard).encode(),
        META_ATTEMPT: str(attempt).encode(),
        META_SEAL: UNSEALED,
    }
    sink = io.BytesIO()
    try:
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        # A part is small and read whole, so statistics, dictionaries and a copy of the Arrow schema would only cost:
        # with them 64 rows take 23 KB instead of 11.
        with pq.ParquetWriter(
            sink, SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False, store_schema=False
        ) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(metadata)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        reason = first_line(error)
        raise ManifestError(f"{part_key(shard.plan, shard.shard)}: a row does not fit the schema ({reason})") from error
    return seal(sink.getvalue())


def commit_part(
    store: ObjectStore, results: Sequence[ImageResult], shard: Shard, attempt: int, provenance: Provenance
) -> ShardResult:
    """Commit the shard: create its part, or accept the one that another attempt committed first.

    The result's `attempt` is the caller's; where `committed` is False its counts are those of the stored rows. A
    stored part of the very same bytes is this call's own success whose answer was lost. A part that is created after
    its shard was compacted and its predecessor collected is nobody's: the rows of the generation count. Raises
    ManifestError where what is stored is damaged or is not of this shard, these sources, or these weights and pixel
    options; StorageError.
    """
    key = part_key(shard.plan, shard.shard)
    data = rows_to_part(results, shard, attempt, provenance)
    stored: bytes | None = data
    try:
        store.create(key, data)
    except ObjectExistsError:
        try:
            stored = store.read(key)
        except ObjectMissingError:
            stored = None  # collected in between: its generation has the rows
    committed = stored == data
    # The head is looked for after the part was created: a generation that covered the shard before is there by now.
    rows = _compacted_rows(store, shard) if stored is None or committed else None
    if rows is not None:
        committed = committed and _is_attempt(rows, results, attempt, provenance)
    elif stored is None:
        raise ManifestError(f"{key}: appeared and vanished; is something else deleting here?")
    else:
        rows = read_part(stored, key).rows
    _require_same_shard(rows, shard, provenance, key)
    ok = pc.equal(rows["status"], ConversionStatus.OK.value)
    num_ok = pc.sum(ok).as_py() or 0
    return ShardResult(
        plan=shard.plan,
        shard=shard.shard,
        attempt=attempt,
        committed=committed,
        num_ok=num_ok,
        num_failed=rows.num_rows - num_ok,
        megapixels=pc.sum(rows["megapixels"].filter(ok)).as_py() or 0.0,
        failures=_failures(rows.filter(pc.invert(ok))),
    )


def _failures(rows: pa.Table) -> tuple[ImageFailure, ...]:
    columns = (rows[name].to_pylist() for name in ("source", "error_code", "error_message"))
    return tuple(
        ImageFailure(source, code or "", message or "") for source, code, message in zip(*columns, strict=True)
    )


def clean_message(text: str) -> str:
    """One printable line of at most `MAX_MESSAGE_CHARS` characters, with the secrets taken out."""
    text = redact_url(_printable(text))
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


def _printable(text: str) -> str:
    """Fold white space; show as escapes what a terminal or UTF-8 would choke on (file names, profile texts)."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _matched(results: Sequence[ImageResult], shard: Shard) -> dict[str, ImageResult]:
    key = part_key(shard.plan, shard.shard)
    by_source: dict[str, ImageResult] = {}
    for result in results:
        if result.task.source in by_source:
            raise ManifestError(f"{key}: two results for {result.task.source}")
        by_source[result.task.source] = result
    for task in shard.tasks:
        found = by_source.get(task.source)
        if found is None:
            raise ManifestError(f"{key}: no result for {task.source}")
        if found.task != task:
            raise ManifestError(f"{key}: the result for {task.source} belongs to another task")
    # Results are unique and cover all tasks: equal numbers leave no room for a surplus result or a task twice.
    if len(results) != len(shard.tasks):
        raise ManifestError(f"{key}: {len(results)} results for {len(shard.tasks)} tasks")
    return by_source


def _require_consistent(result: ImageResult) -> None:
    source = result.task.source
    ok = result.status is ConversionStatus.OK
    if ok and (result.output is None or result.error_code is not None):
        raise ManifestError(f"{source}: an ok row needs an output and no error code")
    if not ok and (result.error_code is None or result.output is not None):
        raise ManifestError(f"{source}: a {result.status} row needs an error code and no output")
    if result.started_at.tzinfo is None or result.finished_at.tzinfo is None:
        raise ManifestError(f"{source}: started_at and finished_at need a time zone")


def _row(result: ImageResult, shard: Shard, attempt: int, provenance: Provenance) -> Row:
    _require_consistent(result)
    stats = asdict(result.stats) if result.stats else dict.fromkeys(STATISTIC_COLUMNS)
    return {
        **_task_columns(result.task),
        "source_sha256": result.source_sha256,
        "status": result.status.value,
        "error_code": result.error_code,
        "error_message": None if result.error_message is None else clean_message(result.error_message),
        **_image_columns(result.image),
        "warnings": [*(result.image.warnings if result.image else ()), *result.warnings],
        **_inference_columns(result.inference),
        **_output_columns(result.output, result.task),
        **asdict(result.provenance or provenance),
        "plan": shard.plan,
        "shard": shard.shard,
        "attempt": attempt,
        "started_at": result.started_at.astimezone(UTC),
        "finished_at": result.finished_at.astimezone(UTC),
        **asdict(result.timings),
        **stats,
    }


def _task_columns(task: ImageTask) -> Row:
    return {"source": task.source, "source_etag": task.etag or None, "source_bytes": task.size_bytes}


def _image_columns(image: LdrInfo | None) -> Row:
    if image is None:
        return {}
    return {
        "format": image.format,
        "mode": image.mode,
        "width": image.width,
        "height": image.height,
        "megapixels": image.width * image.height / 1e6,
        "bit_depth": image.bit_depth,
        "orientation": image.orientation,
        "icc_profile": None if image.icc_profile is None else _printable(image.icc_profile),
        "has_alpha": image.has_alpha,
        "num_frames": image.num_frames,
    }


def _inference_columns(inference: InferenceInfo | None) -> Row:
    if inference is None:
        return {}
    columns: Row = asdict(inference)
    columns["tiles"] = columns.pop("num_tiles")
    return columns


def _output_columns(output: OutputInfo | None, task: ImageTask) -> Row:
    if output is None:
        return {"revision": task.revision}
    return {
        "output": output.path,
        "output_bytes": output.num_bytes,
        "output_sha256": output.sha256,
        "revision": output.revision,
        "num_half_overflow": output.num_half_overflow,
        "exposure_ev": output.exposure_ev,
        "adopted": output.adopted,
        "verified": output.verified,
    }


def _compacted_rows(store: ObjectStore, shard: Shard) -> pa.Table | None:
    """The rows of a shard that the newest head covers; None where it covers it not."""
    for _ in range(MAX_LOOKS):
        head = newest_head(store)
        if head is None or not head.covers(shard.plan, shard.shard):
            return None
        try:
            return GenerationReader(store, head, SCHEMA.names).shard(shard.plan, shard.shard)
        except ObjectMissingError:
            continue  # superseded and collected in between
    raise ManifestError(f"shard {shard.shard} of plan {shard.plan}: the newest head names files that are not there")


def _is_attempt(rows: pa.Table, results: Sequence[ImageResult], attempt: int, provenance: Provenance) -> bool:
    """Whether compacted rows are this very attempt's, compacted before it looked."""
    makers = {result.task.source: result.provenance or provenance for result in results}
    ours = {(source, maker.worker, maker.node, attempt) for source, maker in makers.items()}
    columns = (rows[name].to_pylist() for name in ("source", "worker", "node", "attempt"))
    return set(zip(*columns, strict=True)) == ours


def _require_same_shard(rows: pa.Table, shard: Shard, provenance: Provenance, key: str) -> None:
    if rows["source"].to_pylist() != [task.source for task in shard.tasks]:
        raise ManifestError(f"{key}: the stored part lists other sources than this shard{_WHAT_NEXT}")
    for name in ("weights_sha256", "pixel_digest"):
        ours = getattr(provenance, name)
        if any(theirs != ours for theirs in rows[name].unique().to_pylist()):
            raise ManifestError(f"{key}: the stored part was made with another {name}{_WHAT_NEXT}")
