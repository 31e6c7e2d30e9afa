"""The end of a job, when fewer shards are left than workers: who can still be busy, and what to split. Pure.

A shard is committed by one process. A split lends images that its holder has not begun to idle workers; all of them
store what they do and return the rows, and whoever is free then commits the rows of all.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.execution.base import WorkSize

# Handing a part over costs two messages, fetching and decoding once more, and some idle moments of a device.
MIN_PART_S = 2.0
# A worker that is started for a part of a shard has to have so much work at least.
_MIN_WORK_PER_START_S = 20.0


@dataclass(frozen=True, slots=True)
class RemainingLease:
    """What is left of one lease: images not begun yet, and their estimated megapixels."""

    num_images: int
    megapixels: float


def num_worth_starting(size: WorkSize, num_shards: int, megapixels_per_s: float) -> int:
    """Workers that a run of `num_shards` can use: one for each, or for as much work of fewer large ones.

    `megapixels_per_s` is what one of them is believed to do, and `size` what the files' sizes say.
    """
    by_work = math.floor(size.megapixels / megapixels_per_s / _MIN_WORK_PER_START_S)
    return max(1, num_shards, min(by_work, size.num_images))


def num_busy_at_most(leases: Sequence[RemainingLease], num_workers: int, *, can_split: bool) -> int:
    """Workers that can have work at the same time: one per lease, or one per image where leases are split."""
    places = sum(lease.num_images if can_split else lease.num_images > 0 for lease in leases)
    return min(num_workers, places)


def num_helpers_at_most(leases: Sequence[RemainingLease], *, min_part_megapixels: float) -> int:
    """Workers without a lease that `leases` can give something to do, each a part of at least that size."""
    return sum(max(0, _num_parts_at_most(lease, min_part_megapixels) - 1) for lease in leases)


def _num_parts_at_most(lease: RemainingLease, min_part_megapixels: float) -> int:
    if min_part_megapixels <= 0:
        return lease.num_images
    return min(lease.num_images, math.floor(lease.megapixels / min_part_megapixels))


def tail_s(leases: Sequence[RemainingLease], num_workers: int, megapixels_per_s: float) -> float:
    """Seconds until the last of `leases` is done when workers take them in this order, each at `megapixels_per_s`."""
    if num_workers < 1 or megapixels_per_s <= 0:
        msg = f"{num_workers} workers at {megapixels_per_s} MP/s finish nothing"
        raise ValueError(msg)
    ends = [0.0] * num_workers
    for lease in leases:
        heapq.heapreplace(ends, ends[0] + lease.megapixels / megapixels_per_s)
    return max(ends)


def split_tail(leases: Sequence[RemainingLease], num_idle: int, *, min_part_megapixels: float = 0.0) -> tuple[int, ...]:
    """Into how many parts each of `leases` is cut so that `num_idle` workers help: 1 leaves a lease alone.

    Each idle worker in turn goes to the lease whose parts are largest, which makes the largest part as small as
    parting can (equal parts; greedy is optimal, for the largest part only shrinks by helping there). No lease gets more
    parts than images, nor parts below `min_part_megapixels`, at which handing over costs more than it saves.
    """
    parts = [1] * len(leases)
    queue = [(-lease.megapixels, index) for index, lease in enumerate(leases)]
    heapq.heapify(queue)
    left = num_idle
    while left > 0 and queue:
        _, index = heapq.heappop(queue)
        lease, num = leases[index], parts[index] + 1
        size = lease.megapixels / num
        if num > lease.num_images or size < min_part_megapixels or lease.megapixels <= 0:
            continue
        parts[index], left = num, left - 1
        heapq.heappush(queue, (-size, index))
    return tuple(parts)
