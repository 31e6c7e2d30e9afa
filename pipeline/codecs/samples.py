"""Arithmetic on integer samples that the format readers share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rows are taken in blocks of about this many samples: fancy indexing needs eight bytes for each of them.
_BLOCK_SAMPLES = 2**20


def scale_samples(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Scale `bits`-bit codes (1..16) to the full range of uint8 (up to 8 bits) or uint16, rounding to nearest.

    Codes above 2**bits - 1 count as that. Samples that need no scaling are returned as they are.
    """
    dtype: type[np.uint8 | np.uint16] = np.uint8 if bits <= 8 else np.uint16
    if bits in {8, 16} and samples.dtype == dtype:
        return samples
    top = 2**bits - 1
    table = np.round(np.arange(top + 1) * (np.iinfo(dtype).max / top)).astype(dtype)
    return _looked_up(table, samples)


def _looked_up(table: NDArray[Any], samples: NDArray[Any]) -> NDArray[Any]:
    found = np.empty(samples.shape, table.dtype)
    rows = max(1, _BLOCK_SAMPLES * samples.shape[0] // max(samples.size, 1))
    for start in range(0, samples.shape[0], rows):
        block = samples[start : start + rows]
        found[start : start + rows] = table[np.minimum(block, len(table) - 1).astype(np.intp)]
    return found


def unassociate(color: NDArray[Any], alpha: NDArray[Any], bits: int) -> NDArray[Any]:
    """Divide (H, W, C) colour by (H, W) alpha, both `bits`-bit codes; where alpha is 0 the colour stays as it is."""
    top = 2**bits - 1
    straight = np.empty_like(color)
    for row, (line, cover) in enumerate(zip(color, alpha, strict=True)):
        divisor = np.where(cover == 0, top, cover).astype(np.uint32)[:, np.newaxis]
        straight[row] = np.minimum((line.astype(np.uint32) * top + divisor // 2) // divisor, top)
    return straight


def to_full_range(samples: NDArray[Any]) -> NDArray[Any]:
    """Stretch uint8 or uint16 codes of narrow range, black 16 and white 235 of 8 bits, to all of the type.

    Recommendation ITU-T H.273, 8.3, VideoFullRangeFlag equal to 0; what lies beyond black and white is clipped.
    """
    top = np.iinfo(samples.dtype).max
    step = (top + 1) // 256
    table = (np.arange(top + 1, dtype=np.float64) - 16 * step) * (top / (219 * step))
    return _looked_up(np.rint(table.clip(0, top)).astype(samples.dtype), samples)
