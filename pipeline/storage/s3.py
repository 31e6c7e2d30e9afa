"""Amazon S3, and what speaks its protocol, as an object store."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from pipeline.config import StorageConfig
from pipeline.errors import (
    ConfigError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectTooLargeError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage import s3_errors
from pipeline.storage.base import ObjectInfo
from pipeline.storage.keys import (
    ListingObserver,
    SkippedNames,
    check_key,
    check_prefix,
    is_valid_key,
    join_key,
    normal_metadata,
)
from pipeline.storage.redact import redact_url
from pipeline.storage.retry import RetryPolicy
from pipeline.storage.s3_client import S3_EXCEPTIONS, S3Client
from pipeline.storage.s3_upload import MULTIPART_THRESHOLD_BYTES, upload_in_parts

T = TypeVar("T")

# S3 Express directory buckets list in no order at all.
_UNORDERED_BUCKET_SUFFIX = "--x-s3"

_PAGE_OBJECTS = 1000  # S3's limit
_NO_RETRY = RetryPolicy(max_attempts=1, max_retry_s=0.0)

logger = logging.getLogger(__name__)


class S3Store:
    """Objects below `s3://bucket/prefix`.

    Reads cost one GET; creates one PUT with `If-None-Match: *`, or above 100 MiB a multipart upload whose completion
    carries the condition. A store that answers 501 to the condition, or that was declared weak, is looked at before it
    is written to, and `has_atomic_create` is False. Whether a store that accepts the condition also decides races is
    for `probe_store` to find out.
    """

    def __init__(self, location: str, config: StorageConfig, *, atomic_create: bool | None = None) -> None:
        self._bucket, _, prefix = location.partition("/")
        if not self._bucket or "@" in self._bucket or not (not prefix.strip("/") or is_valid_key(prefix.rstrip("/"))):
            msg = f"{redact_url('s3://' + location)}: an S3 URL has the form s3://bucket/prefix, without credentials"
            raise ConfigError(msg)
        self._root = prefix.rstrip("/")
        self._has_atomic_create = atomic_create is not False
        self._can_match_on_get = True
        self._retry = RetryPolicy.from_config(config)
        self._client = S3Client(config)

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`, safe to print."""
        return redact_url("s3://" + join_key(self._bucket, self._root))

    @property
    def has_atomic_create(self) -> bool:
        """True unless the store was declared weak or has refused a conditional write."""
        return self._has_atomic_create

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        """See ObjectStore. One GET with If-Match; the answer's ETag is compared as well, for stores without it."""

        def accept(answer: dict[str, Any]) -> None:
            if if_match and _etag(answer) != if_match:
                msg = f"{self._where(key)}: changed; its etag is {_etag(answer)}, not {if_match}"
                raise ObjectChangedError(msg)
            if max_bytes is not None and answer["ContentLength"] > max_bytes:
                msg = f"{self._where(key)}: {answer['ContentLength']} bytes, more than the limit of {max_bytes}"
                raise ObjectTooLargeError(msg)

        check_key(key)
        return self._run(lambda: self._get(key, if_match, accept), key)

    def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
        """See ObjectStore. One GET with a Range; an answer that is longer is refused before its body comes."""

        def accept(answer: dict[str, Any]) -> None:
            if answer["ContentLength"] > num_bytes:
                msg = f"{self._where(key)}: this store does not know ranges"
                raise StorageError(msg)

        def get() -> bytes:
            try:
                return self._client.get(accept, Range=f"bytes={start}-{start + num_bytes - 1}", **self._address(key))
            except ClientError as error:
                if s3_errors.http_status(error) == 416:  # nothing there: beyond the end, or an empty object
                    return b""
                raise

        check_key(key)
        return self._run(get, key) if num_bytes > 0 else b""

    def stat(self, key: str) -> ObjectInfo:
        """See ObjectStore. One HEAD."""
        try:
            answer = self._call("head_object", key)
        except (ObjectMissingError, TransientStorageError):
            raise
        except StorageError:
            # An answer to HEAD has no body, so wrong or expired credentials look like any refusal; a GET says more.
            with contextlib.suppress(StorageError):
                self._run(lambda: self._client.get(_accept_all, Range="bytes=0-0", **self._address(key)), key)
            raise
        return ObjectInfo(
            key=key,
            size_bytes=answer["ContentLength"],
            etag=_etag(answer),
            modified_at=_modified_at(answer),
            metadata=MappingProxyType(dict(answer.get("Metadata", {}))),
        )

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:
        """See ObjectStore. One page of up to 1,000 objects is in memory; folder markers (`a/`) are left out."""
        objects = self._list(check_prefix(prefix), observer)
        if self._bucket.endswith(_UNORDERED_BUCKET_SUFFIX):
            return iter(sorted(objects, key=lambda info: info.key.encode()))
        return objects

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        """See ObjectStore."""
        if not self._has_atomic_create:
            self._refuse_existing(key)
            return self._put(key, data, metadata, {}, is_new=True)
        try:
            return self._put(key, data, metadata, {"IfNoneMatch": "*"}, is_new=True)
        except s3_errors.NotImplementedByStoreError:
            logger.warning("%s: this store has no conditional writes; creating is not atomic", self.url)
            self._has_atomic_create = False
            return self.create(key, data, metadata=metadata)

    def replace(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore."""
        return self._put(key, data, None, {}, is_new=False)

    def unfinished(self, prefix: str = "") -> Iterator[str]:
        """See ObjectStore: multipart uploads that were neither completed nor aborted."""
        try:
            for key, _ in self._uploads(check_prefix(prefix) + "/" if prefix else ""):
                yield key
        except ObjectDeniedError as error:
            if s3_errors.has_code(error, "MethodNotAllowed", "405"):  # no right would help
                raise StorageError(f"{self.url}: this store does not list multipart uploads: {error}") from error
            raise

    def discard_unfinished(self, key: str) -> None:
        """See ObjectStore: abort every upload to this key."""
        for found, upload_id in [*self._uploads(check_key(key))]:
            if found == key:
                with contextlib.suppress(ObjectMissingError):
                    self._call("abort_multipart_upload", key, UploadId=upload_id)

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with contextlib.suppress(ObjectMissingError):
            self._call("delete_object", key)

    def _get(self, key: str, if_match: str | None, accept: Callable[[dict[str, Any]], None]) -> bytes:
        condition = {"IfMatch": f'"{if_match}"'} if if_match and self._can_match_on_get else {}
        try:
            return self._client.get(accept, **condition, **self._address(key))
        except ClientError as error:
            if condition and s3_errors.is_precondition_failure(error):
                msg = f"{self._where(key)}: changed; its etag is no longer {if_match}"
                raise ObjectChangedError(msg) from error
            if not condition or s3_errors.http_status(error) not in {400, 501}:
                raise
            data = self._client.get(accept, **self._address(key))
            self._can_match_on_get = False  # it was the condition that the store did not understand
            return data

    def _list(self, prefix: str, observer: ListingObserver | None) -> Iterator[ObjectInfo]:
        strip = len(self._root) + 1 if self._root else 0
        folder = join_key(self._root, prefix)
        parameters: dict[str, Any] = {
            "Bucket": self._bucket,
            "Prefix": folder + "/" if folder else "",
            "MaxKeys": _PAGE_OBJECTS,
        }
        skipped = SkippedNames(observer)
        while True:
            page = self._run(lambda: self._client.call("list_objects_v2", **parameters), prefix)
            for item in page.get("Contents", ()):
                key = item["Key"][strip:]
                if key.endswith("/") and not item["Size"]:
                    continue
                if skipped.accepts(key):
                    yield ObjectInfo(key=key, size_bytes=item["Size"], etag=_etag(item), modified_at=_modified_at(item))
            if not page.get("IsTruncated"):
                break
            parameters["ContinuationToken"] = page["NextContinuationToken"]
        skipped.warn(self.url)

    def _uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield (key, upload id) of the unfinished uploads whose keys start with `prefix`."""
        strip = len(self._root) + 1 if self._root else 0
        below = f"{self._root}/{prefix}" if self._root else prefix
        parameters: dict[str, Any] = {"Bucket": self._bucket, "Prefix": below}
        while True:
            page = self._run(lambda: self._client.call("list_multipart_uploads", **parameters), prefix)
            for upload in page.get("Uploads", ()):
                yield upload["Key"][strip:], upload["UploadId"]
            if not page.get("IsTruncated"):
                return
            parameters["KeyMarker"] = page.get("NextKeyMarker", "")
            parameters["UploadIdMarker"] = page.get("NextUploadIdMarker", "")

    def _put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None, condition: dict[str, Any], *, is_new: bool
    ) -> ObjectInfo:
        kept = normal_metadata(metadata)
        if len(data) > MULTIPART_THRESHOLD_BYTES:
            if condition:
                self._refuse_existing(key)  # saves an upload whose completion would be refused
            answer = self._upload(key, data, kept, condition, is_new=is_new)
        else:
            answer = self._call("put_object", key, num_bytes=len(data), Body=data, Metadata=kept, **condition)
        return ObjectInfo(key=key, size_bytes=len(data), etag=_etag(answer), metadata=MappingProxyType(kept))

    def _upload(
        self, key: str, data: bytes, metadata: dict[str, str], condition: dict[str, Any], *, is_new: bool
    ) -> dict[str, Any]:
        try:
            answer = upload_in_parts(
                data,
                metadata=metadata,
                condition=condition,
                call=functools.partial(self._call, key=key),
                call_once=functools.partial(self._call, key=key, retry=_NO_RETRY),
                exists=functools.partial(self._exists, key) if is_new else None,
            )
        except ObjectExistsError:
            self._discard_leftovers(key)
            raise
        if is_new:
            self._discard_leftovers(key)
        return answer

    def _discard_leftovers(self, key: str) -> None:
        """Abort what else is being uploaded to `key`: the object is there, so nothing of it can become one.

        A start whose answer was lost leaves an upload that nobody knows the id of, and so does a process that dies.
        """
        try:
            self.discard_unfinished(key)
        except StorageError as error:  # a right that is not given, or a store that does not know the request
            logger.info("%s: unfinished uploads cannot be looked for: %s", self._where(key), error)

    def _refuse_existing(self, key: str) -> None:
        if self._exists(key):
            msg = f"{self._where(key)}: already there"
            raise ObjectExistsError(msg)

    def _exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except ObjectMissingError:
            return False
        return True

    def _call(
        self, method: str, key: str, *, num_bytes: int = 0, retry: RetryPolicy | None = None, **parameters: Any
    ) -> dict[str, Any]:
        address = self._address(key)
        return self._run(lambda: self._client.call(method, num_bytes=num_bytes, **address, **parameters), key, retry)

    def _run(self, operation: Callable[[], T], key: str, retry: RetryPolicy | None = None) -> T:
        return (retry or self._retry).call(lambda: self._mapped(operation, key))

    def _mapped(self, operation: Callable[[], T], key: str) -> T:
        try:
            return operation()
        except S3_EXCEPTIONS as error:
            raise s3_errors.map_exception(error, self._where(key)) from error

    def _address(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": join_key(self._root, check_key(key))}

    def _where(self, key: str) -> str:
        return join_key(self.url, key)


def _accept_all(_: dict[str, Any]) -> None:
    """Read the body whatever the headers say."""


def _modified_at(answer: Mapping[str, Any]) -> datetime | None:
    modified_at: datetime | None = answer.get("LastModified")
    return modified_at and modified_at.astimezone(UTC)


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')
