"""What every result is compared with: methods without learning, on the LDR picture alone.

Each takes (H, W, 3) uint8 or uint16 codes and returns float32 (H, W, 3), linear Rec.709, 1.0 = the clipping level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import luminance, network_to_linear, srgb_to_linear
from pipeline.evaluation.areas import BoolArray, FloatArray, LdrArray, clipped_area
from pipeline.evaluation.extras import load_extra

_MAX_GAIN = 4.0
_SIGMA_PX, _SIGMA_AT_PX = 30.0, 1920.0
_MIN_SIGMA_PX = 1.0
_EDGE_GRADIENT = 0.05
_EDGE_SIGMA_PX = 1.0
_REACH = 1e-3
_BLUR_SIGMA_PX = 0.5


def identity(ldr: LdrArray) -> FloatArray:
    """Return (code / full scale) ** 2.24: what the network's domain makes of the input as it is."""
    return network_to_linear(_encoded(ldr))


def srgb_decode(ldr: LdrArray) -> FloatArray:
    """Return the exact sRGB decode of the codes (IEC 61966-2-1:1999): right where the camera wrote plain sRGB."""
    return srgb_to_linear(_encoded(ldr))


def srgb_blur(ldr: LdrArray) -> FloatArray:
    """Return the sRGB decode after a Gaussian of 0.5 px: what a method gains that does no more than take noise away.

    Raises ConfigError without scipy.
    """
    ndimage: Any = load_extra("scipy.ndimage", "scipy")
    blurred = ndimage.gaussian_filter(srgb_decode(ldr), (_BLUR_SIGMA_PX, _BLUR_SIGMA_PX, 0.0))
    return np.asarray(blurred, np.float32)


def rempel2007(ldr: LdrArray) -> FloatArray:
    """Expand highlights by a smooth brightness enhancement between 1 and 4.

    Source: A. G. Rempel, M. Trentacoste, H. Seetzen, H. D. Young, W. Heidrich, L. Whitehead, G. Ward, "Ldr2Hdr:
    On-the-fly reverse tone mapping of legacy video and photographs", SIGGRAPH 2007. Its steps: the clipped pixels make
    a binary mask; a wide Gaussian (30 px on a screen of 1920 px) of it is the enhancement; an edge stopping function,
    the mask grown through neighbours until it meets strong gradients, keeps it from crossing edges; the product, 0 to
    1, is mapped linearly to 1..4 and multiplies the linear picture.

    Chosen here: sRGB decode instead of gamma 2.2, so that only highlights differ from that baseline; clipped from
    250/255 in any channel; the Gaussian scales with the picture's longer side, at least 1 px; an edge is a gradient of
    luminance above 0.05 per pixel after a Gaussian of 1 px, and the grown mask is smoothed by such a one; no noise
    filter, and no mapping to the black and white of a display, because 1.0 is the clipping level throughout.
    Raises ConfigError without scipy.
    """
    ndimage: Any = load_extra("scipy.ndimage", "scipy")
    linear = srgb_decode(ldr)
    clipped = clipped_area(ldr)
    if not clipped.any():
        return linear
    sigma_px = max(_MIN_SIGMA_PX, _SIGMA_PX * max(ldr.shape[:2]) / _SIGMA_AT_PX)
    glow = ndimage.gaussian_filter(clipped.astype(np.float32), sigma_px)
    gradient = ndimage.gaussian_gradient_magnitude(luminance(linear), _EDGE_SIGMA_PX)
    reached: BoolArray = ndimage.binary_propagation(
        clipped, mask=clipped | ((gradient < _EDGE_GRADIENT) & (glow > _REACH))
    )
    inside = ndimage.gaussian_filter(reached.astype(np.float32), _EDGE_SIGMA_PX)
    gain = np.float32(1) + np.float32(_MAX_GAIN - 1) * (glow * inside)
    return np.asarray(linear * gain[..., None], np.float32)


BASELINES: dict[str, Callable[[LdrArray], FloatArray]] = {
    "identity": identity,
    "srgb": srgb_decode,
    "srgb_blur": srgb_blur,
    "rempel2007": rempel2007,
}
"""Every baseline by name."""


def _encoded(ldr: LdrArray) -> npt.NDArray[np.float32]:
    return np.multiply(ldr, np.float32(1 / np.iinfo(ldr.dtype).max), dtype=np.float32)
