"""Open a source and list its images, streamed and in a fixed order.

Five kinds, told apart by the URL alone (`pipeline.sharding.locations`) but for the first two:

- a folder or prefix: everything below it, by ascending name;
- one image file or object;
- a glob such as `/photos/**/*.jpg`: its root is listed and matched (`pipeline.sharding.patterns`);
- a list of images: `.txt`, `.csv` or `.parquet` (`pipeline.sharding.lists`), in its own order;
- the `manifest.json` of an S3 Inventory (`pipeline.sharding.inventory`), in its own order.

What a folder, a glob without a fixed extension, or an inventory finds is taken by image extension; the rest is counted.
What is named outright is taken as it is.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import SourceConfig, StorageConfig
from pipeline.errors import (
    CredentialsError,
    ObjectDeniedError,
    ObjectMissingError,
    SourceError,
    SourceLostError,
    StorageError,
)
from pipeline.records import ImageTask
from pipeline.sharding.inventory import iterate_inventory, parse_manifest
from pipeline.sharding.left_out import LeftOut
from pipeline.sharding.listing import ListingCounts, SourceListing
from pipeline.sharding.lists import read_list
from pipeline.sharding.locations import (
    LOCAL_SCHEME,
    Location,
    SourceShape,
    join_root,
    listed_name,
    locate,
    relative_to,
    source_shape,
    split_glob,
    split_query,
)
from pipeline.sharding.names import unrooted
from pipeline.sharding.patterns import can_match_below, has_wildcard, translate
from pipeline.sharding.routed import RoutedStore
from pipeline.sharding.wanted import WantedSources
from pipeline.storage import ObjectStore, open_store, redact_url
from pipeline.storage.keys import DoesWithout

_FILE, _FOLDER = "file", "folder"
_MAX_LIST_BYTES = 2 * 2**30


def source_store(config: SourceConfig) -> ObjectStore:
    """Open the store that reads `ImageTask.key`: absolute paths and URLs, whatever kind of source they came from."""
    return RoutedStore(redact_url(locate(config.url).url), config.storage)


def open_source(config: SourceConfig, destination_url: str | None = None) -> SourceListing:
    """Check that the source can be listed and does not overlap the destination, and prepare its listing.

    `destination_url` is left out where the destination is another provider's, whatever its bucket is called.
    Raises SourceError in one line: nothing there, neither a folder nor a file, no access, source and destination
    inside each other, a malformed list or inventory. Few requests, with few retries, so that a mistake shows within
    seconds; nothing is listed yet.
    """
    shape = source_shape(config.url)
    # A list may be read by its signature, once; what would be needed for images is not kept, and so not used either.
    place = locate(config.url if shape in {SourceShape.LIST, SourceShape.INVENTORY} else listed_name(config.url))
    with _source_errors(config.url):
        probe = open_store(place.root, _impatient(config.storage))
        found = _probe(probe, place, config.url)
        if shape is SourceShape.GLOB and found is None:
            return _open_glob(config, place, destination_url)
        if found is None:
            raise SourceError(f"there is nothing at {redact_url(config.url)}: no file or object, no folder or prefix")
        if shape in {SourceShape.LIST, SourceShape.INVENTORY}:
            if found == _FOLDER:
                raise SourceError(f"{redact_url(config.url)} is a folder; add a slash to convert what is in it")
            data = probe.read(place.key, max_bytes=_MAX_LIST_BYTES)
            return _open_list(config, locate(split_query(config.url)[0]), data, shape)
    if found == _FOLDER:
        return _open_folder(config, place, destination_url)
    path, _ = split_query(place.url)
    name = place.url[path.rindex("/") + 1 :]
    root_url = path[: path.rindex("/")] or place.root
    task = ImageTask(name, place.url, 0, "")
    return SourceListing(
        config,
        root_url,
        source_store(config),
        lambda _counts, _wanted: iter((task,)),
        by_extension=False,
        needs_stat=True,
    )


def source_is_there(config: SourceConfig) -> bool:
    """Whether a folder, prefix or glob still lists anything; True for other kinds, whose images lie anywhere.

    Tells a drive that was unplugged, or a bucket that was emptied, from a few images that were removed. Raises
    CredentialsError where the store refuses to list it (to expired keys, some say just AccessDenied: Ceph for one),
    SourceLostError where this machine cannot read it, StorageError where there is no answer.
    """
    if source_shape(config.url) in {SourceShape.LIST, SourceShape.INVENTORY}:
        return True
    try:
        return _still_lists(config)
    except ObjectDeniedError as error:
        raise CredentialsError(f"the source may not be read any more: {error}") from error
    except (OSError, SourceError) as error:
        raise SourceLostError(f"the source cannot be read any more: {error}") from error


def _still_lists(config: SourceConfig) -> bool:
    place = locate(config.url)
    store = source_store(config)
    found = _probe(open_store(place.root, _impatient(config.storage)), place, config.url)
    if found is None and source_shape(config.url) is SourceShape.GLOB:
        folder_url = join_root(place.root, split_glob(place)[0])
        return _lists_anything(store, folder_url)
    return found == _FILE or (found == _FOLDER and _lists_anything(store, place.url))


def _lists_anything(store: ObjectStore, folder_url: str) -> bool:
    # A folder below it that may not be read is perhaps one that options left out.
    return next(store.list(folder_url, DoesWithout(folder_url)), None) is not None


def _open_folder(config: SourceConfig, place: Location, destination_url: str | None) -> SourceListing:
    if destination_url is not None:
        _refuse_overlap(place.url, destination_url, lambda _below: True)
    store = source_store(config)
    return SourceListing(
        config,
        place.url,
        store,
        lambda counts, wanted: _below(store, place.url, LeftOut(config, place.url, counts, wanted)),
        by_extension=True,
        needs_stat=False,
        reaches=_lies_below,
    )


def _open_glob(config: SourceConfig, place: Location, destination_url: str | None) -> SourceListing:
    folder, pattern = split_glob(place)
    root_url = join_root(place.root, folder)
    if destination_url is not None:
        _refuse_overlap(root_url, destination_url, lambda below: can_match_below(pattern, below))
    store = source_store(config)
    is_match = translate(pattern).fullmatch

    def reaches(source: str) -> bool:
        return _lies_below(source) and is_match(source) is not None

    def entries(counts: ListingCounts, wanted: WantedSources | None) -> Iterator[ImageTask]:
        left = LeftOut(
            config,
            root_url,
            counts,
            wanted,
            reaches=lambda below: can_match_below(pattern, below),
            is_match=is_match,
        )
        return (task for task in _below(store, root_url, left) if is_match(task.source))

    extension = posixpath.splitext(posixpath.basename(pattern))[1]
    by_extension = not extension or has_wildcard(extension)
    return SourceListing(config, root_url, store, entries, by_extension=by_extension, needs_stat=False, reaches=reaches)


def _lies_below(source: str) -> bool:
    """Whether a name is relative to the source's root; lists can name images elsewhere."""
    return unrooted(source) == source


def _below(store: ObjectStore, folder_url: str, left: LeftOut) -> Iterator[ImageTask]:
    try:
        for info in store.list(folder_url, left):
            yield from left.refused()
            yield ImageTask(info.key.removeprefix(left.prefix), info.key, info.size_bytes, info.etag)
    except ObjectDeniedError as error:
        if not left.prefix.startswith("/"):  # an object store, where one refusal is one for all
            raise
        raise SourceError(
            f"{error}; give access to it, or leave it out with --exclude, such as --exclude '.Trashes/**'"
        ) from error
    yield from left.refused()


def _open_list(config: SourceConfig, place: Location, data: bytes, shape: SourceShape) -> SourceListing:
    store = source_store(config)
    folder = posixpath.dirname(place.key)
    if shape is SourceShape.INVENTORY:
        inventory = parse_manifest(data, place)
        series_url = join_root(place.root, posixpath.dirname(folder))  # without the folder of one day
        return SourceListing(
            config,
            series_url,
            store,
            lambda _counts, _wanted: iterate_inventory(store, inventory),
            by_extension=True,
            needs_stat=False,
            reaches=lambda _source: True,
        )
    tasks = read_list(data, place)
    root_url = join_root(place.root, folder)
    return SourceListing(
        config, root_url, store, lambda _counts, _wanted: iter(tasks), by_extension=False, needs_stat=True
    )


def _probe(store: ObjectStore, place: Location, url: str) -> str | None:
    """Tell a file from a folder; None where there is nothing. Raises SourceError for a device or a socket."""
    if place.scheme == LOCAL_SCHEME:
        path = Path(place.url)
        if path.is_dir():
            os.scandir(path).close()  # may it be listed?
            return _FOLDER
        if path.exists() and not path.is_file():
            raise SourceError(f"{url} is neither a folder nor a file")
        return _FILE if path.exists() else None
    if place.key and not url.endswith("/"):
        try:
            store.stat(place.key)
        except ObjectMissingError:
            pass
        else:
            return _FILE
    return _FOLDER if next(store.list(place.key), None) is not None else None


def _refuse_overlap(source: str, destination: str, reaches: Callable[[str], bool]) -> None:
    """Raise SourceError when one lies in the other; `reaches` tells whether the source lists a folder below it."""
    below = relative_to(destination, source)
    if below == "":
        raise SourceError(f"source and destination are the same place: {redact_url(destination)}")
    if below is not None and reaches(below):
        raise SourceError(f"the destination {redact_url(destination)} lies inside the source {redact_url(source)}")
    if relative_to(source, destination) is not None:
        raise SourceError(f"the source {redact_url(source)} lies inside the destination {redact_url(destination)}")


def _impatient(config: StorageConfig) -> StorageConfig:
    return config.model_copy(
        update={
            "connect_timeout_s": min(config.connect_timeout_s, 5.0),
            "read_timeout_s": min(config.read_timeout_s, 20.0),
            "max_attempts": min(config.max_attempts, 2),
            "max_retry_s": min(config.max_retry_s, 10.0),
        }
    )


@contextmanager
def _source_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (StorageError, CredentialsError) as error:
        raise SourceError(f"cannot read the source {redact_url(url)}: {error}") from error
    except (OSError, ValueError) as error:  # no permission; a key that no store accepts; a list beyond the size limit
        raise SourceError(f"cannot read the source {redact_url(url)}: {error}") from error
