"""The SHA-256 of a whole Parquet file within itself: a bit that a store has lost is told from a value.

The digest stands in the file's key-value metadata, and is that of the file with zeros in its place. What a Parquet
reader checks by itself lets about one flipped bit in fifteen of a part through as another value, the names of columns
among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pipeline.errors import ManifestError

META_SEAL = b"hdrfleet.sha256"
UNSEALED = b"0" * 64
_TAIL_BYTES = 8  # the footer's length and the magic number


def seal(data: bytes) -> bytes:
    """Return the bytes of a file that was written with `UNSEALED` as the value of `META_SEAL`, with its digest there.

    Raises ValueError where there is no such value.
    """
    at = data.rindex(UNSEALED, _footer_start(data))
    return data[:at] + hashlib.sha256(data).hexdigest().encode() + data[at + len(UNSEALED) :]


def require_seal(data: bytes, metadata: Mapping[bytes, bytes], key: str) -> None:
    """Raise ManifestError unless the file is as it was sealed; one without a seal, of an earlier release, passes."""
    digest = metadata.get(META_SEAL)
    if digest is None:
        return
    at = data.find(digest, _footer_start(data))
    if len(digest) == len(UNSEALED) and at >= 0:
        sealed = hashlib.sha256(data[:at])
        sealed.update(UNSEALED)
        sealed.update(data[at + len(digest) :])
        if sealed.hexdigest().encode() == digest:
            return
    raise ManifestError(f"{key}: is not what was written: its SHA-256 differs from the one within it")


def _footer_start(data: bytes) -> int:
    return max(0, len(data) - _TAIL_BYTES - int.from_bytes(data[-_TAIL_BYTES:-4], "little"))
