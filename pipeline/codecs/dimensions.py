"""An image's size from a few bytes of its file, for a whole library to be measured without being read.

Parsers of our own over bytes, no codec library: a file that would crash a decoder costs nothing here. They look only at
what says how large the image is; whether the rest can be decoded, `ldr.probe_ldr` finds out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from pipeline.codecs.formats import ImageFormat, sniff_format, unsupported
from pipeline.codecs.isobmff import primary_size
from pipeline.errors import CorruptImageError

HEAD_BYTES = 256 * 2**10

_MAX_DIRECTORIES = 16
_MAX_ENTRIES = 1024
# SOF0 to SOF15 without DHT, JPG and DAC (T.81, table B.1).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_Size = tuple[int, int]


def read_dimensions(read_range: Callable[[int, int], bytes]) -> tuple[int, int] | None:
    """(width, height) in pixels as stored, before any orientation; None where the first 256 KiB do not say.

    `read_range(start, num_bytes)` returns up to so many bytes of the file. It is called once, and for a TIFF once more
    for each directory that lies behind (16 at most, 20 KiB each). Raises UnsupportedFormatError for other formats,
    CorruptImageError for a header that cannot be right.
    """
    head = read_range(0, HEAD_BYTES)
    kind = sniff_format(head)
    if kind is None:
        raise unsupported(head)
    try:
        size = _tiff(head, read_range) if kind is ImageFormat.TIFF else _PARSERS[kind](head)
    except (struct.error, IndexError) as error:
        raise CorruptImageError(f"{kind}: a header that cannot be read") from error
    if size is not None and min(size) <= 0:
        raise CorruptImageError(f"{kind} declares {size[0]}x{size[1]} px")
    return size


def _jpeg(head: bytes) -> _Size | None:
    at = 2
    while (at := head.find(b"\xff", at)) >= 0 and at + 9 <= len(head):
        marker = head[at + 1]
        if marker in {0x00, 0xFF}:  # no marker, or a fill byte (T.81 B.1.1.2)
            at += 1
        elif marker in _STANDALONE:
            at += 2
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        elif marker in {0xD9, 0xDA}:
            raise CorruptImageError("JPEG without image data")
        else:
            at += 2 + max(2, int.from_bytes(head[at + 2 : at + 4], "big"))
    return None


def _png(head: bytes) -> _Size | None:
    if head[12:16] != b"IHDR":
        raise CorruptImageError("PNG without exactly one IHDR chunk at its beginning")
    width, height = struct.unpack_from(">II", head, 16)
    return width, height


def _webp(head: bytes) -> _Size | None:
    kind, body = head[12:16], head[20:30]
    if kind == b"VP8X":  # RFC 9649, 2.7: 24-bit sides less one
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":  # RFC 9649, 3.4: 14-bit sides less one behind the signature
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":  # RFC 6386, 9.1: 14-bit sides below 2-bit scales
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise CorruptImageError("WebP without image data")


def _tiff(head: bytes, read_range: Callable[[int, int], bytes]) -> _Size | None:
    """The first directory that is no reduced copy of another (NewSubfileType's lowest bit), else the first."""
    order = "<" if head[:2] == b"II" else ">"
    is_big = head[2:4] in {b"+\0", b"\0+"}
    (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), head, 8 if is_big else 4)
    first: _Size | None = None
    for _ in range(_MAX_DIRECTORIES):
        if at == 0:
            break
        tags, at = _directory(head, at, order, read_range, is_big=is_big)
        if 256 not in tags or 257 not in tags:
            continue
        first = first or (tags[256], tags[257])
        if not tags.get(254, 0) & 1:
            return tags[256], tags[257]
    return first


def _directory(
    head: bytes, at: int, order: str, read_range: Callable[[int, int], bytes], *, is_big: bool
) -> tuple[dict[int, int], int]:
    """The SHORT and LONG tags of the directory at `at`, and where the next one is."""
    count_format, entry_bytes, next_format = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    num_head, num_next = struct.calcsize(order + count_format), struct.calcsize(order + next_format)
    most = num_head + _MAX_ENTRIES * entry_bytes + num_next
    data = head[at : at + most] if at + most <= len(head) or len(head) < HEAD_BYTES else read_range(at, most)
    (count,) = struct.unpack_from(order + count_format, data, 0)
    tags: dict[int, int] = {}
    for index in range(min(count, _MAX_ENTRIES)):
        start = num_head + index * entry_bytes
        code, kind = struct.unpack_from(order + "HH", data, start)
        if kind in {3, 4}:
            value = start + entry_bytes - (8 if is_big else 4)
            (tags[code],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, value)
    if count > _MAX_ENTRIES:
        return tags, 0
    (following,) = struct.unpack_from(order + next_format, data, num_head + count * entry_bytes)
    return tags, following


_PARSERS: dict[ImageFormat, Callable[[bytes], _Size | None]] = {
    ImageFormat.JPEG: _jpeg,
    ImageFormat.PNG: _png,
    ImageFormat.WEBP: _webp,
    ImageFormat.AVIF: primary_size,
    ImageFormat.HEIC: primary_size,
}
