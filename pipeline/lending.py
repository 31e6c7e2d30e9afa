"""The images of one attempt that are not begun: the attempt takes them one by one, and can give some up for others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.faults import fault_point
from pipeline.records import ImageResult, ImageTask, Shard, ShardKey
from pipeline.sharding import estimate_megapixels


@dataclass(frozen=True, slots=True)
class OpenWork:
    """What is left of one lease: images that are not begun, and their estimated megapixels."""

    key: ShardKey
    num_images: int
    megapixels: float


class OpenImages:
    """Says of each image who does it: this attempt, or whoever it was ceded to. Safe for threads.

    Images in quarantine, and those whose rows are `known`, are nobody's any more.
    """

    def __init__(self, shard: Shard, known: Sequence[ImageResult] = ()) -> None:
        settled = {entry.source for entry in shard.quarantined} | {row.task.source for row in known}
        self.key = shard.key
        self._open = {task.source: task for task in shard.tasks if task.source not in settled}
        self._megapixels = sum(map(estimate_megapixels, self._open.values()))
        self._num_ceded = 0
        self._lock = threading.Lock()

    @property
    def has_ceded(self) -> bool:
        """Whether others do some of the images."""
        return self._num_ceded > 0

    def is_open(self, task: ImageTask) -> bool:
        """Whether the image may still be this attempt's."""
        return task.source in self._open

    def claim(self, task: ImageTask) -> bool:
        """Make the image this attempt's for good; False where it was ceded."""
        with self._lock:
            return self._take(task) is not None

    def _take(self, task: ImageTask) -> ImageTask | None:
        taken = self._open.pop(task.source, None)
        self._megapixels = max(0.0, self._megapixels - estimate_megapixels(taken)) if taken else self._megapixels
        return taken

    def left(self) -> OpenWork:
        """What could be ceded at the moment."""
        with self._lock:
            return OpenWork(self.key, len(self._open), self._megapixels if self._open else 0.0)

    def cede(self, num_parts: int) -> tuple[tuple[ImageTask, ...], ...]:
        """Keep the first of `num_parts` about equal parts of what is open, and give the others up.

        The first images are kept, for they are the ones that may be decoded already. Fewer parts come where there are
        fewer images.
        """
        with self._lock:
            tasks = list(self._open.values())
            num_kept = _num_within(tasks, self._megapixels / max(1, num_parts))
            ceded = tasks[num_kept:] if num_parts > 1 else []
            for task in ceded:
                self._take(task)
            self._num_ceded += len(ceded)
        if ceded:
            fault_point("images.ceded")
        return even_parts(ceded, num_parts - 1)


def even_parts(tasks: Sequence[ImageTask], num_parts: int) -> tuple[tuple[ImageTask, ...], ...]:
    """At most `num_parts` parts of about equal estimated megapixels, none of them empty, each in the given order.

    The largest image goes first, each to the part that is smallest by then (Graham's rule: within a third of the best).
    """
    parts: list[list[int]] = [[] for _ in range(min(num_parts, len(tasks)))]
    sizes = [0.0] * len(parts)
    order = sorted(range(len(tasks)), key=lambda index: -estimate_megapixels(tasks[index]))
    for index in order if parts else ():
        smallest = min(range(len(parts)), key=lambda part: (sizes[part], len(parts[part])))
        parts[smallest].append(index)
        sizes[smallest] += estimate_megapixels(tasks[index])
    return tuple(tuple(tasks[index] for index in sorted(part)) for part in parts)


def _num_within(tasks: Sequence[ImageTask], megapixels: float) -> int:
    """How many of the first images are no more than `megapixels` together."""
    total = 0.0
    for number, task in enumerate(tasks):
        total += estimate_megapixels(task)
        if total > megapixels * (1 + 1e-9):
            return number
    return len(tasks)


class Lending:
    """The attempts that a worker has at work, by lease. Safe for threads."""

    def __init__(self) -> None:
        self._attempts: dict[ShardKey, OpenImages] = {}
        self._lock = threading.Lock()

    @contextmanager
    def at_work(self, images: OpenImages) -> Iterator[None]:
        """Make the images of an attempt known for the length of a `with` block."""
        with self._lock:
            self._attempts[images.key] = images
        try:
            yield
        finally:
            with self._lock:
                del self._attempts[images.key]

    def open_work(self) -> tuple[OpenWork, ...]:
        """What is left of each attempt."""
        with self._lock:
            attempts = tuple(self._attempts.values())
        return tuple(images.left() for images in attempts)

    def cede(self, key: ShardKey, num_parts: int) -> tuple[tuple[ImageTask, ...], ...]:
        """See `OpenImages.cede`; nothing where the lease is not at work here."""
        with self._lock:
            images = self._attempts.get(key)
        return images.cede(num_parts) if images else ()
