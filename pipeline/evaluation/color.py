"""Shifts of hue and of chromaticity. Both ignore exposure: scaling an image by a factor changes neither."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import REC709_TO_XYZ

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MIN_SATURATION = 0.05
"""Truth with an Oklab chroma under this share of its lightness has no hue worth comparing."""
_GREY_SATURATION = 0.005
_NO_HUE_DEG = 90.0
_TINY = 1e-9

# Linear Rec.709 to Oklab: to cone-like responses, cube root, then to L, a, b.
_OKLAB_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB_OPPONENTS = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def linear_to_oklab(linear: npt.NDArray[np.floating]) -> DoubleArray:
    """Return L, a and b of linear Rec.709, (..., 3). Scaling by k scales all three by k^(1/3), so hue stays.

    Source: B. Ottosson, "A perceptual color space for image processing", 2020; also CSS Color Module Level 4.
    """
    cones = linear.astype(np.float64) @ _OKLAB_CONES.T
    return np.asarray(np.cbrt(cones) @ _OKLAB_OPPONENTS.T)


def hue_shift_deg(output: FloatArray, truth: FloatArray, area: BoolArray) -> float:
    """Return the mean absolute difference of Oklab hue angles, 0 to 180 degrees, over an area; NaN where it is empty.

    Images are linear, (H, W, 3); `area` is (H, W). Counted are pixels whose truth has a chroma of at least 5 % of its
    lightness. Where the output has none (under 0.5 %) the difference counts as 90 degrees: what a hue drawn at random
    would score.
    """
    wanted = linear_to_oklab(truth[area])
    is_coloured = _saturation(wanted) >= MIN_SATURATION
    if not is_coloured.any():
        return float("nan")
    wanted, found = wanted[is_coloured], linear_to_oklab(output[area][is_coloured])
    cross = found[:, 1] * wanted[:, 2] - found[:, 2] * wanted[:, 1]
    dot = found[:, 1] * wanted[:, 1] + found[:, 2] * wanted[:, 2]
    shift = np.degrees(np.abs(np.arctan2(cross, dot)))
    return float(np.where(_saturation(found) < _GREY_SATURATION, _NO_HUE_DEG, shift).mean())


def chroma_shift(output: FloatArray, truth: FloatArray, area: BoolArray) -> float:
    """Return the mean distance of CIE 1976 u'v' (CIE 15:2018, 8.2) over an area; NaN where it is empty.

    Images are linear, (H, W, 3). Black counts as the white point. 0.004 is about the smallest visible shift side by
    side.
    """
    if not area.any():
        return float("nan")
    difference = _uv_prime(output[area]) - _uv_prime(truth[area])
    return float(np.hypot(difference[:, 0], difference[:, 1]).mean())


def _saturation(lab: DoubleArray) -> DoubleArray:
    return np.asarray(np.hypot(lab[..., 1], lab[..., 2]) / np.maximum(lab[..., 0], _TINY))


def _uv_prime(linear: FloatArray) -> DoubleArray:
    x, y, z = np.moveaxis((linear.astype(np.float64) + _TINY) @ np.array(REC709_TO_XYZ).T, -1, 0)
    return np.asarray(np.stack([4 * x, 9 * y], axis=-1) / (x + 15 * y + 3 * z)[..., None])
