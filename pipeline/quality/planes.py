"""Tiles of an LDR and HDR pair as planar float32 in the domains that the statistics need.

8- and 16-bit codes and half floats have few values: their curves are tables, which makes measuring cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import GAMMA, network_to_linear, srgb_to_linear
from pipeline.codecs.exr import HdrArray, HdrImage
from pipeline.quality.banding import CODE_UNITS
from pipeline.quality.noise import BLOCK_PX

FloatArray = npt.NDArray[np.float32]
CodeArray = npt.NDArray[np.int16]
BoolArray = npt.NDArray[np.bool_]
LdrArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
ScalarT = TypeVar("ScalarT", bound=np.generic)

TILE_PX = 512  # thin images get longer tiles of as many pixels; temporaries stay near 30 MB
HALO_PX = 16  # what noise and banding look at beyond a tile's right and lower edge

_LARGEST_LINEAR = np.float32(2.0**100)  # sums and ratios of such values stay finite
_GREEN = 1


@dataclass(frozen=True, slots=True)
class LdrTile:
    """One tile of the input. `codes` is planar (3, h, w); `green` and `green_codes` include the halo.

    `green` is encoded as the network sees it, `green_codes` as `banding` counts it.
    """

    codes: LdrArray
    green: FloatArray
    green_codes: CodeArray

    @property
    def full_scale(self) -> int:
        """The code of 1.0."""
        return int(np.iinfo(self.codes.dtype).max)

    def encoded(self) -> FloatArray:
        """The network's input domain: code / full scale, (3, h, w)."""
        return np.multiply(self.codes, np.float32(1 / self.full_scale), dtype=np.float32)

    def linear(self) -> FloatArray:
        """Linear light by the network's 2.24 law, (3, h, w)."""
        return _look_up(_code_table(network_to_linear, self.full_scale), self.codes)

    def every(self, step: int) -> LdrTile:
        """The tile with every `step`-th row and column of `codes`."""
        codes: LdrArray = self.codes[:, ::step, ::step].copy(order="C")
        return replace(self, codes=codes)

    def srgb_linear(self) -> FloatArray:
        """Linear light by the sRGB curve, (3, h, w)."""
        return _look_up(_code_table(srgb_to_linear, self.full_scale), self.codes)


@dataclass(frozen=True, slots=True)
class HdrTile:
    """One tile of the output, exposure and alpha taken out; otherwise as `LdrTile`. `linear` is planar (3, h, w)."""

    linear: FloatArray
    green: FloatArray
    green_codes: CodeArray


@dataclass(frozen=True, slots=True)
class Tile:
    """The same tile of input and output. `visible` (with halo) is where alpha is above zero, None for everywhere."""

    ldr: LdrTile
    hdr: HdrTile
    visible: BoolArray | None

    @property
    def core(self) -> tuple[int, int]:
        """Height and width without the halo."""
        height, width = self.hdr.linear.shape[1:]
        return height, width

    def core_visible(self) -> BoolArray | None:
        """`visible` without the halo."""
        return None if self.visible is None else self.visible[: self.core[0], : self.core[1]]


def tiles(ldr: LdrArray, hdr: HdrImage, exposure_ev: float) -> Iterator[Tile]:
    """Cut (H, W, 3) images into tiles of about 2**18 pixels, left to right, top to bottom."""
    height, width = ldr.shape[:2]
    rows, columns = _tile_extent(width), _tile_extent(height)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            core = (min(rows, height - top), min(columns, width - left))
            outer = np.s_[top : top + core[0] + HALO_PX, left : left + core[1] + HALO_PX]
            alpha = None if hdr.alpha is None else hdr.alpha[outer].astype(np.float32)
            visible = None if alpha is None else alpha > 0
            yield Tile(
                ldr=_ldr_tile(ldr[outer], core),
                hdr=_hdr_tile(hdr.pixels[outer], alpha, core, exposure_ev),
                visible=None if visible is None or visible.all() else visible,
            )


def _tile_extent(other_extent: int) -> int:
    """Return a tile's side, a multiple of the noise blocks, where the image's other side is `other_extent`."""
    return max(TILE_PX, TILE_PX**2 // other_extent // BLOCK_PX * BLOCK_PX)


def _ldr_tile(pixels: LdrArray, core: tuple[int, int]) -> LdrTile:
    codes: LdrArray = np.moveaxis(pixels, 2, 0).copy(order="C")
    full_scale = int(np.iinfo(codes.dtype).max)
    green = np.multiply(codes[_GREEN], np.float32(1 / full_scale), dtype=np.float32)
    inner: LdrArray = codes[:, : core[0], : core[1]].copy(order="C")
    return LdrTile(
        codes=inner,
        green=green,
        green_codes=_look_up(_code_table(_perceptual_codes, full_scale), codes[_GREEN]),
    )


def _hdr_tile(pixels: HdrArray, alpha: FloatArray | None, core: tuple[int, int], exposure_ev: float) -> HdrTile:
    planes: HdrArray = np.moveaxis(pixels, 2, 0).copy(order="C")
    inner = np.s_[:, : core[0], : core[1]]
    if planes.dtype == np.float16 and (alpha is None or bool((alpha == 1).all())):
        bits = planes.view(np.uint16)
        tables = _half_tables(exposure_ev)
        green_bits = np.ascontiguousarray(bits[_GREEN])
        linear = _look_up(tables[0], np.ascontiguousarray(bits[inner]))
        return HdrTile(linear, _look_up(tables[1], green_bits), _look_up(tables[2], green_bits))
    linear = _scene_linear(planes, exposure_ev)
    if alpha is not None:
        linear /= np.where(alpha > 0, alpha, np.float32(1))
    green = encode_fast(linear[_GREEN])
    return HdrTile(np.ascontiguousarray(linear[inner]), green, _perceptual_codes(green))


def _look_up(
    table: npt.NDArray[ScalarT], index: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
) -> npt.NDArray[ScalarT]:
    out = np.empty(index.shape, table.dtype)
    return np.take(table, index, out=out, mode="clip")  # clip skips numpy's bounds check; tables cover every index


def _scene_linear(stored: HdrArray, exposure_ev: float) -> FloatArray:
    """Take the exposure out; NaN and negatives (DWAA can undershoot) count as 0, Inf as 2**100."""
    with np.errstate(over="ignore", invalid="ignore"):
        linear = stored.astype(np.float32) * np.float32(2.0**-exposure_ev)
    finite: FloatArray = np.minimum(np.fmax(linear, np.float32(0)), _LARGEST_LINEAR)
    return finite


def encode_fast(linear: FloatArray) -> FloatArray:
    """`linear_to_network` by logarithm and exponential: half the time of a power."""
    with np.errstate(divide="ignore"):
        encoded: FloatArray = np.exp(np.log(linear) * np.float32(1 / GAMMA))
    return encoded


def _perceptual_codes(encoded: FloatArray) -> CodeArray:
    """Return sixteenths of an 8-bit code; above the clipping level one code is a constant ratio of luminance."""
    highlights = 1 + np.log(np.maximum(encoded, np.float32(1)))
    codes = np.where(encoded <= 1, encoded, highlights) * np.float32(255 * CODE_UNITS)
    return np.minimum(np.rint(codes), np.iinfo(np.int16).max).astype(np.int16)


@lru_cache(maxsize=8)
def _code_table(curve: Callable[[FloatArray], npt.NDArray[ScalarT]], full_scale: int) -> npt.NDArray[ScalarT]:
    table = curve(np.arange(full_scale + 1, dtype=np.float32) / np.float32(full_scale))
    table.setflags(write=False)
    return table


@lru_cache(maxsize=4)
def _half_tables(exposure_ev: float) -> tuple[FloatArray, FloatArray, CodeArray]:
    """Return linear, encoded and perceptual code of all 65536 halves."""
    linear = _scene_linear(np.arange(2**16, dtype=np.uint16).view(np.float16), exposure_ev)
    encoded = encode_fast(linear)
    tables = (linear, encoded, _perceptual_codes(encoded))
    for table in (linear, encoded, tables[2]):
        table.setflags(write=False)
    return tables
