"""Transfer functions, primaries and luminance. Pure numpy on float32, no state: safe for threads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

# HDRUNet's output is gamma encoded: linear = y ** GAMMA (Chen et al., "HDRUNet", CVPRW 2021).
GAMMA = 2.24

# ITU-R BT.709-6: luminance weights and CIE 1931 xy of red, green, blue and D65 white.
REC709_LUMINANCE = (0.2126, 0.7152, 0.0722)
REC709_CHROMATICITIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)

# Linear Rec.709 to CIE XYZ with D65 white (IEC 61966-2-1:1999).
REC709_TO_XYZ = (
    (0.4124, 0.3576, 0.1805),
    (0.2126, 0.7152, 0.0722),
    (0.0193, 0.1192, 0.9505),
)

_SRGB_SLOPE = np.float32(12.92)
_SRGB_ENCODED_KNEE = np.float32(0.04045)
_SRGB_LINEAR_KNEE = np.float32(0.0031308)
_SRGB_OFFSET = np.float32(0.055)
_SRGB_SCALE = np.float32(1.055)
_SRGB_POWER = np.float32(2.4)


def srgb_to_linear(encoded: FloatArray) -> FloatArray:
    """Decode sRGB values, float32 in [0, 1], to linear light in [0, 1]. Source: IEC 61966-2-1:1999."""
    encoded = np.asarray(encoded, np.float32)
    curve = ((np.maximum(encoded, _SRGB_ENCODED_KNEE) + _SRGB_OFFSET) / _SRGB_SCALE) ** _SRGB_POWER
    return np.where(encoded <= _SRGB_ENCODED_KNEE, encoded / _SRGB_SLOPE, curve).astype(np.float32, copy=False)


def linear_to_srgb(linear: FloatArray) -> FloatArray:
    """Encode linear light, float32 in [0, 1], with the sRGB curve. Source: IEC 61966-2-1:1999."""
    linear = np.asarray(linear, np.float32)
    curve = _SRGB_SCALE * np.maximum(linear, _SRGB_LINEAR_KNEE) ** (1 / _SRGB_POWER) - _SRGB_OFFSET
    return np.where(linear <= _SRGB_LINEAR_KNEE, linear * _SRGB_SLOPE, curve).astype(np.float32, copy=False)


def network_to_linear(encoded: FloatArray) -> FloatArray:
    """Decode network output, any float32: linear = max(y, 0) ** 2.24, where 1.0 is the input's clipping level."""
    return np.power(np.maximum(np.asarray(encoded, np.float32), np.float32(0)), np.float32(GAMMA))


def linear_to_network(linear: FloatArray) -> FloatArray:
    """Encode linear light, float32 (negatives count as 0), as the network does: max(x, 0) ** (1 / 2.24)."""
    return np.power(np.maximum(np.asarray(linear, np.float32), np.float32(0)), np.float32(1 / GAMMA))


def luminance(linear: FloatArray) -> FloatArray:
    """Return the relative luminance Y, float32 (H, W), of linear Rec.709 RGB, float32 (H, W, 3). Source: BT.709-6."""
    red, green, blue = (np.float32(weight) for weight in REC709_LUMINANCE)
    result: FloatArray = linear[..., 0] * red + linear[..., 1] * green + linear[..., 2] * blue
    return result
