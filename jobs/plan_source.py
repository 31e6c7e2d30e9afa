"""What a source holds, without reading it: one pass over its listing, and a sample of headers for the pixels."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean, stdev

from pipeline.codecs.dimensions import read_dimensions
from pipeline.config import ShardingConfig
from pipeline.errors import ImageError, ObjectDeniedError, ObjectMissingError, SourceError, StorageError, SystemicError
from pipeline.records import ImageTask
from pipeline.sharding import SourceListing, estimate_megapixels, is_on_web, plan_shards

_NUM_THREADS = 8
_NUM_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class SourceEstimate:
    """Counts are exact; `megapixels` is of all images, with a 95 % interval where headers were sampled, else None.

    `num_unknown` of the `num_sampled` headers did not say how large the image is: those were estimated from bytes.
    `num_unreadable` are no image, missing or denied: they count as no pixels, for they will cost a row and no work.
    `megapixels_by_bytes` are what the files' sizes say: shards are cut, and workers counted, by these.
    """

    num_images: int
    num_bytes: int
    num_ignored: int
    num_unusable: int
    num_special: int
    num_shards: int
    num_sampled: int
    num_unknown: int
    num_unreadable: int
    unreadable_examples: tuple[str, ...]
    megapixels: float
    megapixels_low: float | None
    megapixels_high: float | None
    megapixels_by_bytes: float


def estimate_source(listing: SourceListing, sharding: ShardingConfig, *, num_headers: int, seed: int) -> SourceEstimate:
    """List the source once and read the headers of up to `num_headers` images, drawn evenly; the same for a seed.

    At most 256 KiB of each (and the directories of a TIFF). Without headers the pixels are what shards are cut by,
    which is rather above the truth. Raises SourceError where there is no image or the store cannot be read.
    """
    drawn = _Drawn(num_headers, seed)
    try:
        num_shards = sum(1 for _ in plan_shards(drawn.watch(listing.iterate()), 1, sharding))
        sizes = _measure(listing, drawn.sample)
    except (StorageError, SystemicError) as error:
        raise SourceError(f"cannot read the source: {error}") from error
    values = [megapixels for _, megapixels, _ in sizes]
    low, total, high = (None, drawn.estimated, None) if not values else _total(values, drawn.num_images)
    unreadable = [task.source for task, _, fate in sizes if fate == "unreadable"]
    return SourceEstimate(
        num_images=drawn.num_images,
        num_bytes=drawn.num_bytes,
        num_ignored=listing.num_ignored,
        num_unusable=listing.counts.num_unusable,
        num_special=listing.counts.num_special,
        num_shards=num_shards,
        num_sampled=len(sizes),
        num_unknown=sum(fate == "unknown" for _, _, fate in sizes),
        num_unreadable=len(unreadable),
        unreadable_examples=tuple(unreadable[:_NUM_EXAMPLES]),
        megapixels=total,
        megapixels_low=low,
        megapixels_high=high,
        megapixels_by_bytes=drawn.estimated,
    )


class _Drawn:
    """Passes tasks on, counts them, and keeps an even sample of them (Vitter's algorithm R)."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = random.Random(seed)  # noqa: S311  a sample, no secret
        self.sample: list[ImageTask] = []
        self.num_images = self.num_bytes = 0
        self.estimated = 0.0

    def watch(self, tasks: Iterable[ImageTask]) -> Iterator[ImageTask]:
        for task in tasks:
            self.num_images += 1
            self.num_bytes += task.size_bytes
            self.estimated += estimate_megapixels(task)
            if len(self.sample) < self._size:
                self.sample.append(task)
            elif (place := self._random.randrange(self.num_images)) < self._size:
                self.sample[place] = task
            yield task


def _measure(listing: SourceListing, tasks: list[ImageTask]) -> list[tuple[ImageTask, float, str]]:
    def measure(task: ImageTask) -> tuple[ImageTask, float, str]:
        try:
            size = read_dimensions(lambda start, num: listing.store.read_range(task.key, start, num))
        except (ImageError, ObjectMissingError, ObjectDeniedError):
            return task, 0.0, "unreadable"
        except StorageError:
            if not is_on_web(task.key):
                raise
            return task, 0.0, "unreadable"  # one of any number of servers
        return (
            (task, estimate_megapixels(task), "unknown") if size is None else (task, size[0] * size[1] / 1e6, "known")
        )

    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="header") as pool:
        return list(pool.map(measure, tasks))


def _total(values: list[float], num_images: int) -> tuple[float, float, float]:
    """The mean of a sample without replacement times N, between the ends of Student's 95 % interval.

    mean +- t s sqrt((1 - n/N) / n), cut at what the sample itself holds. A few huge images that no sample met can lie
    beyond it: the interval is that of a mean whose distribution is near normal.
    """
    num, mean = len(values), fmean(values)
    if num == num_images:
        return sum(values), sum(values), sum(values)
    if num == 1:
        return sum(values), mean * num_images, math.inf
    half = _student_95(num - 1) * stdev(values) * math.sqrt((1 - num / num_images) / num)
    return max(sum(values), (mean - half) * num_images), mean * num_images, (mean + half) * num_images


def _student_95(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t: exact for 1 and 2, above that within 0.01 (series in 1/degrees)."""
    if degrees < 3:
        return {1: 12.706, 2: 4.303}[degrees]
    return 1.95996 + 2.37227 / degrees + 2.8225 / degrees**2 + 2.5559 / degrees**3 + 1.5896 / degrees**4
