"""What counts at one moment: the highest head, and the parts that it does not cover."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.manifest.head import Head, newest_head
from pipeline.manifest.parts import MANIFEST_PREFIX, PartRef, parse_part_key
from pipeline.storage.base import ObjectStore


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The committed shards, once each. `parts` are those that `head` does not cover, by plan and shard.

    `tombstones` are parts that lie at the keys of covered shards: nobody reads them.
    """

    head: Head | None
    parts: tuple[PartRef, ...]
    tombstones: tuple[PartRef, ...]

    def covers(self, plan: int, shard: int) -> bool:
        """Whether the head stands for this shard."""
        return self.head is not None and self.head.covers(plan, shard)

    def committed(self) -> dict[int, set[int]]:
        """The committed shards by plan, the lowest plan first."""
        found: dict[int, set[int]] = {}
        for part in self.parts:
            found.setdefault(part.plan, set()).add(part.shard)
        if self.head is not None:
            for plan in self.head.covered:
                found.setdefault(plan, set()).update(self.head.covered_shards(plan))
        return dict(sorted(found.items()))


def take_snapshot(store: ObjectStore, plan: int | None = None) -> Snapshot:
    """Look what counts, of all plans or of one. Lists keys and reads the head.

    Parts are listed before the head is: a part that a collection removed before it was listed is covered by a head that
    was there by then, so no committed shard is missed. Raises ManifestError for a head that cannot be read or is of a
    newer release; StorageError.
    """
    prefix = MANIFEST_PREFIX if plan is None else f"{MANIFEST_PREFIX}/plan={plan}"
    listed = sorted(ref for info in store.list(prefix) if (ref := parse_part_key(info.key)))
    head = newest_head(store)
    parts: list[PartRef] = []
    tombstones: list[PartRef] = []
    for ref in listed:
        is_covered = head is not None and head.covers(ref.plan, ref.shard)
        (tombstones if is_covered else parts).append(ref)
    return Snapshot(head, tuple(parts), tuple(tombstones))
