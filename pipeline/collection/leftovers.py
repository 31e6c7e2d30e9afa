"""What a newer head or a committed plan made superfluous: covered parts, superseded generations, files nobody names.

The highest head that is older than the grace period is the settled one: whoever reads began after it, so what it stands
for or superseded is read no more. Files are judged by their number, not by their age: those of a generation or plan
that is not committed yet may still be named.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.errors import ObjectMissingError
from pipeline.manifest.generation import check_files
from pipeline.manifest.head import (
    MAX_LOOKS,
    GenerationFile,
    Head,
    generation_number,
    head_key,
    list_heads,
    read_head,
)
from pipeline.manifest.parts import MANIFEST_PREFIX, PartRef
from pipeline.manifest.snapshot import take_snapshot
from pipeline.sharding import plan_folder, read_plan_summaries
from pipeline.sharding.plan import PLAN_PREFIX
from pipeline.storage import ObjectStore

_PLAN_PART = re.compile(rf"({PLAN_PREFIX}/[1-9][0-9]*)/part-[^/]+\.parquet")


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Keys to delete, in this order: a head goes before the files that it names."""

    parts: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    generation_files: tuple[str, ...] = ()


def find_leftovers(store: ObjectStore, cutoff: datetime) -> Leftovers:
    """Find what the head that was committed at `cutoff` or before made superfluous.

    The files of the newest head that hold the rows instead are read first: nothing goes for a file that is not whole.
    Raises ManifestError where one is not, StorageError.
    """
    for _ in range(MAX_LOOKS - 1):
        try:
            return _find_leftovers(store, cutoff)
        except ObjectMissingError:
            continue  # another collection was faster
    return _find_leftovers(store, cutoff)


def _find_leftovers(store: ObjectStore, cutoff: datetime) -> Leftovers:
    heads = list_heads(store)
    settled = 0
    for generation, info in heads.items():
        created_at = info.modified_at or datetime.fromisoformat(read_head(store, generation).created_at)
        if created_at <= cutoff:
            settled = generation
    if not settled:
        return Leftovers()
    kept = {number: read_head(store, number) for number in heads if number >= settled}
    named = {key for head in kept.values() for key in head.file_keys()}
    parts = [ref for ref in take_snapshot(store).tombstones if kept[settled].covers(ref.plan, ref.shard)]
    files = [
        info.key
        for info in store.list(MANIFEST_PREFIX)
        if (number := generation_number(info.key)) is not None and number <= settled and info.key not in named
    ]
    found = Leftovers(
        tuple(ref.key for ref in parts), tuple(head_key(number) for number in heads if number < settled), tuple(files)
    )
    if found != Leftovers():
        newest = kept[max(kept)]
        check_files(store, newest, _standing_in(newest, kept.get(min(heads)) or read_head(store, min(heads)), parts))
    return found


def _standing_in(newest: Head, oldest: Head, parts: Sequence[PartRef]) -> list[GenerationFile]:
    """Those files of `newest` that alone hold rows of what is to be deleted: of `parts`, or of another file.

    A file that the oldest head names too replaced no other file since, and was read when the parts of its shards went.
    """
    known = {file.key for file in oldest.files}
    keys = sorted((part.plan, part.shard) for part in parts)
    return [
        file
        for file in newest.files
        if file.key not in known or bisect_right(keys, file.last) > bisect_left(keys, file.first)
    ]


def find_plan_parts(store: ObjectStore, cutoff: datetime) -> tuple[str, ...]:
    """Parts of plans that were committed at `cutoff` or before and do not name them: a planner lost, or was killed."""
    named = {
        plan_folder(plan.plan): {f"{plan_folder(plan.plan)}/{part.name}" for part in plan.parts}
        for plan in read_plan_summaries(store)
        if datetime.fromisoformat(plan.created_at) <= cutoff
    }
    return tuple(
        info.key
        for info in store.list(PLAN_PREFIX)
        if (match := _PLAN_PART.fullmatch(info.key)) and info.key not in named.get(match[1], {info.key})
    )
