"""Operating-system errors as this project's errors."""

from __future__ import annotations

import errno

from pipeline.errors import (
    DiskFullError,
    HdrfleetError,
    ObjectDeniedError,
    ObjectMissingError,
    StorageError,
    TransientStorageError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
# What network file systems answer while their server is away; a bad disk answers EIO for ever, within the bounds.
_TRANSIENT = {
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EREMOTEIO,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
    errno.EPIPE,
}


def map_os_error(error: OSError, where: str) -> HdrfleetError:
    """Return the error to raise from `error`; `where` is the printable name of the object.

    `ENOENT`, `ENOTDIR` and `EISDIR` read as a missing object: right for reads, while writers handle them first.
    """
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return DiskFullError(f"{where}: {reason}")
    if error.errno in _DENIED:
        return ObjectDeniedError(f"{where}: {reason}")
    if error.errno in _MISSING:
        return ObjectMissingError(f"{where}: no such object")
    if error.errno == errno.ENAMETOOLONG:
        return StorageError(f"{where}: the name is longer than this file system allows")
    if error.errno in _TRANSIENT:
        return TransientStorageError(f"{where}: {reason}")
    return StorageError(f"{where}: {reason}")
