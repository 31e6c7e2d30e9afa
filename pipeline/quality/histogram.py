"""A histogram of non-negative float32 with bins of constant relative width, filled without a logarithm."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_MANTISSA_BITS_DROPPED = 15
_NUM_BINS = 0x7F800000 >> _MANTISSA_BITS_DROPPED  # up to the largest finite value


class LogHistogram:
    """Counts finite, non-negative float32 values by their exponent and eight leading mantissa bits.

    That makes 256 equal bins in every octave from the smallest subnormal to the largest float32. A quantile is a
    bin's middle, moved into the exact range of the values seen: it errs by at most 1/512 of its value (0.003 stops)
    above 1e-38. Bins depend on bits alone, so the result is the same on every machine and in every order of `add`.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_NUM_BINS, np.int64)
        self._smallest = math.inf
        self._largest = 0.0

    def add(self, values: FloatArray) -> None:
        """Count every value of a contiguous float32 array."""
        if values.size == 0:
            return
        bins = values.reshape(-1).view(np.int32) >> _MANTISSA_BITS_DROPPED
        self._counts += np.bincount(bins, minlength=_NUM_BINS)
        self._smallest = min(self._smallest, float(values.min()))
        self._largest = max(self._largest, float(values.max()))

    @property
    def largest(self) -> float:
        """The largest value, exactly; 0.0 before any."""
        return self._largest

    def quantile(self, fraction: float) -> float:
        """Return the smallest value that at least `fraction` (0..1) of all values do not exceed; 0.0 before any."""
        cumulated = np.cumsum(self._counts)
        if cumulated[-1] == 0:
            return 0.0
        rank = max(1, math.ceil(fraction * int(cumulated[-1])))
        index = int(np.searchsorted(cumulated, rank))
        edges = (np.array([index, index + 1], np.int32) << _MANTISSA_BITS_DROPPED).view(np.float32)
        # The last bin's upper edge is Inf, and the range clamps it; the first bin holds zeros.
        middle = 0.0 if index == 0 else float(edges.mean(dtype=np.float64))
        return min(max(middle, self._smallest), self._largest)
