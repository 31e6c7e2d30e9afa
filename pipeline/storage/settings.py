"""Which settings of StorageConfig each kind of store heeds: others would change nothing, and are refused if given."""

from __future__ import annotations

import re

from pipeline.config import StorageConfig

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_LOCAL = "file"
_RETRIES = frozenset({"max_attempts", "max_retry_s"})
_TIMEOUTS = frozenset({"connect_timeout_s", "read_timeout_s"})
_ALL = frozenset(StorageConfig.model_fields)
# Of `pipeline.storage.generic`'s back ends: what their options are made of. Google's and Azure's clients retry and wait
# by rules of their own.
_GOOGLE = frozenset({"endpoint_url", "anonymous", "requester_pays"})
_AZURE = frozenset({"anonymous"})
_BY_SCHEME = {
    **dict.fromkeys(("s3", "s3a"), _ALL),
    **dict.fromkeys(("gs", "gcs"), _GOOGLE),
    **dict.fromkeys(("abfs", "abfss", "az"), _AZURE),
    **dict.fromkeys(("http", "https"), _RETRIES | _TIMEOUTS),
    "memory": frozenset[str](),
}


def heeded_settings(url: str) -> frozenset[str]:
    """The fields of StorageConfig that change how the store at `url` is reached; of an unknown kind, its retries."""
    return _BY_SCHEME.get(_scheme(url), _RETRIES)


def is_local(url: str) -> bool:
    """Whether `url` is a path, or a file URL."""
    return _scheme(url) == _LOCAL


def _scheme(url: str) -> str:
    match = _SCHEME.match(url)
    return match["scheme"].lower() if match else _LOCAL
