"""From a URL to the store behind it. Each store's module, and with it its client, is loaded only when needed."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from pipeline.config import StorageConfig
from pipeline.errors import ConfigError
from pipeline.storage.base import ObjectStore
from pipeline.storage.redact import redact_url

__all__ = ["open_store", "redact_url"]

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(url: str, config: StorageConfig, *, atomic_create: bool | None = None) -> ObjectStore:
    """Open the store whose root is `url`: a path, `file://`, `s3://`, `memory://` or another fsspec URL.

    Nothing is contacted yet; only a wrong URL fails here. `atomic_create=False` declares a store weak that is known
    (or was found by `probe_store`) to let two creators of one object win, so that `create` looks before it writes;
    None takes what is known about the kind of store. Raises ConfigError.
    """
    match = _SCHEME.match(url)
    scheme = match["scheme"].lower() if match else ""
    if not match and "://" in url:
        msg = f"{redact_url(url)}: neither a path nor a URL; chained URLs are not supported"
        raise ConfigError(msg)
    if scheme in {"", "file"}:
        from pipeline.storage.local import LocalStore  # noqa: PLC0415
        from pipeline.storage.retry import RetryPolicy  # noqa: PLC0415

        root = _path_of_file_url(url) if scheme else url
        if not root or "\0" in root:
            msg = "a store needs a path or URL"
            raise ConfigError(msg)
        return LocalStore(root, retry=RetryPolicy.from_config(config), atomic_create=atomic_create)
    if scheme in {"s3", "s3a"}:
        from pipeline.storage.s3 import S3Store  # noqa: PLC0415

        return S3Store(url[len(scheme) + 3 :], config, atomic_create=atomic_create)
    if scheme == "memory":
        from pipeline.storage.memory import MemoryStore  # noqa: PLC0415

        return MemoryStore(url, atomic_create=atomic_create)
    from pipeline.storage.generic import open_generic  # noqa: PLC0415

    return open_generic(url, scheme, config, atomic_create=atomic_create)


def _path_of_file_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment:
        msg = f"{redact_url(url)}: a file URL has the form file:///absolute/path, special characters percent-encoded"
        raise ConfigError(msg)
    return unquote(parts.path)
