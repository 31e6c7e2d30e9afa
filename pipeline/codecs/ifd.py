"""Image file directories (TIFF 6.0, section 2) as EXIF and multi-picture files hold them, damaged or not."""

from __future__ import annotations

import struct

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
}
_BYTES_TYPES = frozenset({2, 7})
_RATIONAL_TYPES = frozenset({5, 10})
_MAX_ENTRIES = 4096
_MAX_VALUE_BYTES = 65536

Value = bytes | tuple[float | None, ...]


def read_tiff_header(data: bytes) -> tuple[str, int] | None:
    """Return the struct byte order and the offset of the first directory, or None if this is no classic TIFF header."""
    byte_order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if byte_order is None or len(data) < 8:
        return None
    return byte_order, struct.unpack_from(byte_order + "I", data, 4)[0]


def read_ifd(data: bytes, offset: int, byte_order: str, tags: frozenset[int]) -> tuple[dict[int, Value], bool]:
    """Read the wanted `tags` of one image file directory.

    Returns the values that could be read (bytes for text, otherwise a tuple of numbers; a rational with a zero
    denominator is None) and whether the directory was sound.
    """
    if offset + 2 > len(data):
        return {}, False
    (num_entries,) = struct.unpack_from(byte_order + "H", data, offset)
    is_sound = num_entries <= _MAX_ENTRIES
    values: dict[int, Value] = {}
    for index in range(min(num_entries, _MAX_ENTRIES)):
        at = offset + 2 + 12 * index
        if at + 12 > len(data):
            return values, False
        tag, field_type, count = struct.unpack_from(byte_order + "HHI", data, at)
        if tag in tags:
            value = _read_value(data, at + 8, byte_order, field_type, count)
            is_sound &= value is not None
            if value is not None:
                values.setdefault(tag, value)
    return values, is_sound


def _read_value(data: bytes, at: int, byte_order: str, field_type: int, count: int) -> Value | None:
    code, size = ("s", 1) if field_type in _BYTES_TYPES else _FIELD_TYPES.get(field_type, ("", 0))
    num_bytes = size * count
    if not 0 < num_bytes <= _MAX_VALUE_BYTES:
        # An empty text is common and harmless; anything else of this kind is damage.
        return b"" if field_type in _BYTES_TYPES and count == 0 else None
    if num_bytes > 4:
        (at,) = struct.unpack_from(byte_order + "I", data, at)
    if at + num_bytes > len(data):
        return None
    if field_type in _BYTES_TYPES:
        return data[at : at + num_bytes]
    numbers = struct.unpack_from(byte_order + code * count, data, at)
    if field_type in _RATIONAL_TYPES:
        return tuple(n / d if d else None for n, d in zip(numbers[::2], numbers[1::2], strict=True))
    return numbers
