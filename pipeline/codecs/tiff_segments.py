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
from pipeline.errors import TruncatedImageError

_RLE, _GROUP_3, _GROUP_4, _LZW, _JPEG = 2, 3, 4, 5, 7

# Behind the end of a fax strip a decoder finds white; these would give it black. Ones are a valid code in every mode
# and complete most codes that were cut: "as the line above", or short runs. In Group 3 a line's end (eleven zeros and a
# one) may be cut anywhere; in Group 4, lines follow that are all black: no white, 26 x 2560 px and 0 px of black.
_ONES = "1" * 64
_BLACK_LINE = "001" + "00110101" + "000000011111" * 26 + "0000110111"
_TAILS = {
    _RLE: (_ONES,),
    _GROUP_3: tuple("0" * num_zeros + _ONES for num_zeros in range(12)),
    _GROUP_4: (_ONES, _ONES + _BLACK_LINE * 2),
}


def require_whole_segments(data: bytes, page: tifffile.TiffPage) -> None:
    """Raise TruncatedImageError or CorruptImageError where a strip or tile lacks data that its pixels need."""
    if page.compression == _LZW:
        _require_whole_lzw(data, page)
    elif page.compression == _JPEG and page.jpegheader is None:
        _require_whole_jpeg(data, page)
    elif page.compression in _TAILS:
        _require_whole_fax(data, page)


def _segments(data: bytes, page: tifffile.TiffPage) -> Iterator[bytes]:
    num_segments = math.prod(page.chunked)
    for offset, count in zip(page.dataoffsets[:num_segments], page.databytecounts[:num_segments], strict=True):
        yield data[offset : offset + count]


def _require_whole_jpeg(data: bytes, page: tifffile.TiffPage) -> None:
    """Decode strictly what was decoded leniently: each segment is a stream of its own, its tables may stand apart."""
    tables = (page.jpegtables or b"")[2:].removesuffix(b"\xff\xd9")
    for segment in _segments(data, page):
        require_whole(segment[:2] + tables + segment[2:])


def _require_whole_fax(data: bytes, page: tifffile.TiffPage) -> None:
    """A segment that is whole decodes to the same pixels whatever follows it."""
    tails = [_packed(bits, page) for bits in _TAILS[int(page.compression)]]
    for index, segment in enumerate(_segments(data, page)):
        alone = page.decode(segment, index)[0]
        if not all(_is_decoded_to(alone, page, segment + tail, index) for tail in tails):
            raise TruncatedImageError("TIFF with an unfinished fax strip or tile")


def _is_decoded_to(pixels: NDArray[Any], page: tifffile.TiffPage, segment: bytes, index: int) -> bool:
    try:
        return np.array_equal(page.decode(segment, index)[0], pixels)
    except imagecodecs.CcittError:  # T.6 without a first line
        return False


def _packed(bits: str, page: tifffile.TiffPage) -> bytes:
    packed = int(bits.ljust(-(-len(bits) // 8) * 8, "1"), 2).to_bytes(-(-len(bits) // 8), "big")
    return packed if page.fillorder == 1 else bytes(imagecodecs.bitorder_decode(packed))


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
