"""Fetch planned images from the source: what the store says of one becomes the error of its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    TooLargeError,
)
from pipeline.records import ImageResult, ImageTask
from pipeline.storage import ObjectStore


class SourceReader:
    """Reads planned versions of images, up to `max_bytes` each.

    `is_there` is asked when every image of a shard is missing or any was denied: it says whether the source lists
    anything still, and raises CredentialsError where it refuses to be listed.
    """

    def __init__(self, store: ObjectStore, max_bytes: int, is_there: Callable[[], bool]) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._is_there = is_there

    def read(self, task: ImageTask) -> bytes:
        """Return the bytes of the planned version. Raises ImageError, StorageError, SystemicError."""
        try:
            data = self._store.read(task.key, if_match=task.etag or None, max_bytes=self._max_bytes)
        except ObjectMissingError as error:
            raise SourceMissingError(f"{task.source} is not at the source, or not any more") from error
        except ObjectChangedError as error:
            raise SourceChangedError(
                f"{task.source} changed after it was planned; the next run plans it again"
            ) from error
        except ObjectDeniedError as error:
            raise SourceDeniedError(f"{task.source} may not be read: {error}") from error
        except ObjectTooLargeError as error:
            raise TooLargeError(f"{task.source} is larger than the limit of {self._max_bytes} bytes") from error
        if not data:
            raise EmptyImageError(f"{task.source} has zero bytes")
        return data

    def require_there(self, rows: Sequence[ImageResult]) -> None:
        """Raise SourceLostError or CredentialsError when it is the source that failed, and not its images."""
        is_suspect = all(row.error_code == SourceMissingError.code for row in rows) or any(
            row.error_code == SourceDeniedError.code for row in rows
        )
        if is_suspect and not self._is_there():
            raise SourceLostError("the source lists nothing any more; is it still mounted?")
