"""Measure one conversion without a reference. Every statistic is defined in docs/quality-statistics.md."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import REC709_LUMINANCE, REC709_TO_XYZ, srgb_to_linear
from pipeline.codecs.exr import HdrImage
from pipeline.quality.banding import RUN_PX, count_contours
from pipeline.quality.histogram import LogHistogram
from pipeline.quality.noise import block_residuals, exposed_blocks, sigma_of_blocks
from pipeline.quality.planes import HdrTile, LdrArray, LdrTile, Tile, encode_fast, tiles
from pipeline.records import QualityStats

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

PSNR_CAP_DB = 99.0

_CLIP_LEVEL = 254 / 255  # one code below full scale: JPEG spreads a clipped 255 by about one code
_WELL_EXPOSED = (0.1, 0.9)
# CIE 1976: u' = 4X / (X + 15Y + 3Z), v' = 9Y / (X + 15Y + 3Z), as weights of linear R, G and B.
_U_NUMERATOR = tuple(4 * x for x in REC709_TO_XYZ[0])
_V_NUMERATOR = tuple(9 * y for y in REC709_TO_XYZ[1])
_UV_DENOMINATOR = tuple(x + 15 * y + 3 * z for x, y, z in zip(*REC709_TO_XYZ, strict=True))
_SAMPLED_ABOVE_PX = 2**20  # larger images: every second row and column is enough for a mean


def measure(ldr_pixels: LdrArray, hdr: HdrImage, exposure_ev: float) -> QualityStats:
    """Measure what was stored against what went in.

    `ldr_pixels` is (H, W, 3), uint8 or uint16, sRGB or network codes; `hdr` is the stored image of the same size,
    whose `exposure_ev` and alpha are taken out again; fully transparent pixels do not count. Deterministic: stored
    images with the same bits give the same statistics. Extra memory stays below 100 MB at any size and shape.
    Raises ValueError when shapes differ or the input is of another dtype.
    """
    if ldr_pixels.shape != hdr.pixels.shape or ldr_pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"cannot compare {ldr_pixels.dtype} {ldr_pixels.shape} with {hdr.pixels.shape}")
    light = _Light(int(np.iinfo(ldr_pixels.dtype).max))
    fidelity = _Fidelity(ldr_pixels.shape[0] * ldr_pixels.shape[1])
    texture = _Texture(ldr_pixels.shape[0], ldr_pixels.shape[1])
    for tile in tiles(ldr_pixels, hdr, exposure_ev):
        light.add(tile)
        fidelity.add(tile)
        texture.add(tile)
    return QualityStats(**light.result(), **fidelity.result(), **texture.result(light.num_visible))


class _LightStats(TypedDict):
    clipped_fraction: float
    input_dynamic_range_stops: float | None
    output_dynamic_range_stops: float | None
    stops_gained_clipped: float | None
    luminance_p1: float
    luminance_p50: float
    luminance_p99: float
    luminance_p999: float
    luminance_max: float


class _FidelityStats(TypedDict):
    fidelity_psnr_db: float | None
    chroma_shift: float | None


class _TextureStats(TypedDict):
    input_noise_sigma: float | None
    output_noise_sigma: float | None
    input_banding: float | None
    output_banding: float | None


class _Light:
    """Luminance percentiles, dynamic range, clipping."""

    def __init__(self, full_scale: int) -> None:
        self.num_visible = 0
        # Half a code: what a zero may have been. Both sides are floored there, so that their ranges compare.
        self._floor = float(srgb_to_linear(np.array(0.5 / full_scale, np.float32)))
        self._clip_code = round(_CLIP_LEVEL * full_scale)
        self._input = LogHistogram()
        self._output = LogHistogram()
        self._num_clipped = 0
        self._stops_sum = 0.0

    def add(self, tile: Tile) -> None:
        visible = tile.core_visible()
        output = _luminance(tile.hdr.linear)
        self._input.add(_select(_luminance(tile.ldr.srgb_linear()), visible))
        self._output.add(_select(output, visible))
        self.num_visible += output.size if visible is None else int(np.count_nonzero(visible))
        clipped = tile.ldr.codes.max(axis=0) >= self._clip_code
        if visible is not None:
            clipped &= visible
        num_clipped = int(np.count_nonzero(clipped))
        if num_clipped:
            before = _luminance(tile.ldr.linear())[clipped]
            after = np.maximum(output[clipped], np.float32(self._floor))
            self._num_clipped += num_clipped
            self._stops_sum += float(np.log2(after / before).sum(dtype=np.float64))

    def result(self) -> _LightStats:
        output = self._output
        return {
            "clipped_fraction": self._num_clipped / self.num_visible if self.num_visible else 0.0,
            "input_dynamic_range_stops": self._range_stops(self._input),
            "output_dynamic_range_stops": self._range_stops(output),
            "stops_gained_clipped": self._stops_sum / self._num_clipped if self._num_clipped else None,
            "luminance_p1": output.quantile(0.01),
            "luminance_p50": output.quantile(0.50),
            "luminance_p99": output.quantile(0.99),
            "luminance_p999": output.quantile(0.999),
            "luminance_max": output.largest,
        }

    def _range_stops(self, histogram: LogHistogram) -> float | None:
        low, high = (max(histogram.quantile(fraction), self._floor) for fraction in (0.001, 0.999))
        return math.log2(high / low) if high > self._floor else None


class _Fidelity:
    """PSNR and chroma shift where every channel of the input is well exposed."""

    def __init__(self, num_px: int) -> None:
        self._step = 1 if num_px <= _SAMPLED_ABOVE_PX else 2
        self._num_px = 0
        self._squares = 0.0
        self._shift = 0.0

    def add(self, tile: Tile) -> None:
        ldr = tile.ldr.every(self._step)
        linear = np.ascontiguousarray(tile.hdr.linear[:, :: self._step, :: self._step])
        encoded = ldr.encoded()
        low, high = (np.float32(level) for level in _WELL_EXPOSED)
        exposed = (encoded.min(axis=0) >= low) & (encoded.max(axis=0) <= high)
        visible = tile.core_visible()
        if visible is not None:
            exposed &= visible[:: self._step, :: self._step]
        num_exposed = int(np.count_nonzero(exposed))
        if not num_exposed:
            return
        self._num_px += num_exposed
        encoded -= encode_fast(linear)
        np.square(encoded, out=encoded)
        self._squares += float(encoded.sum(axis=0)[exposed].sum(dtype=np.float64))
        self._shift += float(_chroma_distance(ldr.linear(), linear)[exposed].sum(dtype=np.float64))

    def result(self) -> _FidelityStats:
        if not self._num_px:
            return {"fidelity_psnr_db": None, "chroma_shift": None}
        mean_square = self._squares / (3 * self._num_px)
        psnr = PSNR_CAP_DB if mean_square == 0 else min(PSNR_CAP_DB, -10 * math.log10(mean_square))
        return {"fidelity_psnr_db": psnr, "chroma_shift": self._shift / self._num_px}


class _Texture:
    """Noise and banding of the encoded green channel, the same way for input and output."""

    def __init__(self, height: int, width: int) -> None:
        self._has_runs = max(height, width) >= 2 * RUN_PX
        self._residuals: tuple[list[FloatArray], list[FloatArray]] = ([], [])
        self._contours = np.zeros((2, 2), np.int64)  # input, output by horizontal, vertical

    def add(self, tile: Tile) -> None:
        core = tile.core
        # Blocks lie on a grid of 16 px, as tiles do: the residuals' margin reaches 2 px into the next tile.
        inner = np.s_[: core[0] + 2, : core[1] + 2]
        exposed = exposed_blocks(tile.ldr.green[inner], None if tile.visible is None else tile.visible[inner])
        sides: tuple[LdrTile | HdrTile, ...] = (tile.ldr, tile.hdr)
        for side, found in zip(sides, self._residuals, strict=True):
            found.append(block_residuals(side.green[inner])[exposed])
        self._contours += [count_contours(side.green_codes, tile.visible, core) for side in sides]

    def result(self, num_visible: int) -> _TextureStats:
        sigmas = [sigma_of_blocks(np.concatenate(found)) for found in self._residuals]
        bands: list[float | None] = [None, None]
        if self._has_runs and num_visible:
            bands = [min(1.0, RUN_PX * int(steps) / num_visible) for steps in self._contours.max(axis=1)]
        return {
            "input_noise_sigma": sigmas[0],
            "output_noise_sigma": sigmas[1],
            "input_banding": bands[0],
            "output_banding": bands[1],
        }


def _select(values: FloatArray, mask: BoolArray | None) -> FloatArray:
    return values if mask is None else values[mask]


def _weighted(planes: FloatArray, weights: tuple[float, ...]) -> FloatArray:
    result: FloatArray = planes[0] * np.float32(weights[0])
    result += planes[1] * np.float32(weights[1])
    result += planes[2] * np.float32(weights[2])
    return result


def _luminance(planes: FloatArray) -> FloatArray:
    return _weighted(planes, REC709_LUMINANCE)


def _chroma_distance(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return the Euclidean distance of CIE 1976 u'v' (CIE 15:2018, 8.2.1) of two planar linear Rec.709 images.

    Black has no chromaticity; it counts as the white point's.
    """
    (u_left, v_left), (u_right, v_right) = _uv_prime(left), _uv_prime(right)
    u_left -= u_right
    v_left -= v_right
    return np.sqrt(u_left * u_left + v_left * v_left)


def _uv_prime(planes: FloatArray) -> tuple[FloatArray, FloatArray]:
    planes = planes + np.float32(1e-9)  # the chromaticity of equal R, G and B is the white point's
    denominator = _weighted(planes, _UV_DENOMINATOR)
    return _weighted(planes, _U_NUMERATOR) / denominator, _weighted(planes, _V_NUMERATOR) / denominator
