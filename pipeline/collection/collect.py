"""A collection, step by step; each is whole by itself, and the next collection does what a killed one left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.collection.leftovers import find_leftovers, find_plan_parts
from pipeline.collection.revisions import find_given_up, find_superseded, mark_superseded, sizes_of
from pipeline.faults import fault_point
from pipeline.storage import ObjectStore

_NUM_THREADS = 16
_NUM_EXAMPLES = 5
# Deleted between two looks at whether the destination is still ours: seconds of work.
_BATCH_KEYS = 256


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection deleted, or would delete.

    `num_marked` outputs were given up by this one; `num_outputs` were there and are deleted, with `output_bytes`.
    `examples` are up to five of the deleted keys of each kind.
    """

    is_dry_run: bool
    num_marked: int
    num_outputs: int
    output_bytes: int
    num_parts: int
    num_heads: int
    num_generation_files: int
    num_plan_parts: int
    examples: tuple[str, ...]

    @property
    def num_deleted(self) -> int:
        """Objects of all kinds."""
        counts = (self.num_outputs, self.num_parts, self.num_heads, self.num_generation_files, self.num_plan_parts)
        return sum(counts)


def collect(
    store: ObjectStore,
    *,
    keep_revisions: int | None = None,
    older_than: timedelta = timedelta(hours=1),
    dry_run: bool = False,
    now: datetime | None = None,
    before_step: Callable[[], None] = lambda: None,
) -> Collection:
    """Delete what nothing needs and nothing has needed for `older_than`.

    With `keep_revisions`, outputs beyond the newest that many of each source are given up, but never the one of a
    current row; without, no output is given up. Outputs that an earlier collection gave up are deleted either way. Safe
    beside running jobs, queries and compactions, where the store decides races; `before_step` is asked before a
    generation is committed and before every 256 deletions, and raises where it must not go on. Raises what that raises,
    ValueError for `keep_revisions` below 1, ManifestError where the manifest is not whole (nothing is deleted then),
    StorageError.
    """
    if keep_revisions is not None and keep_revisions < 1:
        msg = f"keep_revisions must be at least 1, not {keep_revisions}"
        raise ValueError(msg)
    now = now or datetime.now(UTC)
    cutoff = now - older_than
    num_marked, marked = 0, set[str]()
    if keep_revisions is not None and dry_run:
        marked = find_superseded(store, keep_revisions, cutoff)
        num_marked = len(marked)
    elif keep_revisions is not None:
        num_marked = mark_superseded(store, keep_revisions, cutoff, now, before_step)
    # Only now, with the marks in place, is it known what nobody can still take up.
    outputs = sizes_of(store, marked | find_given_up(store))
    leftovers, plan_parts = find_leftovers(store, cutoff), find_plan_parts(store, cutoff)
    kinds = (sorted(outputs), leftovers.parts, leftovers.heads, leftovers.generation_files, plan_parts)
    if not dry_run:
        for keys in kinds:
            _delete(store, keys, before_step)
    return Collection(
        is_dry_run=dry_run,
        num_marked=num_marked,
        num_outputs=len(outputs),
        output_bytes=sum(outputs.values()),
        num_parts=len(leftovers.parts),
        num_heads=len(leftovers.heads),
        num_generation_files=len(leftovers.generation_files),
        num_plan_parts=len(plan_parts),
        examples=tuple(key for keys in kinds for key in keys[:_NUM_EXAMPLES]),
    )


def _delete(store: ObjectStore, keys: Sequence[str], before_step: Callable[[], None]) -> None:
    def delete(key: str) -> None:
        store.delete(key)
        fault_point("collection.deleted", key)

    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="collect") as pool:
        for start in range(0, len(keys), _BATCH_KEYS):
            before_step()
            for _ in pool.map(delete, keys[start : start + _BATCH_KEYS]):
                pass
