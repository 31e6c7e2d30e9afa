"""The images of an opened source: filtered, limited, counted and, where a list gives only names, looked up."""

from __future__ import annotations

import itertools
import posixpath
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from pipeline.config import SourceConfig
from pipeline.errors import ObjectDeniedError, ObjectMissingError, SourceError, StorageError
from pipeline.extensions import IMAGE_EXTENSIONS
from pipeline.records import ImageTask
from pipeline.sharding.names import unrooted
from pipeline.sharding.patterns import name_filter
from pipeline.sharding.wanted import WantedSources
from pipeline.sharding.web_parameters import is_on_web
from pipeline.storage import ObjectStore, redact_url
from pipeline.storage.keys import is_valid_key, shown

_NUM_EXAMPLES = 5
_NUM_STAT_THREADS = 8
_NUM_STATS_AHEAD = 64


@dataclass(slots=True)
class ListingCounts:
    """What one pass over a source took and left. Complete once the pass has ended; a limit ends it early.

    `num_unusable` images have names that no output can be named after; examples are escaped, so that they can be shown.
    `num_special` are links to folders, which are not followed, links to nothing, devices and pipes.
    `num_vanished` known sources were looked for and not found by `SourceListing.noting_vanished`. Of a pass for some
    sources alone, `num_others` are the images that it was not for, and nothing else of others is counted;
    `denied_folders` may not be read, and were passed by although some of these sources lie below them.
    """

    num_images: int = 0
    num_others: int = 0
    denied_folders: list[str] = field(default_factory=list)
    num_excluded: int = 0
    ignored_by_extension: Counter[str] = field(default_factory=Counter)
    ignored_examples: list[str] = field(default_factory=list)
    num_unusable: int = 0
    unusable_examples: list[str] = field(default_factory=list)
    num_special: int = 0
    special_examples: list[str] = field(default_factory=list)
    num_vanished: int = 0
    vanished_examples: list[str] = field(default_factory=list)

    def pass_by(self, name: str) -> None:
        """Count what has a name and is neither a file nor a folder of the source's own; the first five are named."""
        self.num_special += 1
        if len(self.special_examples) < _NUM_EXAMPLES:
            self.special_examples.append(shown(name))

    def deny(self, folder: str) -> None:
        """Note a folder that may not be read; the first five are named."""
        if len(self.denied_folders) < _NUM_EXAMPLES:
            self.denied_folders.append(shown(folder))

    def refuse(self, source: str) -> None:
        """Count an image that cannot be taken for its name; the first five are named."""
        self.num_unusable += 1
        if len(self.unusable_examples) < _NUM_EXAMPLES:
            self.unusable_examples.append(shown(source))

    def ignore(self, source: str, kind: str) -> None:
        """Count a file that is not taken as an image; the first five are named."""
        self.ignored_by_extension[shown(kind)] += 1
        if len(self.ignored_examples) < _NUM_EXAMPLES:
            self.ignored_examples.append(shown(source))


@dataclass(frozen=True, slots=True)
class SourceListing:
    """An opened source.

    `root_url` is the absolute path or URL that source names are relative to: the folder, a glob's part before the
    first wildcard, the folder of a file or list, the folder of an inventory's series. Two sources with one root give
    one image one name. `store` reads the tasks' keys. `entries` starts a pass over everything that
    the source names, and counts what it passes by; where it is told which sources are wanted, it does without folders
    that may not be read. `by_extension` takes only what has an image's extension;
    `needs_stat` says that images were named outright, and that their sizes and etags are still to be looked up.
    `reaches` tells of a source name whether a pass comes by it where it is there; None where images were named
    outright, for then one that is not named may still be there. `wanted` are the sources that a pass is for, where it
    is not for all that the options take (see `only`).
    """

    config: SourceConfig
    root_url: str
    store: ObjectStore
    entries: Callable[[ListingCounts, WantedSources | None], Iterator[ImageTask]]
    by_extension: bool
    needs_stat: bool
    reaches: Callable[[str], bool] | None = None
    wanted: WantedSources | None = None
    _counts: list[ListingCounts] = field(default_factory=lambda: [ListingCounts()])

    @property
    def counts(self) -> ListingCounts:
        """The counts of the latest pass."""
        return self._counts[0]

    @property
    def num_ignored(self) -> int:
        """Number of files that are not images, by their names; known after a pass."""
        return self.counts.ignored_by_extension.total()

    @property
    def ignored_by_extension(self) -> dict[str, int]:
        """How many of them by lower-case extension, the most frequent first; known after a pass."""
        return dict(self.counts.ignored_by_extension.most_common())

    def only(self, sources: Collection[str]) -> SourceListing:
        """The same source for those of `sources` alone that it lists, whatever is beside them; counts go to both.

        What was planned once is meant here: a folder that may not be read, a name that cannot be used or whatever else
        another run left out by its options neither stops such a pass nor is counted.
        """
        return replace(self, wanted=WantedSources(sources))

    def iterate(self) -> Iterator[ImageTask]:
        """Start a pass and stream the images to take: ascending names for folders and globs, else the listed order.

        Raises SourceError at the end of a pass that met nothing to take, be it wanted or not. A listed image that is
        missing or may not be read is yielded with size 0 and no etag: it costs one row, not the job.
        """
        counts = self._counts[0] = ListingCounts()
        taken = itertools.islice(self._filtered(counts), self.config.limit)
        for task in _looked_up(self.store, taken) if self.needs_stat else taken:
            counts.num_images += 1
            yield task
        if not counts.num_images and not counts.num_others:
            raise SourceError(self._nothing_found(counts))

    def noting_vanished(self, tasks: Iterable[ImageTask], known: Iterable[str]) -> Iterator[ImageTask]:
        """Pass on `tasks`, a pass of `iterate`, and note at its end which `known` sources it should have met in vain.

        What options leave out is not missed, and under a limit nothing is. Holds the known names in memory.
        """
        if self.reaches is None or self.config.limit is not None:
            yield from tasks
            return
        unseen = set(known)
        for task in tasks:
            unseen.discard(task.source)
            yield task
        is_taken = name_filter(self.config.include, self.config.exclude)
        missed = sorted(source for source in unseen if self._would_take(source, is_taken))
        self.counts.num_vanished = len(missed)
        self.counts.vanished_examples = missed[:_NUM_EXAMPLES]

    def _would_take(self, source: str, is_taken: Callable[[str], bool]) -> bool:
        """Whether a whole pass yields an image of that name where it is there."""
        assert self.reaches is not None
        return self.reaches(source) and is_taken(source) and self._is_image(ImageTask(source, source, 0, ""))

    def _filtered(self, counts: ListingCounts) -> Iterator[ImageTask]:
        is_taken = name_filter(self.config.include, self.config.exclude)
        for task in self.entries(counts, self.wanted):
            source = task.source
            if source.endswith("/"):  # the empty objects that stand for folders on object stores
                continue
            if self.wanted is not None and source not in self.wanted:
                counts.num_others += self._is_image(task)
            elif not is_taken(source):
                counts.num_excluded += 1
            elif kind := self._ignored_kind(task):
                counts.ignore(source, kind)
            elif not self._is_usable(task):
                counts.refuse(source)
            else:
                yield task

    def _ignored_kind(self, task: ImageTask) -> str | None:
        """Under which kind a name is counted as no image; None for an image."""
        name = posixpath.basename(task.source)
        if self.by_extension and name.startswith("._"):
            return "._*"  # resource forks that macOS leaves beside files on foreign volumes
        extension = posixpath.splitext(name)[1].lower()
        if self.by_extension and extension not in IMAGE_EXTENSIONS:
            return extension or "(none)"
        return None

    def _is_image(self, task: ImageTask) -> bool:
        return not self._ignored_kind(task) and self._is_usable(task)

    def _is_usable(self, task: ImageTask) -> bool:
        # What is found, unlike what is listed, may have any name: below `p`, `p//a.jpg` would take `p/a.jpg`'s output.
        return self.needs_stat or (is_valid_key(task.key.removeprefix("/")) and unrooted(task.source) == task.source)

    def _nothing_found(self, counts: ListingCounts) -> str:
        message = f"no image to convert in {redact_url(self.config.url)}"
        if counts.num_excluded:
            message += f"; {counts.num_excluded} left out by include or exclude patterns"
        if counts.num_unusable:
            message += f"; {counts.num_unusable} with names that cannot be used: {', '.join(counts.unusable_examples)}"
        if counts.num_special:
            message += f"; {counts.num_special} links to folders, links to nothing or devices, which are passed by"
        if self.num_ignored:
            kinds = ", ".join(f"{kind} {number}" for kind, number in counts.ignored_by_extension.most_common(3))
            message += f"; {self.num_ignored} without an image's extension ({kinds})"
        return message


def _looked_up(store: ObjectStore, tasks: Iterable[ImageTask]) -> Iterator[ImageTask]:
    """Fill in size and etag, in order, with a bounded number of lookups in flight."""
    ahead: deque[Future[ImageTask]] = deque()
    with ThreadPoolExecutor(_NUM_STAT_THREADS, thread_name_prefix="stat") as pool:
        try:
            for task in tasks:
                ahead.append(pool.submit(_stat, store, task))
                if len(ahead) >= _NUM_STATS_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _stat(store: ObjectStore, task: ImageTask) -> ImageTask:
    try:
        info = store.stat(task.key)
    except (ObjectMissingError, ObjectDeniedError):
        return replace(task, is_there=False)
    except StorageError:
        if not is_on_web(task.key):
            raise
        return replace(task, is_there=False)  # one of any number of servers; whoever reads it says what is wrong
    return replace(task, size_bytes=info.size_bytes, etag=info.etag)
