"""Parts of a picture that metrics look at apart; the LDR input alone decides them, so that no method can move them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.extras import load_extra

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
LdrArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

CLIPPED_FROM = 250 / 255
"""A pixel is clipped from this share of full scale on: JPEG, scaling and noise spread a clipped 255 over some codes."""
WELL_EXPOSED = (0.1, 0.9)
"""Every channel of a well-exposed pixel lies in this range of full scale, as in docs/quality-statistics.md."""
MIN_HIGHLIGHT_PX = 4
_PEAK_SHARE = 0.01


def clipped_area(ldr: LdrArray) -> BoolArray:
    """Return where a picture, (H, W, 3) uint8 or uint16, has a channel at or above 250/255 of full scale: (H, W)."""
    threshold = round(CLIPPED_FROM * np.iinfo(ldr.dtype).max)
    return np.asarray(ldr.max(axis=2) >= threshold)


def well_exposed_area(ldr: LdrArray) -> BoolArray:
    """Return where all channels of a picture, (H, W, 3) uint8 or uint16, lie in 0.1..0.9 of full scale: (H, W)."""
    low, high = (share * np.iinfo(ldr.dtype).max for share in WELL_EXPOSED)
    return np.asarray((ldr.min(axis=2) >= low) & (ldr.max(axis=2) <= high))


def find_highlights(clipped: BoolArray) -> list[npt.NDArray[np.intp]]:
    """Return the highlights of a clipped area, (H, W): for each the flat indices of its pixels.

    A highlight is a connected component (8 neighbours) of at least 4 pixels.
    """
    ndimage: Any = load_extra("scipy.ndimage", "scipy")
    labels, num_labels = ndimage.label(clipped, structure=np.ones((3, 3), np.int8))
    flat = np.flatnonzero(labels)
    order = np.argsort(labels.reshape(-1)[flat], kind="stable")
    sizes = np.bincount(labels.reshape(-1)[flat], minlength=num_labels + 1)[1:]
    parts = np.split(flat[order], np.cumsum(sizes)[:-1]) if num_labels else []
    return [part for part in parts if part.size >= MIN_HIGHLIGHT_PX]


def robust_peak(values: FloatArray) -> float:
    """Return the mean of the brightest 1 % of the values, (N,), but of no fewer than 4: one hot pixel is no peak."""
    count = min(values.size, max(MIN_HIGHLIGHT_PX, round(_PEAK_SHARE * values.size)))
    return float(np.partition(values, values.size - count)[values.size - count :].mean(dtype=np.float64))
