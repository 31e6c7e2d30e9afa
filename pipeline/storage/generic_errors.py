"""Errors of arbitrary fsspec clients as this project's errors."""

from __future__ import annotations

from collections.abc import Mapping

from fsspec.exceptions import FSTimeoutError

from pipeline.errors import (
    CredentialsError,
    DiskFullError,
    HdrfleetError,
    ObjectDeniedError,
    ObjectExistsError,
    ObjectMissingError,
    StorageError,
    TransientStorageError,
)
from pipeline.storage.os_errors import map_os_error
from pipeline.storage.redact import redact_url
from pipeline.storage.retry import asking_to_wait

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# Classes of optional packages, which therefore are known by name only.
_CREDENTIAL_CLASSES = frozenset({"ClientAuthenticationError", "DefaultCredentialsError", "RefreshError"})
_TRANSIENT_CLASSES = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "ServerTimeoutError",
        "ServiceRequestError",
        "ServiceResponseError",
        "Timeout",
        "TransportError",
    }
)


def map_generic_error(error: Exception, where: str) -> HdrfleetError:
    """Return the error to raise from any client's exception; `where` is the object's printable URL."""
    error = _behind(error)
    text = f"{where}: {redact_url(str(error)) or type(error).__name__}"
    kind = _by_class(error) or _by_status(error)
    if kind is ObjectMissingError:
        return ObjectMissingError(f"{where}: no such object")
    if kind is ObjectExistsError:
        return ObjectExistsError(f"{where}: already there")
    if kind is TransientStorageError:
        return asking_to_wait(TransientStorageError(text), _headers(error).get("Retry-After"))
    if kind is not None:
        return kind(text)
    if isinstance(error, OSError):
        # gcsfs reports 403 as a bare OSError whose text starts so
        return ObjectDeniedError(text) if str(error).startswith("Forbidden") else _by_errno(error, where, text)
    return StorageError(text)


def _headers(error: Exception) -> Mapping[str, str]:
    headers = getattr(error, "headers", None)
    return headers if isinstance(headers, Mapping) else {}


def _behind(error: Exception) -> Exception:
    """fsspec's HTTP client says that a file is missing whatever went wrong when it asked for its size."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    is_of_http = any(cls.__name__ == "ClientError" for cls in type(cause).__mro__)  # aiohttp's
    return cause if is_of_http or _by_class(cause) is TransientStorageError else error


def _by_errno(error: OSError, where: str, text: str) -> HdrfleetError:
    return map_os_error(error, where) if error.errno else StorageError(text)


def _by_class(error: Exception) -> type[HdrfleetError] | None:
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return ObjectMissingError
    if isinstance(error, FileExistsError):
        return ObjectExistsError
    if names & _CREDENTIAL_CLASSES:
        return CredentialsError
    if isinstance(error, PermissionError):
        return ObjectDeniedError
    if isinstance(error, FSTimeoutError | TimeoutError | ConnectionError) or names & _TRANSIENT_CLASSES:
        return TransientStorageError
    return None


def _by_status(error: Exception) -> type[HdrfleetError] | None:
    candidates = (getattr(error, name, None) for name in ("status_code", "status", "code"))
    status = next((int(str(value)) for value in candidates if str(value).isdigit()), 0)
    if status in _TRANSIENT_STATUS:
        return TransientStorageError
    known: dict[int, type[HdrfleetError]] = {
        401: CredentialsError,
        403: ObjectDeniedError,
        404: ObjectMissingError,
        409: ObjectExistsError,
        410: ObjectMissingError,
        412: ObjectExistsError,
        507: DiskFullError,
    }
    return known.get(status)
