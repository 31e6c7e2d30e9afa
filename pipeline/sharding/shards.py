"""Cut a listing into shards: pure, streamed and deterministic.

A shard is what one worker leases and commits at once, so its size trades two costs. Small shards cost one manifest
part and one scheduling round trip each; large ones cost more work done again when a worker is lost, and a longer tail
at the end of a job. 64 images or 256 megapixels is 20 to 64 camera images: seconds on a GPU, minutes on a CPU.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pipeline.config import ShardingConfig
from pipeline.records import ImageTask, Shard

# Pixels per byte, at the upper end of what photographs take in each format, so that a shard is rather too small than
# too large. JPEG: 20 photographs above 0.5 megapixels measured 1.2 to 8.6, straight from cameras 2 to 4. PNG: 16-bit
# and photographs 0.3 to 0.6, gray up to 1.9. TIFF: 8-bit RGB 0.33 uncompressed, about twice that with LZW or Deflate.
# WebP up to 9; HEIC and AVIF about twice as dense as JPEG.
PIXELS_PER_BYTE = {
    **dict.fromkeys((".png", ".apng"), 2.0),
    **dict.fromkeys((".tif", ".tiff"), 1.0),
    ".webp": 10.0,
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif"), 16.0),
    **dict.fromkeys((".avif", ".avifs"), 20.0),
}
JPEG_PIXELS_PER_BYTE = 8.0
UNKNOWN_SIZE_MEGAPIXELS = 12.0
_SIZE_ALONE = "\0size "  # begins no etag


def estimate_megapixels(task: ImageTask) -> float:
    """Estimate an image's megapixels from its bytes and extension, rather above the truth than below.

    No header is read: on a bucket that would cost one request per image. Extensions other than those in
    `PIXELS_PER_BYTE` count as JPEG; an image of unknown size (0 bytes) as 12 megapixels.
    """
    if task.size_bytes <= 0:
        return UNKNOWN_SIZE_MEGAPIXELS
    extension = posixpath.splitext(task.source)[1].lower()
    return task.size_bytes * PIXELS_PER_BYTE.get(extension, JPEG_PIXELS_PER_BYTE) / 1e6


def plan_shards(tasks: Iterable[ImageTask], plan: int, config: ShardingConfig) -> Iterator[Shard]:
    """Cut `tasks`, in their order, into shards numbered from 0.

    A shard closes at `max_images`, or before the image that would take its estimated pixels beyond `max_megapixels`;
    an image beyond that on its own gets a shard of its own.
    """
    shard = 0
    members: list[ImageTask] = []
    megapixels = 0.0
    for task in tasks:
        estimate = estimate_megapixels(task)
        if members and (len(members) >= config.max_images or megapixels + estimate > config.max_megapixels):
            yield Shard(plan, shard, tuple(members))
            shard, members, megapixels = shard + 1, [], 0.0
        members.append(task)
        megapixels += estimate
    if members:
        yield Shard(plan, shard, tuple(members))


def changed_tasks(listing: Iterable[ImageTask], known: Mapping[str, tuple[str, int]]) -> Iterator[ImageTask]:
    """Yield what the next plan takes up: new sources as revision 1, changed ones as the next revision.

    Changed is what has another etag; where none was known when it was planned, another size, if both are known. `known`
    holds the latest planned (version, revision) by source, as `load_inventory` returns it. Planned sources that are no
    longer listed are left alone.
    """
    for task in listing:
        latest = known.get(task.source)
        if latest is None:
            yield task
        elif _has_changed(latest[0], task):
            yield replace(task, revision=latest[1] + 1)


def planned_version(etag: str, size_bytes: int) -> str:
    """What tells a later listing of an image whether it has changed: its etag, or its size where there is none."""
    return etag or f"{_SIZE_ALONE}{size_bytes}"


def _has_changed(version: str, task: ImageTask) -> bool:
    if not version.startswith(_SIZE_ALONE):
        return version != task.etag
    planned_bytes = int(version.removeprefix(_SIZE_ALONE))
    return 0 not in (planned_bytes, task.size_bytes) and planned_bytes != task.size_bytes
