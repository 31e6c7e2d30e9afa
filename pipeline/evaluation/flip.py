"""HDR-FLIP through its authors' package `flip-evaluator` (NVIDIA, BSD-3-Clause)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.extras import load_extra

PIXELS_PER_DEGREE = 67.0
"""The package's default: a 0.7 m wide display of 3840 px, seen from 0.7 m."""


def hdr_flip(output: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> float:
    """Return the mean HDR-FLIP, 0 (equal) to 1; images are linear, (H, W, 3), finite, not negative.

    The difference that a person sees when flipping between the two, as the maximum over a range of exposures that the
    package derives from the truth (start, stop and number), each tone mapped by its default, ACES; 67 px per degree.
    Any common unit gives the same value. NaN where the truth is black. Raises ConfigError without the package.

    Source: P. Andersson, J. Nilsson, P. Shirley, T. Akenine-Moeller, "Visualizing Errors in Rendered High Dynamic Range
    Images", Eurographics 2021.
    """
    flip: Any = load_extra("flip_evaluator", "flip-evaluator")
    if not truth.any():
        return float("nan")
    _, mean, _ = flip.evaluate(
        np.ascontiguousarray(truth), np.ascontiguousarray(output), "HDR", applyMagma=False, parameters={}
    )
    return float(mean)
