"""HEIC through libheif (pi-heif) and AVIF through libavif (imagecodecs), with 10- and 12-bit depth kept.

libheif reads the headers of both but is built without an AV1 decoder. It turns HEIC pixels upright by irot and imir
itself; for AVIF this is left to us. The EXIF orientation of these formats is descriptive only (ISO/IEC 23008-12,
Annex A) and never applied.
"""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import pi_heif
from numpy.typing import NDArray

from pipeline.codecs.formats import ImageFormat
from pipeline.codecs.header import Cicp, ColorSpace, LdrHeader
from pipeline.codecs.isobmff import ContainerFacts, read_container
from pipeline.codecs.orientation import swaps_sides
from pipeline.codecs.samples import unassociate
from pipeline.errors import CorruptImageError, UnsupportedFormatError

_JUNK = "junk_at_end"


def read_header(data: bytes, kind: ImageFormat) -> LdrHeader:
    """Read boxes and libheif's view of the primary image. Truncated, corrupt and unsupported files raise."""
    facts = read_container(data)
    file = _open(data[: facts.num_bytes])
    image = file[file.primary_index]
    info: dict[str, Any] = image.info
    width, height = image.size
    orientation, decoder_orientation = 1, facts.orientation
    if kind is ImageFormat.AVIF:
        if facts.has_clean_aperture:
            raise UnsupportedFormatError("AVIF with a clean aperture (clap) is not supported")
        orientation, decoder_orientation = facts.orientation, 1
        if swaps_sides(orientation):
            width, height = height, width
    nclx = info.get("nclx_profile")
    has_alpha = bool(image.has_alpha)
    is_gray = _is_gray(image, facts)
    return LdrHeader(
        format=kind,
        width=width,
        height=height,
        sample_bits=int(info["bit_depth"]),
        mode=("L" if is_gray else "RGB") + ("A" if has_alpha else ""),
        color_space=ColorSpace.GRAY if is_gray else ColorSpace.RGB,
        has_alpha=has_alpha,
        exif=info.get("exif"),
        xmp=info.get("xmp"),
        orientation=orientation,
        decoder_orientation=decoder_orientation,
        icc=info.get("icc_profile"),
        cicp=Cicp(nclx["color_primaries"], nclx["transfer_characteristics"]) if nclx else None,
        num_frames=facts.num_frames if facts.is_sequence else len(file),
        warnings=_warnings(facts, len(file)),
    )


def decode(data: bytes, header: LdrHeader) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return colour (H, W) or (H, W, 3), and straight alpha (H, W) or None.

    Both in the file's own code values (10 bits: 0..1023).
    """
    if _JUNK in header.warnings:
        data = data[: read_container(data).num_bytes]
    pixels = _decode_avif(data, header) if header.format is ImageFormat.AVIF else _decode_heic(data, header)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    has_alpha_channel = pixels.shape[2] in {2, 4}
    if has_alpha_channel != header.has_alpha:
        raise CorruptImageError(f"{header.format} with {pixels.shape[2]} channels where {header.mode} was declared")
    alpha = pixels[..., -1] if has_alpha_channel else None
    if header.color_space is ColorSpace.GRAY:
        return pixels[..., 0], alpha
    return pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2), alpha


def _is_gray(image: pi_heif.HeifImage, facts: ContainerFacts) -> bool:
    """pi-heif's mode is L for 8 bits and I;10, I;12 or I;16 for more, but RGBA for gray with alpha.

    That it then knows no subsampling of chroma is not enough: it knows none of an overlay of coloured images either.
    """
    return image.mode.startswith(("L", "I")) or (facts.is_monochrome and "chroma" not in image.info)


def _open(data: bytes) -> pi_heif.HeifFile:
    # hdr_to_16bit shifts 10-bit codes left, which leaves white short of 65535: we scale them ourselves.
    file = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    if len(file) == 0:
        raise UnsupportedFormatError("no image in this HEIF container is coded in a supported way")
    return file


def _decode_heic(data: bytes, header: LdrHeader) -> NDArray[Any]:
    file = _open(data)
    image = file[file.primary_index]
    # A copy while `image` lives: the array interface of pi-heif 1.4 shows memory that dies with it.
    pixels = np.array(image)
    if image.premultiplied_alpha:
        straight = unassociate(pixels[..., :-1], pixels[..., -1], header.sample_bits)
        pixels = np.concatenate([straight, pixels[..., -1:]], axis=2)
    return pixels


def _decode_avif(data: bytes, header: LdrHeader) -> NDArray[Any]:
    if "animated" in header.warnings:
        # imagecodecs would decode every frame, and asking it for one corrupts the heap. By the brand of still images
        # libavif takes the primary item, which the header was read from, and not the sequence beside it.
        data = data[:8] + b"avif" + data[12:]
    pixels: NDArray[Any] = imagecodecs.avif_decode(data, numthreads=1)
    return pixels


def _warnings(facts: ContainerFacts, num_images: int) -> tuple[str, ...]:
    warnings = []
    if facts.is_sequence:
        warnings.append("animated")
    if facts.has_junk:
        warnings.append(_JUNK)
    if num_images > 1:
        warnings.append("multi_picture")
    if facts.has_gain_map:
        warnings.append("already_hdr_gain_map")
    return tuple(warnings)
