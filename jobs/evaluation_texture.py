"""Noise and banding of outputs, beside the metrics of `pipeline.evaluation`: measured as the manifest's columns are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import linear_to_network
from pipeline.codecs.exr import HdrImage
from pipeline.evaluation import Metric
from pipeline.evaluation.pair import Pair
from pipeline.quality import measure
from pipeline.quality.noise import block_residuals, exposed_blocks, sigma_of_blocks

MIN_NOISE = 1 / 255
"""A noisy input has at least this sigma, as a fraction of full scale: below it, rounding to 8 bits decides."""
MIN_NOISE_OVER_TRUTH = 2.0
"""And this many times the sigma that the same estimator finds in the truth, which is the scene's own texture."""

_GREEN = 1


def noise_sigma(pair: Pair) -> float:
    """Return the noise sigma of the output's green, network domain; NaN without a well-exposed block of 16 px."""
    return _sigma(pair, linear_to_network(pair.output[..., _GREEN]))


def noise_left(pair: Pair) -> float:
    """Return the output's noise sigma over the input's, where the input is noisy; NaN elsewhere."""
    found = _sigma(pair, _input_green(pair))
    texture = _sigma(pair, linear_to_network(pair.truth[..., _GREEN]))
    if not (found >= MIN_NOISE and found >= MIN_NOISE_OVER_TRUTH * texture):
        return float("nan")
    return noise_sigma(pair) / found


def banding(pair: Pair) -> float:
    """Return the output's banding, 0 to 1, as the manifest's `output_banding`; NaN for images under 16 px."""
    value = measure(pair.ldr, HdrImage(np.ascontiguousarray(pair.output)), 0.0).output_banding
    return float("nan") if value is None else value


TEXTURE_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("noise_sigma", "noise sigma", "of full scale", False, True, 5, noise_sigma),
        Metric("noise_left", "noise left, noisy inputs", "of the input's", False, True, 3, noise_left),
        Metric("banding", "banding", "", False, True, 4, banding),
    )
}
"""The metrics of texture by name."""


def _input_green(pair: Pair) -> npt.NDArray[np.float32]:
    return np.multiply(pair.ldr[..., _GREEN], np.float32(1 / np.iinfo(pair.ldr.dtype).max), dtype=np.float32)


def _sigma(pair: Pair, plane: npt.NDArray[np.float32]) -> float:
    """Estimate noise in the blocks that are well exposed in the input: the same ones for all planes."""
    exposed = exposed_blocks(_input_green(pair), None)
    sigma = sigma_of_blocks(block_residuals(np.ascontiguousarray(plane))[exposed])
    return float("nan") if sigma is None else sigma
