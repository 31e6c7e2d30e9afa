"""Fetch planned images from the source: what the store says of one becomes the error of its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from pipeline.blame import blame_one_object
from pipeline.errors import (
    EmptyImageError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectMissingError,
    ObjectTooLargeError,
    SourceChangedError,
    SourceDeniedError,
    SourceLostError,
    SourceMissingError,
    SourceUnreadableError,
    StorageError,
    TooLargeError,
)
from pipeline.records import ImageResult, ImageTask
from pipeline.sharding.web_parameters import is_on_web
from pipeline.storage import ObjectStore
from pipeline.storage.keys import DoesWithout

_MAX_NEIGHBOURS = 3
_MAX_FOLDERS_UP = 3


class SourceReader:
    """Reads planned versions of images, up to `max_bytes` each.

    `is_there` is asked when every image of a shard is missing or any was denied: it says whether the source lists
    anything still, and raises CredentialsError where it refuses to be listed.
    """

    def __init__(self, store: ObjectStore, max_bytes: int, is_there: Callable[[], bool]) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._is_there = is_there
        self._last_read = ""

    def read(self, task: ImageTask, *, is_last: bool = False) -> bytes:
        """Return the bytes of the planned version. Raises ImageError, StorageError, SystemicError.

        What the store says of this object alone is an ImageError, too: SourceUnreadableError. `is_last` as in
        `blame_one_object`. Of web servers a list may name any number, none of which can be asked for its other files:
        there a fault costs its image, once it has outlasted the bounded tries of the store.
        """
        if is_on_web(task.key):
            try:
                return self._read(task)
            except StorageError as error:
                raise SourceUnreadableError(f"the web server does not give it: {error}") from error
        data = blame_one_object(
            lambda: self._read(task),
            require_answer=lambda: self._require_answer(task.key),
            as_row=lambda error: SourceUnreadableError(
                f"it cannot be read, although the source answers for others: {error}"
            ),
            is_last=is_last,
        )
        self._last_read = task.key
        return data

    def _read(self, task: ImageTask) -> bytes:
        try:
            data = self._store.read(task.key, if_match=task.etag or None, max_bytes=self._max_bytes)
        except ObjectMissingError as error:
            raise SourceMissingError("it is not at the source, or not any more") from error
        except ObjectChangedError as error:
            raise SourceChangedError("it changed after it was planned; the next run plans it again") from error
        except ObjectDeniedError as error:
            raise SourceDeniedError(f"it may not be read: {error}") from error
        except ObjectTooLargeError as error:
            # Of a list, or a store without etags, the size that was planned may not be the one that was met.
            size = f"{task.size_bytes} bytes, more" if task.size_bytes > self._max_bytes else "more bytes"
            raise TooLargeError(f"it has {size} than the limit of {self._max_bytes}") from error
        if not data:
            raise EmptyImageError("the file has no bytes")
        return data

    def _require_answer(self, key: str) -> None:
        """Raise StorageError unless a byte of another object near by can be read, what was read last if that is one."""
        if self._last_read != key and _folder(self._last_read) == _folder(key) and self._can_read(self._last_read):
            return
        failure: StorageError | None = None
        for other in self._neighbours(key):
            try:
                if self._can_read(other):
                    return
            except StorageError as error:
                failure = error
        raise failure or StorageError(f"{key}: nothing else lies there by which to tell whether its store answers")

    def _can_read(self, key: str) -> bool:
        """False where it is gone. Raises StorageError, SystemicError."""
        try:
            self._store.read_range(key, 0, 1)
        except ObjectMissingError:
            return False
        return True

    def _neighbours(self, key: str) -> list[str]:
        """Some other objects of the same folder, or of the nearest one above it that has any."""
        folder = _folder(key)
        for _ in range(1 + _MAX_FOLDERS_UP):
            others = (info.key for info in self._store.list(folder, DoesWithout(folder)) if info.key != key)
            found = list(islice(others, _MAX_NEIGHBOURS))
            folder = _folder(folder)
            if found or not folder.strip("/") or folder.endswith(":/"):  # all of a machine, or beyond a bucket
                return found
        return []

    def require_there(self, rows: Sequence[ImageResult]) -> None:
        """Raise SourceLostError or CredentialsError when it is the source that failed, and not its images."""
        is_suspect = all(row.error_code == SourceMissingError.code for row in rows) or any(
            row.error_code == SourceDeniedError.code for row in rows
        )
        if is_suspect and not self._is_there():
            raise SourceLostError("the source lists nothing any more; is it still mounted?")


def _folder(key: str) -> str:
    return key.rpartition("/")[0] or "/" * key.startswith("/")
