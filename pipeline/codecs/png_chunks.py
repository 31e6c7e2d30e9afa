"""The chunks of a PNG, each with its checksum, and its pixels (W3C PNG, third edition; ISO/IEC 15948)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
from numpy.typing import NDArray

from pipeline.codecs.formats import PNG_SIGNATURE
from pipeline.errors import CorruptImageError, TruncatedImageError

# In a file that begins with its signature and IHDR: each field of 11.2.1 is at a fixed place.
_DEPTH_AT, _COLOR_TYPE_AT, _INTERLACE_AT = 24, 25, 28
_INFLATED_AT_ONCE = 2**16
# What decides about pixels; a damaged profile is treated like one that does not work.
_NEEDED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"cICP", b"sRGB", b"gAMA", b"cHRM"})


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk: its type, where its data lies in the file, and whether its CRC is right."""

    kind: bytes
    start: int  # of its data
    end: int
    is_sound: bool


def walk_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield each chunk through IEND. Raises CorruptImageError for a wrong checksum where it may matter to pixels."""
    at = len(PNG_SIGNATURE)
    view = memoryview(data)
    while True:
        if at + 8 > len(data):
            raise TruncatedImageError("PNG ends before its IEND chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha() or length > 2**31 - 1:
            raise CorruptImageError("PNG with a damaged chunk header")
        end = at + 8 + length
        if end + 4 > len(data):
            raise TruncatedImageError(f"PNG ends within its {kind.decode('ascii')} chunk")
        is_sound = zlib.crc32(view[at + 4 : end]) == int.from_bytes(data[end : end + 4], "big")
        if not is_sound and _may_be_needed(kind):
            raise CorruptImageError(f"PNG with a wrong checksum in its {kind.decode('ascii')} chunk")
        yield Chunk(kind, at + 8, end, is_sound)
        if kind == b"IEND":
            return
        at = end + 4


def _may_be_needed(kind: bytes) -> bool:
    """Whether this type, or one that differs in a bit, decides about pixels: the damage may be in the type itself."""
    is_critical = not kind[0] & 0x20
    code = int.from_bytes(kind, "big")
    return is_critical or any((code ^ int.from_bytes(needed, "big")).bit_count() <= 1 for needed in _NEEDED)


def decode_pixels(data: bytes, *, keeps_trns: bool) -> NDArray[Any]:
    """Return the samples as libpng has them: (H, W) or (H, W, 2 to 4), 8 or 16 bits, palettes expanded.

    `data` begins with a sound IHDR; its tRNS counts only with `keeps_trns`. Raises what the library does, and
    TruncatedImageError and CorruptImageError.
    """
    # Without what says nothing of pixels: libpng writes a line to stderr of much that it finds odd.
    kept_too = {b"tRNS"} if keeps_trns and data[_COLOR_TYPE_AT] < 4 else set()
    kept = [chunk for chunk in walk_chunks(data) if not chunk.kind[0] & 0x20 or chunk.kind in kept_too]
    data = PNG_SIGNATURE + b"".join(data[chunk.start - 8 : chunk.end + 4] for chunk in kept)
    depth, color_type = data[_DEPTH_AT], data[_COLOR_TYPE_AT]
    pixels: NDArray[Any]
    # It warns of each interlaced file, too. libspng is silent, but reads neither tRNS nor LA nor all of 16 bits here.
    is_for_spng = color_type == 6 or (color_type != 4 and depth <= 8 and not any(c.kind == b"tRNS" for c in kept))
    if data[_INTERLACE_AT] and is_for_spng:
        _check_stream(data)
        pixels = imagecodecs.spng_decode(data)
    else:
        pixels = imagecodecs.png_decode(data)
    return pixels


def _check_stream(data: bytes) -> None:
    """Raise TruncatedImageError or CorruptImageError for what libspng passes over: a wrong or missing Adler-32."""
    inflater = zlib.decompressobj()
    view = memoryview(data)
    pieces = (
        view[at : min(at + _INFLATED_AT_ONCE, chunk.end)]
        for chunk in walk_chunks(data)
        if chunk.kind == b"IDAT"
        for at in range(chunk.start, chunk.end, _INFLATED_AT_ONCE)
    )
    try:
        for piece in pieces:
            rest: bytes | memoryview = piece
            while rest and not inflater.eof:
                inflater.decompress(rest, _INFLATED_AT_ONCE)
                rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise CorruptImageError(f"PNG with damaged image data: {error}") from error
    if not inflater.eof:
        raise TruncatedImageError("PNG with not enough image data")
