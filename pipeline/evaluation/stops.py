"""Errors of light in stops: log2 of output over truth, in luminance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.areas import robust_peak

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

FLOOR = 2.0**-10
"""Luminance below this counts as this: ten stops under clipping, three 8-bit codes; noise decides what lies deeper."""
_TINY = 2.0**-60


def log_ratio(output: FloatArray, truth: FloatArray, floor: float = FLOOR) -> npt.NDArray[np.float64]:
    """Return log2(max(output, floor) / max(truth, floor)) of two luminances of one shape, in stops."""
    return np.asarray(np.log2(np.maximum(output, floor, dtype=np.float64) / np.maximum(truth, floor, dtype=np.float64)))


def mean_error_stops(output: FloatArray, truth: FloatArray, area: BoolArray) -> float:
    """Return mean |log2(output / truth)| of luminance, (H, W), over an area, (H, W); NaN where it is empty."""
    if not area.any():
        return float("nan")
    return float(np.abs(log_ratio(output[area], truth[area])).mean())


def peak_error_stops(output: FloatArray, truth: FloatArray, highlights: Sequence[npt.NDArray[np.intp]]) -> float:
    """Return the mean over highlights of |log2(peak of output / peak of truth)|; NaN without highlights.

    `output` and `truth` are luminances, (H, W); `highlights` are flat indices, as `areas.find_highlights` returns them.
    A peak is the mean of a highlight's brightest 1 %, at least 4 pixels: where it lies does not matter.
    """
    if not highlights:
        return float("nan")
    flat_output, flat_truth = output.reshape(-1), truth.reshape(-1)
    ratios = [
        np.log2(max(robust_peak(flat_output[pixels]), FLOOR) / max(robust_peak(flat_truth[pixels]), FLOOR))
        for pixels in highlights
    ]
    return float(np.mean(np.abs(ratios)))


def exposure_bias_ev(output: FloatArray, truth: FloatArray, area: BoolArray) -> float:
    """Return the median of log2(output / truth) of luminance over an area, in EV: positive where output is brighter.

    The scale 2^-EV is the one that minimises the mean absolute logarithmic error over that area (a median minimises
    absolute deviations). Pixels whose truth is black do not count; NaN where none is left.
    """
    lit = area & (truth > 0)
    if not lit.any():
        return float("nan")
    return float(np.median(log_ratio(output[lit], truth[lit], _TINY)))
