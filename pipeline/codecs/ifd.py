"""Image file directories (TIFF 6.0, section 2; BigTIFF) as EXIF and multi-picture files hold them, damaged or not."""

from __future__ import annotations

import struct
from typing import NamedTuple

# TIFF field type -> (struct code, size in bytes); 2 (ASCII) and 7 (UNDEFINED) are returned as bytes.
_FIELD_TYPES = {
    1: ("B", 1),
    3: ("H", 2),
    4: ("I", 4),
    5: ("II", 8),
    6: ("b", 1),
    8: ("h", 2),
    9: ("i", 4),
    10: ("ii", 8),
    11: ("f", 4),
    12: ("d", 8),
    13: ("I", 4),  # IFD (TIFF TechNote 1), which libtiff gives the pointers to EXIF and GPS
    # BigTIFF's LONG8, SLONG8 and IFD8
    16: ("Q", 8),
    17: ("q", 8),
    18: ("Q", 8),
}
_BYTES_TYPES = frozenset({2, 7})
_RATIONAL_TYPES = frozenset({5, 10})
_MAX_ENTRIES = 4096
_MAX_VALUE_BYTES = 65536

Value = bytes | tuple[float | None, ...]


class IfdForm(NamedTuple):
    """How directories are written: the struct byte order, and whether counts and offsets have 64 bits (BigTIFF)."""

    byte_order: str
    is_big: bool = False

    @property
    def offset_code(self) -> str:
        """The struct code of an offset and of an entry's count of values."""
        return "Q" if self.is_big else "I"

    @property
    def offset_bytes(self) -> int:
        """The size of an offset; a value that is no larger stands in its place."""
        return 8 if self.is_big else 4


def read_tiff_header(data: bytes) -> tuple[IfdForm, int] | None:
    """Return the form and the offset of the first directory, or None if this is no header of TIFF or BigTIFF."""
    byte_order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if byte_order is None or len(data) < 8:
        return None
    (version,) = struct.unpack_from(byte_order + "H", data, 2)
    if version == 42:
        return IfdForm(byte_order), struct.unpack_from(byte_order + "I", data, 4)[0]
    # BigTIFF says how wide its offsets are, and a zero.
    if version != 43 or len(data) < 16 or struct.unpack_from(byte_order + "HH", data, 4) != (8, 0):
        return None
    return IfdForm(byte_order, is_big=True), struct.unpack_from(byte_order + "Q", data, 8)[0]


def read_ifd(data: bytes, offset: int, form: IfdForm, tags: frozenset[int]) -> tuple[dict[int, Value], bool]:
    """Read the wanted `tags` of one image file directory.

    Returns the values that could be read (bytes for text, otherwise a tuple of numbers; a rational with a zero
    denominator is None) and whether the directory was sound. Never raises, and reads 4096 entries at most.
    """
    head = struct.Struct(form.byte_order + ("Q" if form.is_big else "H"))
    entry = struct.Struct(f"{form.byte_order}HH{form.offset_code}")
    if not 0 <= offset <= len(data) - head.size:
        return {}, False
    (num_entries,) = head.unpack_from(data, offset)
    is_sound = num_entries <= _MAX_ENTRIES
    values: dict[int, Value] = {}
    step = entry.size + form.offset_bytes
    for index in range(min(num_entries, _MAX_ENTRIES)):
        at = offset + head.size + step * index
        if at + step > len(data):
            return values, False
        tag, field_type, count = entry.unpack_from(data, at)
        if tag in tags:
            value = _read_value(data, at + entry.size, form, field_type, count)
            is_sound &= value is not None
            if value is not None:
                values.setdefault(tag, value)
    return values, is_sound


def _read_value(data: bytes, at: int, form: IfdForm, field_type: int, count: int) -> Value | None:
    code, size = ("s", 1) if field_type in _BYTES_TYPES else _FIELD_TYPES.get(field_type, ("", 0))
    num_bytes = size * count
    if not 0 < num_bytes <= _MAX_VALUE_BYTES:
        # An empty text is common and harmless; anything else of this kind is damage.
        return b"" if field_type in _BYTES_TYPES and count == 0 else None
    if num_bytes > form.offset_bytes:
        (at,) = struct.unpack_from(form.byte_order + form.offset_code, data, at)
    if at + num_bytes > len(data):
        return None
    if field_type in _BYTES_TYPES:
        return data[at : at + num_bytes]
    numbers = struct.unpack_from(form.byte_order + code * count, data, at)
    if field_type in _RATIONAL_TYPES:
        return tuple(n / d if d else None for n, d in zip(numbers[::2], numbers[1::2], strict=True))
    return numbers
