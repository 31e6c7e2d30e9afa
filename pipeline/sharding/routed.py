"""One store for images that lie anywhere: keys are absolute paths or URLs, routed to a store per bucket."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from pipeline.config import StorageConfig
from pipeline.errors import ObjectDeniedError
from pipeline.sharding.locations import Location, join_root, locate
from pipeline.storage import ObjectInfo, ObjectStore, open_store
from pipeline.storage.keys import ListingObserver


class RoutedStore:
    """The ObjectStore of every source; lists and inventories may name several buckets.

    Keys are what the listing yields: absolute local paths (`/photos/a.jpg`) or whole URLs (`s3://bucket/a.jpg`). They
    mean the same however the source was named, so a plan made from a glob or a list can be finished by a job on the
    folder. Each bucket's store is opened at its first use, with one configuration for all. Read-only; safe for threads.
    """

    def __init__(self, url: str, config: StorageConfig) -> None:
        self._url = url
        self._config = config
        self._stores: dict[str, ObjectStore] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The source that the keys come from: safe to print."""
        return self._url

    @property
    def has_atomic_create(self) -> bool:
        """False: nothing is created through a source."""
        return False

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        """See ObjectStore.read."""
        store, place = self._route(key)
        return store.read(place.key, if_match=if_match, max_bytes=max_bytes)

    def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
        """See ObjectStore.read_range."""
        store, place = self._route(key)
        return store.read_range(place.key, start, num_bytes)

    def stat(self, key: str) -> ObjectInfo:
        """See ObjectStore.stat."""
        store, place = self._route(key)
        return self._absolute(store.stat(place.key), place.root)

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:
        """See ObjectStore.list; `prefix` is absolute as keys are."""
        store, place = self._route(prefix)
        for info in store.list(place.key, observer and _Rooted(place.root, observer)):
            yield self._absolute(info, place.root)

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:  # noqa: ARG002
        """Refuse, as all writing here: ObjectDeniedError."""
        raise ObjectDeniedError(f"{key}: sources are only read")

    def replace(self, key: str, data: bytes) -> ObjectInfo:  # noqa: ARG002
        """Refuse: ObjectDeniedError."""
        raise ObjectDeniedError(f"{key}: sources are only read")

    def unfinished(self, prefix: str = "") -> Iterator[str]:  # noqa: ARG002
        """See ObjectStore: nothing, because nothing is written here."""
        return iter(())

    def discard_unfinished(self, key: str) -> None:
        """Refuse: ObjectDeniedError."""
        raise ObjectDeniedError(f"{key}: sources are only read")

    def delete(self, key: str) -> None:
        """Refuse: ObjectDeniedError."""
        raise ObjectDeniedError(f"{key}: sources are only read")

    def _route(self, key: str) -> tuple[ObjectStore, Location]:
        place = locate(key)
        with self._lock:
            store = self._stores.get(place.root)
            if store is None:
                store = self._stores[place.root] = open_store(place.root, self._config)
        return store, place

    @staticmethod
    def _absolute(info: ObjectInfo, root: str) -> ObjectInfo:
        return ObjectInfo(join_root(root, info.key), info.size_bytes, info.etag, info.modified_at, info.metadata)


class _Rooted(ListingObserver):
    """Tells another observer the absolute names of what one store leaves out."""

    def __init__(self, root: str, observer: ListingObserver) -> None:
        self._root, self._observer = root, observer

    def unusable(self, name: str) -> None:
        self._observer.unusable(join_root(self._root, name))

    def special(self, name: str) -> None:
        self._observer.special(join_root(self._root, name))

    def temporary(self, name: str) -> None:
        self._observer.temporary(join_root(self._root, name))

    def can_do_without(self, folder: str) -> bool:
        return self._observer.can_do_without(join_root(self._root, folder))
