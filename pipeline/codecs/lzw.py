"""Where an LZW stream of a TIFF (TIFF 6.0, section 13) really ends: libraries fill up the bits that a cut one lacks.

A strip that is cut within its last code decodes to its full size, with a pixel that was never there. The codes are
walked here without decoding them: how wide the k-th one after a Clear is follows from k alone.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptImageError

_CLEAR, _END = 256, 257
# After these many codes since the last Clear the table has its 511th, 1023rd and 2047th entry, and codes grow.
_GROWS_AT = (254, 766, 1790)
_MIN_WIDTH, _MAX_WIDTH = 9, 12
# Codes that are looked at together; a Clear comes after 3,838 of them at the latest, and seldom before.
_BLOCK_CODES = 4096
_FIRST_CODES = 64
# A table that is thrown away all the time compresses nothing, and costs a step of the walk each time.
_MAX_CLEARS, _BYTES_PER_CLEAR = 1000, 32

_WIDTHS = _MIN_WIDTH + np.searchsorted(np.array(_GROWS_AT), np.arange(_BLOCK_CODES), side="right")
_STARTS = np.concatenate(([0], np.cumsum(_WIDTHS)))


def is_made_up(data: bytes, num_bytes: int) -> bool:
    """Whether any of the first `num_bytes` that a decoder makes of this stream is not in the codes that are there.

    For streams that a decoder has taken. One with its end marker is whole; of one without, the codes that are wholly
    there must give the same bytes. Raises CorruptImageError for a stream that nobody would write.
    """
    if _is_of_old_kind(data):
        return False
    end_bits, width = _find_end(data)
    if not width:
        return False
    whole = int.from_bytes(data, "big") >> (8 * len(data) - end_bits)
    num_ended = -(-(end_bits + width) // 8)
    ended = ((whole << width) | _END) << (8 * num_ended - end_bits - width)
    try:
        there = imagecodecs.lzw_decode(ended.to_bytes(num_ended, "big"))[:num_bytes]
    except imagecodecs.LzwError:  # nothing is left of it
        return True
    return len(there) < num_bytes or there != imagecodecs.lzw_decode(data)[:num_bytes]


def _is_of_old_kind(data: bytes) -> bool:
    """Writers before TIFF 5.0 packed codes from the other end; libtiff tells them by these bits as well."""
    return len(data) > 1 and data[0] == 0 and bool(data[1] & 1)


def _find_end(data: bytes) -> tuple[int, int]:
    """Return (bits of the codes that are wholly there, width of the code that is missing after them).

    The width is 0 where the stream has its end.
    """
    padded = np.frombuffer(data + b"\0\0\0", np.uint8)
    num_bits, start, num_clears = 8 * len(data), 0, 0
    while True:
        code, end, width = _walk_to_clear(padded, num_bits, start)
        if code == _END:
            return end, 0
        if code != _CLEAR:
            return end, 0 if _has_narrow_end(padded, num_bits, end, width) else width
        start = end
        num_clears += 1
        if num_clears > _MAX_CLEARS + len(data) // _BYTES_PER_CLEAR:
            raise CorruptImageError("TIFF with an LZW strip that starts anew all the time")


def _walk_to_clear(padded: NDArray[np.uint8], num_bits: int, start: int) -> tuple[int, int, int]:
    """Walk from behind a Clear to the next or to the end: (that code or -1, the bit behind it, its width).

    Where the stream stops within a code, that is -1, the bit where the code begins, and its width.
    """
    first, chunk = 0, _FIRST_CODES
    while True:
        index = np.arange(first, first + chunk)
        at = start + _start_of(index)
        widths = np.where(index < _BLOCK_CODES, _WIDTHS[np.minimum(index, _BLOCK_CODES - 1)], _MAX_WIDTH)
        is_there = at + widths <= num_bits
        codes = _read(padded, at[is_there], widths[is_there])
        special = np.flatnonzero((codes == _CLEAR) | (codes == _END))
        if len(special):
            found = special[0]
            return int(codes[found]), int(at[found] + widths[found]), int(widths[found])
        if len(codes) < chunk:
            return -1, int(at[len(codes)]), int(widths[len(codes)])
        first, chunk = first + chunk, _BLOCK_CODES


def _start_of(index: NDArray[np.int64]) -> NDArray[np.int64]:
    beyond = np.maximum(index - _BLOCK_CODES, 0)
    starts: NDArray[np.int64] = _STARTS[np.minimum(index, _BLOCK_CODES)] + _MAX_WIDTH * beyond
    return starts


def _has_narrow_end(padded: NDArray[np.uint8], num_bits: int, at: int, width: int) -> bool:
    """Some writers forget that codes have just grown, and write an end that is one bit narrower."""
    if width <= _MIN_WIDTH or at + width - 1 > num_bits:
        return False
    return int(_read(padded, np.array([at]), np.array([width - 1]))[0]) == _END


def _read(padded: NDArray[np.uint8], at: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int64]:
    byte = at >> 3
    window = (padded[byte].astype(np.int64) << 16) | (padded[byte + 1].astype(np.int64) << 8) | padded[byte + 2]
    codes: NDArray[np.int64] = (window >> (24 - (at & 7) - widths)) & ((1 << widths) - 1)
    return codes
