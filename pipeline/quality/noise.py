"""Noise sigma from a second-difference residual in blocks; the method is written down in docs/quality-statistics.md."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

BLOCK_PX = 16
# The residual of a pixel needs its neighbours: an (H, W) plane has (H - 2, W - 2) residuals.
RESIDUAL_MARGIN_PX = 2

_QUANTILE = 0.25
# White Gaussian noise makes E|residual| = 6 sigma sqrt(2 / pi) (Immerkaer 1996). The lower quartile of the block
# estimates lies 6 % below their mean in white noise, because a block holds only 256 correlated residuals.
_QUARTILE_BIAS = 0.94
_SIGMA_PER_RESIDUAL = math.sqrt(math.pi / 2) / 6 / _QUARTILE_BIAS


def block_residuals(plane: FloatArray) -> FloatArray:
    """Return mean |residual| of each complete 16x16 block of residuals, (rows, columns) float32.

    `plane` is (H, W) float32. The residual is the convolution with [[1, -2, 1], [-2, 4, -2], [1, -2, 1]]: blind to
    constants, ramps and straight horizontal or vertical edges.
    """
    rows, columns = (_num_blocks(extent) for extent in plane.shape)
    if rows == 0 or columns == 0:
        return np.empty((rows, columns), np.float32)
    part = plane[: rows * BLOCK_PX + RESIDUAL_MARGIN_PX, : columns * BLOCK_PX + RESIDUAL_MARGIN_PX]
    residual = _second_difference(np.ascontiguousarray(_second_difference(part).T))
    np.abs(residual, out=residual)
    return _block_means(residual).T


def exposed_blocks(plane: FloatArray, visible: BoolArray | None) -> BoolArray:
    """Say which blocks of `block_residuals` are well exposed: mean of `plane` in 0.1..0.9, no invisible pixel."""
    rows, columns = (_num_blocks(extent) for extent in plane.shape)
    if rows == 0 or columns == 0:
        return np.empty((rows, columns), np.bool_)
    inner = np.s_[1 : 1 + rows * BLOCK_PX, 1 : 1 + columns * BLOCK_PX]
    means = _block_means(plane[inner])
    exposed = (means >= 0.1) & (means <= 0.9)
    if visible is not None:
        exposed &= visible[inner].reshape(rows, BLOCK_PX, columns, BLOCK_PX).all(axis=(1, 3))
    return exposed


def sigma_of_blocks(residuals: FloatArray) -> float | None:
    """Return the noise sigma, in the plane's own units, from the residuals of all chosen blocks; None without any."""
    if residuals.size == 0:
        return None
    index = int(_QUANTILE * (residuals.size - 1))
    return float(np.partition(residuals, index)[index]) * _SIGMA_PER_RESIDUAL


def _num_blocks(extent_px: int) -> int:
    return max(0, extent_px - RESIDUAL_MARGIN_PX) // BLOCK_PX


def _second_difference(plane: FloatArray) -> FloatArray:
    """Return plane[i - 1] - 2 plane[i] + plane[i + 1] along the first axis."""
    result = plane[1:-1] * np.float32(-2)
    result += plane[:-2]
    result += plane[2:]
    return result


def _block_means(plane: FloatArray) -> FloatArray:
    rows, columns = (extent // BLOCK_PX for extent in plane.shape)
    sums = plane.reshape(rows, BLOCK_PX, -1).sum(axis=1)
    means: FloatArray = sums.reshape(rows, columns, BLOCK_PX).sum(axis=2) / np.float32(BLOCK_PX**2)
    return means
