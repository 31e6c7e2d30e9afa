"""Whether the strips and tiles of a TIFF hold all of their pixels, where a decoder that takes them would not tell.

Each check is one for segments that were decoded before, and refuses no whole one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline.codecs import lzw
from pipeline.codecs.jpeg import require_whole
from pipeline.errors import CorruptImageError, TruncatedImageError

_NONE, _RLE, _GROUP_3, _GROUP_4, _LZW, _JPEG = 1, 2, 3, 4, 5, 7

# Behind the end of a fax strip a decoder finds white; these would give it black. Ones are a valid code in every mode
# and complete most codes that were cut: "as the line above", or short runs. In Group 3 a line's end (eleven zeros and a
# one) may be cut anywhere; in Group 4, lines follow that are all black: no white, 26 x 2560 px and 0 px of black.
_ONES = "1" * 64
_BLACK_LINE = "001" + "00110101" + "000000011111" * 26 + "0000110111"
_END_OF_BLOCK = "000000000001" * 2
_MARGIN_BYTES = 32
_MIN_ZEROS = 16
_BLOCK_BYTES = 2**16  # looked at together: a string of bits takes eight times as much
_TAILS = {
    _RLE: (_ONES,),
    _GROUP_3: tuple("0" * num_zeros + _ONES for num_zeros in range(12)),
    _GROUP_4: (_ONES, _ONES + _BLACK_LINE * 2),
}


def require_whole_segments(data: bytes, page: tifffile.TiffPage) -> None:
    """Raise TruncatedImageError or CorruptImageError where a strip or tile lacks data that its pixels need."""
    if page.compression == _NONE:
        _require_whole_plain(page)
    elif page.compression == _LZW:
        _require_whole_lzw(data, page)
    elif page.compression == _JPEG and page.jpegheader is None:
        _require_whole_jpeg(data, page)
    elif page.compression in _TAILS:
        _require_whole_fax(data, page)


def _segments(data: bytes, page: tifffile.TiffPage) -> Iterator[bytes]:
    num_segments = math.prod(page.chunked)
    for offset, count in zip(page.dataoffsets[:num_segments], page.databytecounts[:num_segments], strict=True):
        yield data[offset : offset + count]


def _require_whole_plain(page: tifffile.TiffPage) -> None:
    """A single strip is read at the length that its pixels need, whatever its byte count says lies there."""
    counts = page.databytecounts[: math.prod(page.chunked)]
    if any(count < _segment_bytes(page, index) for index, count in enumerate(counts)):
        raise TruncatedImageError("TIFF with a strip or tile that is shorter than its pixels")


def _require_whole_jpeg(data: bytes, page: tifffile.TiffPage) -> None:
    """Decode strictly what was decoded leniently: each segment is a stream of its own, its tables may stand apart."""
    if page.jpegtables and not any(page.jpegtables[-_MIN_ZEROS:]):
        raise TruncatedImageError("TIFF whose JPEG tables end in zeros: they were never written")
    tables = (page.jpegtables or b"")[2:].removesuffix(b"\xff\xd9")
    for segment in _segments(data, page):
        require_whole(segment[:2] + tables + segment[2:])


def _require_whole_fax(data: bytes, page: tifffile.TiffPage) -> None:
    """A segment that is whole decodes to the same pixels whatever follows it, and needs nearly all of its bytes."""
    is_group_4 = page.compression == _GROUP_4
    tails = _TAILS[int(page.compression)]
    for index, segment in enumerate(_segments(data, page)):
        pixels = page.decode(segment, index)[0]
        coded = segment if page.fillorder == 1 else bytes(imagecodecs.bitorder_decode(segment))
        codes, rest = _without_end_of_block(coded) if is_group_4 else (coded, "")
        if not all(_is_decoded_to(pixels, page, codes, rest + tail, index) for tail in tails):
            raise TruncatedImageError("TIFF with an unfinished fax strip or tile")
        if not is_group_4 or page.is_tiled:
            continue
        needed = _needed_part(coded, pixels.reshape(-1, page.imagewidth) != 0)
        if needed and all(_is_decoded_to(pixels, page, needed, tail, index) for tail in tails):
            raise CorruptImageError("TIFF with a damaged fax strip")


def _without_end_of_block(coded: bytes) -> tuple[bytes, str]:
    """Return the bytes and the last few bits before the end-of-block code, or all bytes where it is missing."""
    stripped = coded.rstrip(b"\0")
    last = _bits(stripped[-8:]).rstrip("0")
    return (stripped[:-8], last.removesuffix(_END_OF_BLOCK)) if last.endswith(_END_OF_BLOCK) else (coded, "")


def _needed_part(coded: bytes, lines: NDArray[np.bool_]) -> bytes:
    """Return what a whole strip of T.6 needs at least: without what its last white lines and its end may take.

    A decoder that meets an invalid code leaves the rest white and the rest of the strip unread. A white line takes one
    bit, the first one four for two changes of the line above (T.6, 2.2); more is granted. Empty where nothing can be
    said, as where the strip goes on behind an end-of-block code.
    """
    inked = np.flatnonzero(lines.any(axis=1))
    if not len(inked):
        return b""
    num_white = len(lines) - 1 - int(inked[-1])
    num_changes = int(np.count_nonzero(np.diff(lines[inked[-1]]))) + 2
    num_needed = len(coded.rstrip(b"\0")) - (num_changes // 4 + num_white + _MARGIN_BYTES)
    return b"" if num_needed <= 0 or _has_end_of_block(coded[: num_needed + 3]) else coded[:num_needed]


def _has_end_of_block(coded: bytes) -> bool:
    return any(_END_OF_BLOCK in _bits(coded[at : at + _BLOCK_BYTES + 3]) for at in range(0, len(coded), _BLOCK_BYTES))


def _bits(coded: bytes) -> str:
    return f"{int.from_bytes(coded, 'big'):0{8 * len(coded)}b}" if coded else ""


def _is_decoded_to(pixels: NDArray[Any], page: tifffile.TiffPage, coded: bytes, bits: str, index: int) -> bool:
    """Whether the segment with these bytes and these bits behind them gives these pixels."""
    bits += "1" * (-len(bits) % 8)
    coded += int(bits, 2).to_bytes(len(bits) // 8, "big")
    segment = coded if page.fillorder == 1 else bytes(imagecodecs.bitorder_decode(coded))
    try:
        return np.array_equal(page.decode(segment, index)[0], pixels)
    except imagecodecs.CcittError:  # T.6 without a first line
        return False


def _require_whole_lzw(data: bytes, page: tifffile.TiffPage) -> None:
    """Raise TruncatedImageError where a strip or tile that was decoded lacks codes that its pixels need."""
    for index, segment in enumerate(_segments(data, page)):
        strip = segment if page.fillorder == 1 else bytes(imagecodecs.bitorder_decode(segment))
        if lzw.is_made_up(strip, _segment_bytes(page, index)):
            raise TruncatedImageError("TIFF with an unfinished LZW strip or tile")


def _segment_bytes(page: tifffile.TiffPage, index: int) -> int:
    """Bytes that a strip or tile holds decoded: rows are filled up to whole bytes, the last strip may be shorter."""
    num_samples = page.samplesperpixel if page.planarconfig == 1 else 1
    if page.is_tiled:
        num_rows, num_columns = int(page.tilelength), int(page.tilewidth)
    else:
        num_strips = -(-page.imagelength // page.rowsperstrip)
        num_rows = min(page.rowsperstrip, page.imagelength - index % num_strips * page.rowsperstrip)
        num_columns = int(page.imagewidth)
    return num_rows * (-(-num_columns * num_samples * int(page.bitspersample) // 8))
