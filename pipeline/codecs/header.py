"""What every format reader reports before any pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from numpy.typing import NDArray

from pipeline.codecs.formats import ImageFormat


class ColorSpace(StrEnum):
    """The colour model of the decoded samples; the value is the name that littlecms bindings use."""

    GRAY = "gray"
    RGB = "rgb"
    CMYK = "cmyk"


# A larger profile is not parsed, whatever it holds: those of printers and scanners take 0.5 to 4 MiB.
MAX_ICC_BYTES = 16 * 2**20

# Transfer characteristics of ITU-T H.273 that mean HDR: 16 is PQ (SMPTE ST 2084), 18 is HLG (ARIB STD-B67).
HDR_TRANSFERS = frozenset({16, 18})


@dataclass(frozen=True, slots=True)
class Cicp:
    """Coding-independent code points (ITU-T H.273): colour primaries and transfer characteristics."""

    primaries: int
    transfer: int

    @property
    def is_hdr(self) -> bool:
        """True for PQ and HLG."""
        return self.transfer in HDR_TRANSFERS


@dataclass(frozen=True, slots=True)
class PngColor:
    """PNG's gAMA (the encoding exponent, about 0.45455) and cHRM (white, red, green, blue as x, y)."""

    gamma: float | None
    chromaticities: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class LdrHeader:
    """Facts of one file as it is stored.

    `width` and `height` are the decoder's output size in pixels, before `orientation` (EXIF 1..8) is applied.
    `bit_depth` is what is delivered, 8 or 16; `sample_bits` what the file stores. Where the decoder itself turns
    the pixels (HEIC), `orientation` is 1 and `decoder_orientation` says what it did. At most one of `icc`, `cicp`
    and `png_color` defines the colours, in this order; `is_icc_broken` says that a profile was there but
    incomplete, `is_narrow_range` that black and white are the codes 16 and 235 (of 8 bits).
    """

    format: ImageFormat
    width: int
    height: int
    sample_bits: int
    mode: str
    color_space: ColorSpace
    has_alpha: bool = False
    exif: bytes | None = None
    xmp: bytes | None = None
    orientation: int | None = None
    decoder_orientation: int = 1
    icc: bytes | None = None
    is_icc_broken: bool = False
    cicp: Cicp | None = None
    png_color: PngColor | None = None
    is_narrow_range: bool = False
    num_frames: int = 1
    warnings: tuple[str, ...] = ()

    @property
    def bit_depth(self) -> int:
        """8 or 16: the depth of the delivered samples."""
        return 8 if self.sample_bits <= 8 else 16


class Samples(NamedTuple):
    """What a format's decoder returns: colour, alpha or None, and warning codes that only decoding can give."""

    color: NDArray[Any]
    alpha: NDArray[Any] | None
    warnings: tuple[str, ...] = ()
