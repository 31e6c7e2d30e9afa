"""Plans as the destination stores them: immutable, numbered from 1, committed by their `plan.json`.

`_hdrfleet/plan/<n>/part-<k>-<digest>.parquet` hold the images, shard by shard; `_hdrfleet/plan/<n>/plan.json` names
the parts with their SHA-256 and is created last. Everything is created, never overwritten. Of two planners that race
for a number the first `plan.json` wins, and the other adopts it; parts are named by content, so they cannot clash, and
those that no `plan.json` names mean nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
from collections.abc import Container, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.errors import ManifestError, ObjectExistsError, ObjectMissingError, first_line
from pipeline.faults import fault_point
from pipeline.records import ImageTask, Shard
from pipeline.sharding.listing import SourceListing
from pipeline.sharding.plan_summary import PLAN_SCHEMA_VERSION, PlanPart, PlanSummary, digest_of
from pipeline.sharding.shards import estimate_megapixels, planned_version
from pipeline.storage import ObjectStore

PLAN_PREFIX = "_hdrfleet/plan"
MAX_PART_IMAGES = 50_000
PLAN_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("revision", pa.int32(), nullable=False),
    ]
)
_INVENTORY_COLUMNS = ["source", "etag", "size_bytes", "revision"]
_SHA_CHARS = 12
_PLAN_KEY = re.compile(rf"{PLAN_PREFIX}/([1-9][0-9]*)/plan\.json")


def plan_number(key: str) -> int | None:
    """Return the number of the plan that the object `key` commits; None for any other object."""
    match = _PLAN_KEY.fullmatch(key)
    return int(match[1]) if match else None


def plan_folder(plan: int) -> str:
    """Return the folder of a plan within the destination."""
    return f"{PLAN_PREFIX}/{plan}"


def write_plan(
    store: ObjectStore,
    plan: int,
    shards: Iterable[Shard],
    *,
    listing: SourceListing | None = None,
    adopts_earlier: bool = True,
    max_part_images: int = MAX_PART_IMAGES,
) -> PlanSummary | None:
    """Write and commit a plan; return what is committed under its number, or None when `shards` is empty.

    Streams: at most one part is in memory. An empty plan is never written. When another planner has committed this
    number meanwhile its plan is returned, whatever it holds; the same call again is therefore harmless. `listing`
    gives the counts of ignored files, read when `shards` is exhausted.
    """
    parts: list[PlanPart] = []
    num_shards = num_bytes = 0
    megapixels = 0.0
    for index, group in enumerate(_grouped(shards, max_part_images)):
        parts.append(_write_part(store, plan, index, group))
        fault_point("plan.part_written")
        num_shards += len(group)
        for shard in group:
            num_bytes += sum(task.size_bytes for task in shard.tasks)
            megapixels += sum(estimate_megapixels(task) for task in shard.tasks)
    if not parts:
        return None
    summary = PlanSummary(
        plan=plan,
        num_shards=num_shards,
        num_images=sum(part.num_images for part in parts),
        num_bytes=num_bytes,
        megapixels=round(megapixels, 3),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        num_ignored=listing.num_ignored if listing else 0,
        ignored_by_extension=listing.ignored_by_extension if listing else {},
        ignored_examples=tuple(listing.counts.ignored_examples) if listing else (),
        num_unusable=listing.counts.num_unusable if listing else 0,
        unusable_examples=tuple(listing.counts.unusable_examples) if listing else (),
        adopts_earlier=adopts_earlier,
        parts=tuple(parts),
    )
    document = summary.model_dump(mode="json")
    summary = summary.model_copy(update={"sha256": digest_of(document)})
    try:
        store.create(f"{plan_folder(plan)}/plan.json", summary.model_dump_json(indent=1).encode())
    except ObjectExistsError:
        return read_plan_summary(store, plan)
    fault_point("plan.committed")
    return summary


def read_plan_summary(store: ObjectStore, plan: int) -> PlanSummary:
    """Read a committed plan's summary. Raises ObjectMissingError where there is none, ManifestError for damage."""
    key = f"{plan_folder(plan)}/plan.json"
    data = store.read(key)
    try:
        summary = PlanSummary.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ManifestError(f"{key} is not a plan: {where} {first['msg']}".replace("\n", " ")) from error
    if summary.plan != plan or summary.schema_version != PLAN_SCHEMA_VERSION:
        raise ManifestError(f"{key} says plan {summary.plan}, schema version {summary.schema_version}")
    if summary.sha256 and summary.sha256 != digest_of(json.loads(data)):
        raise ManifestError(f"{key} is not what was committed: its SHA-256 differs from the one within it")
    return summary


def read_plan_summaries(store: ObjectStore) -> list[PlanSummary]:
    """Return all committed plans, the oldest first. Raises ManifestError for a damaged one."""
    numbers = (plan_number(info.key) for info in store.list(PLAN_PREFIX))
    return [read_plan_summary(store, plan) for plan in sorted(number for number in numbers if number is not None)]


def iter_shards(store: ObjectStore, plan: PlanSummary, skip: Container[int] = ()) -> Iterator[Shard]:
    """Stream the shards of a committed plan in order, without those in `skip`.

    Parts of which every shard is skipped are not read. Raises ManifestError when a part is missing, or is not the one
    that was planned.
    """
    for part in plan.parts:
        if all(shard in skip for shard in range(part.first_shard, part.last_shard + 1)):
            continue
        columns = [_read_part(store, plan, part).column(name).to_pylist() for name in PLAN_SCHEMA.names]
        for shard, rows in itertools.groupby(zip(*columns, strict=True), key=lambda row: int(row[0])):
            if shard not in skip:
                yield Shard(plan.plan, shard, tuple(ImageTask(*row[1:]) for row in rows), plan.adopts_earlier)


def load_inventory(store: ObjectStore, plans: Iterable[PlanSummary]) -> dict[str, tuple[str, int]]:
    """Return the latest planned (version, revision) by source over all `plans`; a higher plan wins.

    The version is the etag, or where there is none what `planned_version` says.

    Holds every source in memory: 270 bytes each were measured with names of 43 characters and MD5 etags. Raises
    ManifestError as `iter_shards`.
    """
    inventory: dict[str, tuple[str, int]] = {}
    for plan in sorted(plans, key=lambda summary: summary.plan):
        for part in plan.parts:
            for batch in _read_part(store, plan, part).select(_INVENTORY_COLUMNS).to_batches():
                sources, etags, sizes, revisions = (column.to_pylist() for column in batch.columns)
                versions = map(planned_version, etags, sizes)
                inventory.update(zip(sources, zip(versions, revisions, strict=True), strict=True))
    return inventory


def _grouped(shards: Iterable[Shard], max_images: int) -> Iterator[list[Shard]]:
    """Group whole shards into parts of at most `max_images`, or of one shard that is larger."""
    group: list[Shard] = []
    num_images = 0
    for shard in shards:
        if group and num_images + len(shard.tasks) > max_images:
            yield group
            group, num_images = [], 0
        group.append(shard)
        num_images += len(shard.tasks)
    if group:
        yield group


def _write_part(store: ObjectStore, plan: int, index: int, group: list[Shard]) -> PlanPart:
    rows = [(shard.shard, task) for shard in group for task in shard.tasks]
    columns: dict[str, list[Any]] = {"shard": [shard for shard, _ in rows]}
    for name in PLAN_SCHEMA.names[1:]:
        columns[name] = [getattr(task, name) for _, task in rows]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=PLAN_SCHEMA), sink, compression="zstd")
    data = sink.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"part-{index:05d}-{sha256[:_SHA_CHARS]}.parquet"
    # One that is there has the same content, from an earlier or concurrent attempt; iter_shards checks the digest.
    with contextlib.suppress(ObjectExistsError):
        store.create(f"{plan_folder(plan)}/{name}", data)
    return PlanPart(
        name=name, sha256=sha256, num_images=len(rows), first_shard=group[0].shard, last_shard=group[-1].shard
    )


def _read_part(store: ObjectStore, plan: PlanSummary, part: PlanPart) -> pa.Table:
    key = f"{plan_folder(plan.plan)}/{part.name}"
    try:
        data = store.read(key)
    except ObjectMissingError as error:
        raise ManifestError(f"{key} is missing although the plan is committed") from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise ManifestError(f"{key} is not the file that was planned: its SHA-256 differs")
    try:
        table = pq.read_table(io.BytesIO(data))
    except pa.ArrowException as error:
        raise ManifestError(f"{key} is not readable: {first_line(error)}") from error
    if table.schema.names != PLAN_SCHEMA.names or table.num_rows != part.num_images:
        raise ManifestError(f"{key} does not hold the columns and rows of a plan")
    shards = pc.unique(table.column("shard")).to_pylist()
    if shards != list(range(part.first_shard, part.last_shard + 1)):
        raise ManifestError(f"{key} does not hold the shards that plan.json says")
    return table
