"""Whether a TIFF holds the values that its directories point to: tifffile passes over those that it does not find.

A program that writes the directory last leaves its long values at the very end: a file that lost a byte there has no
bit depth any more, and one that lost its profile has other colours.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.errors import TruncatedImageError

# Bytes of the field types 1 to 13 (TIFF 6.0, section 2, and TechNote 1), and of BigTIFF's 16 to 18.
_TYPE_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | dict.fromkeys(
    range(16, 19), 8
)
# Tags that are about the picture's shape, samples and colours; others are metadata, and lose no pixel.
_NEEDED = frozenset({*range(254, 267), 273, 274, *range(277, 281), 284, *range(290, 294), 301, 317, 318, 319, 320})
_NEEDED |= {*range(322, 326), 332, 338, 339, 342, 347, *range(512, 522), *range(529, 533), 34675}
_MAX_ENTRIES = 4096


class _Form(NamedTuple):
    """How a directory is written: its byte order, and the format of an offset (and of an entry's count)."""

    byte_order: str
    offset: str
    num_entries: str

    @property
    def offset_bytes(self) -> int:
        return struct.calcsize(self.byte_order + self.offset)


class _Entry(NamedTuple):
    tag: int
    end: int  # of its value in the file


def require_directory(data: bytes) -> None:
    """Raise TruncatedImageError where the first directory does not lie in the file as a whole."""
    form = _form(data)
    at = 8 if form.offset == "Q" else 4
    if len(data) < at + form.offset_bytes:
        raise TruncatedImageError("TIFF ends within its header")
    (offset,) = struct.unpack_from(form.byte_order + form.offset, data, at)
    for _ in _entries(data, form, offset):
        pass


def require_values(data: bytes, offset: int) -> bool:
    """Raise TruncatedImageError where the directory at `offset` points beyond the file for what pixels need.

    Returns whether it does so for metadata.
    """
    lost = {entry.tag for entry in _entries(data, _form(data), offset) if entry.end > len(data)}
    if lost & _NEEDED:
        raise TruncatedImageError(f"TIFF ends before the value of its tag {min(lost & _NEEDED)}")
    return bool(lost)


def _form(data: bytes) -> _Form:
    byte_order = "<" if data[:2] == b"II" else ">"
    return _Form(byte_order, "Q", "Q") if b"+" in data[2:4] else _Form(byte_order, "I", "H")


def _entries(data: bytes, form: _Form, offset: int) -> Iterator[_Entry]:
    head = struct.calcsize(form.byte_order + form.num_entries)
    entry = struct.Struct(f"{form.byte_order}HH{form.offset}")
    step = entry.size + form.offset_bytes
    if offset + head > len(data):
        raise TruncatedImageError("TIFF ends before its directory")
    (num_entries,) = struct.unpack_from(form.byte_order + form.num_entries, data, offset)
    at = offset + head
    if num_entries <= _MAX_ENTRIES and at + num_entries * step > len(data):
        raise TruncatedImageError("TIFF ends within its directory")
    for _ in range(min(num_entries, _MAX_ENTRIES, (len(data) - at) // step)):
        tag, kind, count = entry.unpack_from(data, at)
        num_bytes = _TYPE_BYTES.get(kind, 0) * count
        end = at + step
        if num_bytes > form.offset_bytes:
            (start,) = struct.unpack_from(form.byte_order + form.offset, data, at + entry.size)
            end = start + num_bytes
        yield _Entry(tag, end)
        at += step
