"""fsspec's `memory://` as an object store, for tests and small experiments within one process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from pipeline.errors import ObjectChangedError, ObjectExistsError, ObjectMissingError, ObjectTooLargeError
from pipeline.storage.base import ObjectInfo
from pipeline.storage.keys import ListingObserver, check_key, check_prefix, join_key, normal_metadata

# fsspec keeps one memory file system per process, whose files share their read position: one lock guards it all.
_lock = threading.RLock()
_metadata: dict[str, Mapping[str, str]] = {}


class MemoryStore:
    """Objects live in this process and end with it; an etag is the MD5 of the bytes, as S3's mostly is."""

    def __init__(self, url: str, *, atomic_create: bool | None = None) -> None:
        self._root = url.removeprefix("memory:").strip("/")
        self._has_atomic_create = atomic_create is not False
        self._filesystem = MemoryFileSystem()

    @property
    def url(self) -> str:
        """`memory://root`."""
        return "memory://" + self._root

    @property
    def has_atomic_create(self) -> bool:
        """True: a lock of this process decides; unless declared weak, to try such a store."""
        return self._has_atomic_create

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        """See ObjectStore."""
        with _lock:
            data = self._bytes(self._path(key))
        if if_match and if_match != _etag(data):
            msg = f"{self.url}/{key}: changed; its etag is {_etag(data)}, not {if_match}"
            raise ObjectChangedError(msg)
        if max_bytes is not None and len(data) > max_bytes:
            msg = f"{self.url}/{key}: {len(data)} bytes, more than the limit of {max_bytes}"
            raise ObjectTooLargeError(msg)
        return data

    def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
        """See ObjectStore."""
        with _lock:
            return self._bytes(self._path(key))[start : start + num_bytes]

    def stat(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        with _lock:
            path = self._path(key)
            return _info(key, self._bytes(path), _metadata.get(path, {}))

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:  # noqa: ARG002
        """See ObjectStore; what was created here has a key, so that no name is unusable."""
        folder = "/" + join_key(self._root, check_prefix(prefix))
        with _lock:
            paths = [path for path in self._filesystem.store if path.startswith(folder.rstrip("/") + "/")]
        strip = len(self._root) + 2 if self._root else 1
        for path in sorted(paths, key=str.encode):
            with _lock:
                if path not in self._filesystem.store:
                    continue
                info = _info(path[strip:], self._bytes(path), {})
            yield info

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        """See ObjectStore."""
        with _lock:
            path = self._path(key)
            if path in self._filesystem.store:
                msg = f"{self.url}/{key}: already there"
                raise ObjectExistsError(msg)
            self._filesystem.store[path] = MemoryFile(self._filesystem, path, data)
            _metadata[path] = MappingProxyType(normal_metadata(metadata))
            return _info(key, data, _metadata[path])

    def replace(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore."""
        with _lock:
            path = self._path(key)
            self._filesystem.store[path] = MemoryFile(self._filesystem, path, data)
            _metadata.pop(path, None)
            return _info(key, data, {})

    def unfinished(self, prefix: str = "") -> Iterator[str]:  # noqa: ARG002
        """See ObjectStore: nothing, for what is written is there at once."""
        return iter(())

    def discard_unfinished(self, key: str) -> None:
        """See ObjectStore: there is nothing."""

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with _lock:
            path = self._path(key)
            self._filesystem.store.pop(path, None)
            _metadata.pop(path, None)

    def _path(self, key: str) -> str:
        return "/" + join_key(self._root, check_key(key))

    def _bytes(self, path: str) -> bytes:
        try:
            return bytes(self._filesystem.store[path].getbuffer())
        except KeyError as error:
            msg = f"memory:/{path}: no such object"
            raise ObjectMissingError(msg) from error


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _info(key: str, data: bytes, metadata: Mapping[str, str]) -> ObjectInfo:
    return ObjectInfo(key=key, size_bytes=len(data), etag=_etag(data), metadata=metadata)
