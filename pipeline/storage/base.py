"""The contract every store keeps, whatever is behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from pipeline.storage.keys import ListingObserver


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: `key` relative to the store's root, size in bytes, etag as in `ImageTask.etag`."""

    key: str
    size_bytes: int
    etag: str
    modified_at: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class ObjectStore(Protocol):
    """Objects under one root URL. Safe for threads; not for fork: open one per process.

    Every call is bounded in time: transient faults are retried here, with exponential backoff and full jitter,
    and nowhere else; when the bounds of `StorageConfig` are spent, TransientStorageError is raised. Any call may
    also raise CredentialsError, DiskFullError or ObjectDeniedError. Keys use `/`, are relative to the root, and
    are refused (ValueError) when empty, absolute or containing `..`.
    """

    @property
    def url(self) -> str:
        """The root, without credentials or query: safe to print."""
        ...

    @property
    def has_atomic_create(self) -> bool:
        """Whether `create` is decided by the store itself when two writers race."""
        ...

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        """Return the object's bytes; with `if_match`, only if its etag is that one.

        Raises ObjectMissingError, ObjectChangedError; ObjectTooLargeError when the object is larger than
        `max_bytes` (checked before the body is transferred).
        """
        ...

    def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
        """Return up to `num_bytes` from byte `start` on: fewer where the object ends, none beyond its end.

        Never transfers more than that; a store that does not know ranges raises StorageError. ObjectMissingError.
        """
        ...

    def stat(self, key: str) -> ObjectInfo:
        """Return size, etag and metadata. Raises ObjectMissingError."""
        ...

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:
        """Yield every object below `prefix` (a folder, without trailing slash), in ascending byte order of the keys.

        Streams; yields nothing where there is nothing. Temporary files of an unfinished local create are left out.
        Names that cannot be keys (`check_key`) are left out too: `observer` is told of each before the listing goes
        on; without one, a warning at the end counts them.
        """
        ...

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        """Create the object durably, or raise ObjectExistsError and change nothing.

        A lost answer to one's own success reads as ObjectExistsError: the caller compares what is there.
        `metadata` (ASCII) is kept where the store has a place for it.
        """
        ...

    def replace(self, key: str, data: bytes) -> ObjectInfo:
        """Create or overwrite the object atomically: readers see the old bytes or the new."""
        ...

    def unfinished(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below `prefix` of what killed writers left: temporary files, or multipart uploads.

        Writes that go on at the moment are among them. Yields nothing where a store cannot leave any. Raises
        ObjectDeniedError where it may not be asked, and StorageError where it cannot say.
        """
        ...

    def discard_unfinished(self, key: str) -> None:
        """Remove what `unfinished` named; an object of that key stays as it is. No error where there is nothing."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error where there is none."""
        ...


@runtime_checkable
class RemovesStrays(Protocol):
    """A store that can remove what its listings leave out, and cannot hit anything else by it."""

    def remove_stray(self, name: str) -> None:
        """Remove what a listing told its observer of under this name: of a link the link, not what it points to.

        No error where it has gone. Raises StorageError where it cannot be reached without following a link.
        """
        ...
