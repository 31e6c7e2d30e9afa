"""TIFF and BigTIFF (TIFF 6.0) through tifffile: the first full-resolution page, every strip and tile accounted for.

tifffile leaves zeros where a strip is missing and some of its decoders accept half a strip, so the layout is checked
against the file before anything is decoded, and the strips of those decoders with it (`tiff_segments`).
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline.codecs.formats import ImageFormat
from pipeline.codecs.header import ColorSpace, LdrHeader
from pipeline.codecs.samples import scale_samples, unassociate
from pipeline.codecs.tiff_directory import require_directory, require_values
from pipeline.codecs.tiff_segments import require_whole_segments
from pipeline.errors import AlreadyHdrError, CorruptImageError, TruncatedImageError, UnsupportedFormatError

# Damage becomes a typed error; without a handler every damaged tag would also be printed.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_SUBFILE_TYPE, _SUB_IFDS, _INK_SET, _XMP, _ICC, _DNG_VERSION = 254, 330, 332, 700, 34675, 50706
_ORIENTATION = 274
_CAMERA_RAW_PHOTOMETRICS = frozenset({32803, 34892})
_LOG_LUV_PHOTOMETRICS = frozenset({32844, 32845})
_UINTS, _FLOATS = frozenset({1, 4}), frozenset({3, 6})  # 4, undefined, is unsigned (TIFF 6.0, section 19)
_OLD_JPEG, _JPEG = 6, 7
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_ASSOCIATED, _UNASSOCIATED = 1, 2

_MAX_PAGES_SEEN = 32  # a pyramid has a dozen reduced copies

# A tile may be larger than a small image, but a hostile one must not decide how much memory is taken.
_MAX_SEGMENT_SAMPLES = 2**26

# Photometric interpretation -> (mode, colour space, number of colour samples)
_PHOTOMETRICS = {
    _MIN_IS_WHITE: ("L", ColorSpace.GRAY, 1),
    _MIN_IS_BLACK: ("L", ColorSpace.GRAY, 1),
    _RGB: ("RGB", ColorSpace.RGB, 3),
    _PALETTE: ("P", ColorSpace.RGB, 1),
    _SEPARATED: ("CMYK", ColorSpace.CMYK, 4),
    _YCBCR: ("RGB", ColorSpace.RGB, 3),
}


def read_header(data: bytes) -> LdrHeader:
    """Read the directories. Truncated, corrupt and unsupported files raise."""
    require_directory(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, num_pages = _primary_page(file, data)
        has_damage = require_values(data, page.offset)
        tags = _tag_values(page)
        _refuse_unsupported(page, tags)
        _check_segments(data, page)
        mode, space, num_color = _PHOTOMETRICS[int(page.photometric)]
        extra = _extra_samples(page, num_color)
        has_alpha = bool(extra) and extra[0] in {_ASSOCIATED, _UNASSOCIATED}
        warnings = ["metadata_damaged"] if has_damage else []
        if num_pages > 1:
            warnings.append("multi_page")
        if len(extra) > has_alpha:
            warnings.append("extra_channel_ignored")
        return LdrHeader(
            format=ImageFormat.TIFF,
            width=int(page.imagewidth),
            height=int(page.imagelength),
            # A palette's colours are delivered in 8 bits, however few an index has.
            sample_bits=8 if page.photometric == _PALETTE else int(page.bitspersample),
            mode=mode + ("A" if has_alpha else ""),
            color_space=space,
            has_alpha=has_alpha,
            exif=data,
            xmp=_as_bytes(tags.get(_XMP)),
            orientation=_orientation(tags.get(_ORIENTATION)),
            icc=_as_bytes(tags.get(_ICC)),
            num_frames=num_pages,
            warnings=tuple(warnings),
        )


def decode(data: bytes, header: LdrHeader) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return colour (H, W), (H, W, 3) or (H, W, 4) and straight alpha (H, W) or None, in the file's own code values.

    CMYK comes with the highest code as full ink.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, _ = _primary_page(file, data)
        photometric = int(page.photometric)
        # (separate samples, depth, length, width, contiguous samples)
        raw: NDArray[Any] = page.asarray(squeeze=False, maxworkers=1)
        require_whole_segments(data, page)
        if raw.dtype == np.bool_:
            raw = raw.view(np.uint8)
        raw = raw[:, 0]
        pixels = raw[0] if raw.shape[0] == 1 else np.moveaxis(raw[..., 0], 0, -1)
        num_color = _PHOTOMETRICS[photometric][2]
        color, alpha = pixels[..., :num_color], None
        if header.has_alpha:
            alpha = pixels[..., num_color]
        if photometric == _PALETTE:
            index_bits = int(page.bitspersample)
            color = _apply_palette(color[..., 0], page.colormap, index_bits)
            alpha = None if alpha is None else scale_samples(alpha, index_bits)
        if alpha is not None and _extra_samples(page, num_color)[0] == _ASSOCIATED:
            color = unassociate(color, alpha, header.sample_bits)
        if photometric == _MIN_IS_WHITE:
            color = (2**header.sample_bits - 1) - color
        return color[..., 0] if color.shape[2] == 1 else color, alpha


def _primary_page(file: tifffile.TiffFile, data: bytes) -> tuple[tifffile.TiffPage, int]:
    """Return the first page that is no reduced copy of another, and how many there are (of many pages, all count)."""
    num_pages = len(file.pages)
    if num_pages == 0:
        raise TruncatedImageError("TIFF without an image directory")
    first = file.pages[0]
    tags = _tag_values(first)
    if _DNG_VERSION in tags or data[8:10] == b"CR" or (_is_reduced(tags) and _SUB_IFDS in tags):
        raise UnsupportedFormatError("a camera raw file is not supported; develop it first")
    primary, num_full = None, max(0, num_pages - _MAX_PAGES_SEEN)
    for index in range(num_pages):
        if primary is not None and index >= _MAX_PAGES_SEEN:
            break
        page = file.pages[index]
        if isinstance(page, tifffile.TiffPage) and not _is_reduced(_tag_values(page)):
            primary = primary or page
            num_full += index < _MAX_PAGES_SEEN
    return primary or first, max(1, num_full)


def _tag_values(page: tifffile.TiffPage | tifffile.TiffFrame) -> Mapping[int, Any]:
    wanted = (_SUBFILE_TYPE, _SUB_IFDS, _INK_SET, _XMP, _ICC, _DNG_VERSION, _ORIENTATION)
    tags = page.tags if isinstance(page, tifffile.TiffPage) else {}
    return {code: tags[code].value for code in wanted if code in tags}


def _is_reduced(tags: Mapping[int, Any]) -> bool:
    value = tags.get(_SUBFILE_TYPE, 0)
    return isinstance(value, int) and bool(value & 1)


def _refuse_unsupported(page: tifffile.TiffPage, tags: Mapping[int, Any]) -> None:
    photometric, compression = int(page.photometric), int(page.compression)
    if page.sampleformat in _FLOATS or photometric in _LOG_LUV_PHOTOMETRICS:
        raise AlreadyHdrError("TIFF with floating-point or LogLuv samples holds linear HDR pixels already")
    if photometric in _CAMERA_RAW_PHOTOMETRICS:
        raise UnsupportedFormatError("a camera raw file is not supported; develop it first")
    is_known = photometric in _PHOTOMETRICS and (photometric != _YCBCR or compression == _JPEG)
    if not is_known or compression == _OLD_JPEG:
        coding = f"{_named(page.photometric)} in {_named(page.compression)} compression"
        raise UnsupportedFormatError(f"TIFF with {coding} is not supported; save it as 8- or 16-bit RGB")
    bits, num_color = page.bitspersample, _PHOTOMETRICS[photometric][2]
    if page.sampleformat not in _UINTS or not isinstance(bits, int) or not 1 <= bits <= 16:
        kind = f"{bits}-bit samples of kind {_named(page.sampleformat)}"
        raise UnsupportedFormatError(f"TIFF with {kind} is not supported; save it with 8 or 16 unsigned bits")
    if photometric == _PALETTE and bits > 8:
        raise UnsupportedFormatError("TIFF with a palette of more than 256 colours is not supported")
    if page.samplesperpixel < num_color or tags.get(_INK_SET, 1) != 1:
        raise UnsupportedFormatError(f"TIFF with {page.samplesperpixel} samples of photometric {photometric}")
    if page.imagedepth != 1:
        raise UnsupportedFormatError("TIFF with volumetric pixels is not supported")


def _named(value: Any) -> str:
    """TIFF's own name for a value that tifffile knows, and the number of another."""
    return str(getattr(value, "name", value)).replace("_", " ")


def _check_segments(data: bytes, page: tifffile.TiffPage) -> None:
    """Every strip or tile must be there, lie within the file and, if JPEG, end with its end marker."""
    offsets, counts = page.dataoffsets, page.databytecounts
    # A size that is declared as text comes as bytes, and their product with a number is memory.
    if not all(isinstance(side, int) for side in (*page.shape, *page.chunks, *page.chunked)):
        raise CorruptImageError("TIFF with sizes that are no numbers")
    expected = math.prod(page.chunked)
    if math.prod(page.chunks) > max(_MAX_SEGMENT_SAMPLES, 4 * math.prod(page.shape)):
        raise CorruptImageError("TIFF with tiles that are far larger than its image")
    if len(offsets) != len(counts) or len(offsets) < expected or not expected:
        raise CorruptImageError(f"TIFF with {len(offsets)} strips or tiles where {expected} are needed")
    for offset, count in zip(offsets[:expected], counts[:expected], strict=True):
        if not offset or not count:
            raise CorruptImageError("TIFF with a missing strip or tile")
        if offset + count > len(data):
            raise TruncatedImageError("TIFF ends before the end of a strip or tile")
        if page.compression == _JPEG and not data[offset : offset + count].rstrip(b"\0").endswith(b"\xff\xd9"):
            raise TruncatedImageError("TIFF with an unfinished JPEG strip or tile")


def _extra_samples(page: tifffile.TiffPage, num_color: int) -> tuple[int, ...]:
    """Kinds of the samples beyond colour: 0 unspecified, 1 associated alpha, 2 straight alpha."""
    num_extra = int(page.samplesperpixel) - num_color
    kinds = tuple(int(kind) for kind in page.extrasamples[:num_extra])
    return kinds + (0,) * (num_extra - len(kinds))


def _apply_palette(indices: NDArray[Any], colormap: NDArray[Any] | None, bits: int) -> NDArray[np.uint8]:
    if colormap is None or colormap.shape != (3, 2**bits):
        raise CorruptImageError("TIFF with a missing or damaged palette")
    # Entries are 16 bits wide; some writers stored 8-bit values in them.
    palette = colormap if colormap.max(initial=0) < 256 else colormap >> 8
    colors: NDArray[np.uint8] = palette.T.astype(np.uint8)[indices]
    return colors


def _orientation(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else None


def _as_bytes(value: Any) -> bytes | None:
    return bytes(value) if isinstance(value, bytes) else None
