"""Any other fsspec file system as an object store: Google Cloud Storage, Azure, HTTP (to read), and the rest."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

import fsspec

from pipeline.config import StorageConfig
from pipeline.errors import (
    ConfigError,
    CredentialsError,
    ObjectChangedError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    ObjectTooLargeError,
    StorageError,
)
from pipeline.storage.base import ObjectInfo
from pipeline.storage.generic_errors import map_generic_error
from pipeline.storage.keys import (
    WEB_QUERY,
    ListingObserver,
    SkippedNames,
    check_key,
    check_prefix,
    join_key,
    normal_metadata,
)
from pipeline.storage.redact import redact_url
from pipeline.storage.retry import RetryPolicy
from pipeline.storage.web import WebReader, client_options

T = TypeVar("T")

# What identifies a version of an object, in the order of preference; clients name it differently.
_VERSION_FIELDS = (
    *("etag", "ETag", "generation", "md5Hash", "Content-MD5", "Digest"),
    *("LastModified", "Last-Modified", "last_modified", "mtime", "updated"),
)
_TIME_FIELDS = ("last_modified", "LastModified", "updated", "mtime")
# These characters would end the path of a URL; what is percent-encoded already stays as it is.
_SAFE_IN_URL = "/%:@!$&'()*+,;=~"


@dataclass(frozen=True, slots=True)
class Backend:
    """What is known about one protocol's fsspec implementation.

    `create_options` make its `pipe_file` conditional within the store; None where nothing certain is known.
    `retries` tells that its client retries by itself, so that this project does not on top.
    """

    extra: str | None = None
    create_options: Mapping[str, Any] | None = None
    retries: bool = False
    keeps_metadata: bool = False
    read_only: bool = False
    options: Callable[[StorageConfig], dict[str, Any]] = field(default=lambda _: {})


def _gcs_options(config: StorageConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"requester_pays": config.requester_pays}
    options |= {"token": "anon"} if config.anonymous else {}
    return options | ({"endpoint_url": config.endpoint_url} if config.endpoint_url else {})


# From the clients' sources: gcsfs 2026.10 sends ifGenerationMatch=0 in mode "create" and maps 412; adlfs 2026.8 hands
# overwrite=False to the Azure SDK, which sends If-None-Match: * with the blob or its final block list.
_GCS = Backend("gcs", {"mode": "create"}, retries=True, keeps_metadata=True, options=_gcs_options)
_AZURE = Backend("azure", {"overwrite": False}, retries=True, options=lambda config: {"anon": config.anonymous})
_HTTP = Backend(read_only=True, options=client_options)
_BACKENDS = {
    "gs": _GCS,
    "gcs": _GCS,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "az": _AZURE,
    "http": _HTTP,
    "https": _HTTP,
}


def open_generic(url: str, scheme: str, config: StorageConfig, *, atomic_create: bool | None = None) -> GenericStore:
    """Open the fsspec file system of `scheme` at `url`. Raises ConfigError, naming the extra that is not installed."""
    backend = _BACKENDS.get(scheme, Backend())
    shown = redact_url(url)
    if "::" in url:
        msg = f"{shown}: chained URLs are not supported"
        raise ConfigError(msg)
    base, _, query = url.partition("?") if backend.read_only else (url, "", "")
    try:
        options = backend.options(config) | {"skip_instance_cache": True, "use_listings_cache": False}
        filesystem, root = fsspec.core.url_to_fs(base, **options)
    except ImportError as error:
        install = f"pip install 'hdrfleet[{backend.extra}]'" if backend.extra else f"the fsspec package for {scheme}://"
        msg = f"{shown}: {scheme}:// needs an optional package ({install}): {error}"
        raise ConfigError(msg) from error
    except (ValueError, TypeError) as error:
        msg = f"{shown}: {redact_url(str(error))}"
        raise ConfigError(msg) from error
    policy = RetryPolicy(max_attempts=1 if backend.retries else config.max_attempts, max_retry_s=config.max_retry_s)
    return GenericStore(
        filesystem,
        root,
        url=shown,
        query=query,
        backend=backend,
        retry=policy,
        atomic_create=atomic_create,
        web=WebReader(filesystem, config) if backend is _HTTP else None,
    )


class GenericStore:
    """Objects below one root of an fsspec file system.

    Weaker than the other stores: `read` with a condition looks at the version before and after, since fsspec has no
    conditional read; `list` holds the whole listing in memory; where nothing certain is known of a client, `create`
    looks before it writes and `has_atomic_create` is False; and a client's own timeouts are its own.
    """

    def __init__(
        self,
        filesystem: Any,
        root: str,
        *,
        url: str,
        backend: Backend,
        retry: RetryPolicy,
        query: str = "",
        atomic_create: bool | None = None,
        web: WebReader | None = None,
    ) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._url = url.rstrip("/")
        self._query = query
        self._web = web
        self._backend = backend
        self._retry = retry
        self._has_atomic_create = backend.create_options is not None and atomic_create is not False
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The root as it was given, without credentials or query."""
        return self._url

    @property
    def has_atomic_create(self) -> bool:
        """True where the client is known to make creates conditional in the store, unless declared weak."""
        return self._has_atomic_create

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        """See ObjectStore. Looks at size and version first; with `if_match` afterwards as well."""
        before = self.stat(key)
        self._check_version(before, if_match)
        if max_bytes is not None and before.size_bytes > max_bytes:
            msg = f"{self._where(key)}: {before.size_bytes} bytes, more than the limit of {max_bytes}"
            raise ObjectTooLargeError(msg)
        path = self._path(key)
        data: bytes | None = self._run(lambda: self._whole(path, max_bytes), key)
        if data is None or (max_bytes is not None and len(data) > max_bytes):
            size = f"{len(data)} bytes, more" if data is not None else "more"
            msg = f"{self._where(key)}: {size} than the limit of {max_bytes}"
            raise ObjectTooLargeError(msg)
        if if_match:
            self._check_version(self.stat(key), if_match)
        return data

    def _whole(self, path: str, max_bytes: int | None) -> bytes | None:
        return self._web.read(path, max_bytes) if self._web else self._filesystem.cat_file(path)

    def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
        """See ObjectStore. Looks at the size first, for clients differ beyond an object's end; the web has our own."""
        if web := self._web:
            address = self._path(key)
            return self._run(lambda: web.read_range(address, start, num_bytes), key) if num_bytes > 0 else b""
        end = min(start + num_bytes, self.stat(key).size_bytes)
        if end <= start:
            return b""
        path = self._path(key)
        data: bytes = self._run(lambda: self._filesystem.cat_file(path, start=start, end=end), key)
        return data[: end - start]

    def stat(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        path = self._path(key)
        details = self._run(lambda: self._filesystem.info(path), key)
        if details.get("type", "file") != "file":
            msg = f"{self._where(key)}: no such object"
            raise ObjectMissingError(msg)
        return _info(key, details)

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:
        """See ObjectStore. Raises StorageError over HTTP, which has no listings."""
        if self._backend.read_only:
            msg = f"{self._url}: a web server cannot be listed; give a list of the files instead"
            raise StorageError(msg)
        folder = join_key(self._root, check_prefix(prefix))
        try:
            found = self._run(lambda: self._filesystem.find(folder, detail=True), prefix)
        except ObjectMissingError:
            return
        skipped = SkippedNames(observer)
        strip = len(self._root) + 1 if self._root else 0
        for path in sorted(found, key=lambda name: name.encode("utf-8", "surrogatepass")):
            key = path[strip:]
            is_below = path.startswith(folder + "/") if folder else True
            if is_below and not key.endswith("/") and skipped.accepts(key):
                yield _info(key, found[path])
        skipped.warn(self._url)

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        """See ObjectStore."""
        if self._has_atomic_create:
            return self._write(key, data, metadata, dict(self._backend.create_options or {}))
        with self._lock:
            with contextlib.suppress(ObjectMissingError):
                self.stat(key)
                msg = f"{self._where(key)}: already there"
                raise ObjectExistsError(msg)
            return self._write(key, data, metadata, {})

    def replace(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore. As atomic as the file system's own write: object stores are, SFTP and FTP are not."""
        return self._write(key, data, None, {})

    def unfinished(self, prefix: str = "") -> Iterator[str]:  # noqa: ARG002
        """Refuse, because fsspec has no way to ask: StorageError. See ObjectStore."""
        raise StorageError(f"{self.url}: pending uploads cannot be listed on this kind of store")

    def discard_unfinished(self, key: str) -> None:
        """See ObjectStore: there is nothing."""

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        path = self._path(key)
        self._refuse_read_only(key)
        with contextlib.suppress(ObjectMissingError):
            self._run(lambda: self._filesystem.rm_file(path), key)

    def _write(self, key: str, data: bytes, metadata: Mapping[str, str] | None, options: dict[str, Any]) -> ObjectInfo:
        path = self._path(key)
        self._refuse_read_only(key)
        if metadata and self._backend.keeps_metadata:
            options["metadata"] = normal_metadata(metadata)

        def write() -> None:
            if "/" in path:
                self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._filesystem.pipe_file(path, data, **options)

        self._run(write, key)
        return self.stat(key)

    def _check_version(self, info: ObjectInfo, if_match: str | None) -> None:
        if if_match and info.etag != if_match:
            msg = f"{self._where(info.key)}: changed; its etag is {info.etag or 'unknown'}, not {if_match}"
            raise ObjectChangedError(msg)

    def _refuse_read_only(self, key: str) -> None:
        if self._backend.read_only:
            msg = f"{self._where(key)}: a web server can only be read"
            raise ObjectDeniedError(msg)

    def _run(self, operation: Callable[[], T], key: str) -> T:
        def mapped() -> T:
            try:
                return operation()
            except Exception as error:  # every client has exceptions of its own
                failure = map_generic_error(error, self._where(key))
                if self._backend.read_only and isinstance(failure, CredentialsError):
                    # There are none of ours that could have expired: it is this page that wants some.
                    failure = ObjectDeniedError(str(failure))
                raise failure from error

        return self._retry.call(mapped)

    def _path(self, key: str) -> str:
        path = join_key(self._root, check_key(key))
        if not self._backend.read_only:
            return path
        # A parameter may hold another address, with a question mark of its own.
        found = WEB_QUERY.search(path)
        name, query = (path[: found.start()], path[found.end() :]) if found else (path, "")
        sent = "&".join(filter(None, [quote(query, safe=_SAFE_IN_URL + "?"), self._query]))
        return quote(name, safe=_SAFE_IN_URL) + (f"?{sent}" if sent else "")

    def _where(self, key: str) -> str:
        return join_key(self._url, key)


def _info(key: str, details: Mapping[str, Any]) -> ObjectInfo:
    times = (details.get(name) for name in _TIME_FIELDS)
    modified_at = next((time for time in times if isinstance(time, datetime)), None)
    metadata = details.get("metadata")
    return ObjectInfo(
        key=key,
        size_bytes=int(details.get("size") or 0),
        etag=_version(details),
        modified_at=modified_at,
        metadata=MappingProxyType({str(name): str(value) for name, value in dict(metadata or {}).items()}),
    )


def _version(details: Mapping[str, Any]) -> str:
    value = next((details[name] for name in _VERSION_FIELDS if details.get(name)), None)
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray):
        return hashlib.sha256(value).hexdigest()
    return str(value).strip('"')
