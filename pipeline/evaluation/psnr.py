"""Peak signal-to-noise ratios of the NTIRE 2021 HDR challenge, and in plain linear light.

Source: E. Perez-Pellitero et al., "NTIRE 2021 Challenge on High Dynamic Range Imaging: Dataset, Methods and Results",
CVPR Workshops 2021, and its scoring script. The script reads gamma-encoded images and linearises them by 2.24; images
here are linear already, in whatever unit: all of these are normalised by the truth.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import linear_to_network

FloatArray = npt.NDArray[np.float32]

PSNR_CAP_DB = 99.0
MU = 5000.0
_PERCENTILE = 99.0


def psnr_db(output: npt.NDArray[np.floating], truth: npt.NDArray[np.floating], peak: float) -> float:
    """Return 20 log10(peak) - 10 log10(mean (output - truth)^2), dB, over all samples, at most 99.

    Returns NaN without samples or for a peak of 0.
    """
    if not output.size or not peak > 0:
        return float("nan")
    difference = np.subtract(output, truth, dtype=np.float64)
    mean_square = float(np.mean(difference * difference)) / peak**2
    return PSNR_CAP_DB if mean_square == 0 else min(PSNR_CAP_DB, float(-10 * np.log10(mean_square)))


def ntire_psnr_db(output: FloatArray, truth: FloatArray) -> float:
    """Return the challenge's PSNR: of the images encoded by 1/2.24, both divided by the encoded truth's maximum.

    `output` and `truth` are linear, (H, W, 3), not negative. The challenge's 16-bit storage is not imitated: its
    rounding lies 96 dB down.
    """
    encoded = linear_to_network(truth)
    return psnr_db(linear_to_network(output), encoded, float(encoded.max()))


def linear_psnr_db(output: FloatArray, truth: FloatArray) -> float:
    """Return the PSNR of linear light, (H, W, 3), peak = the truth's maximum; papers call it PSNR-L.

    The brightest pixels decide: an error of 10 % on the sun outweighs everything else.
    """
    return psnr_db(output, truth, float(truth.max()))


def mu_psnr_db(output: FloatArray, truth: FloatArray) -> float:
    """Return the challenge's mu-PSNR: peak 1, of log(1 + 5000 tanh(x / p)) / log(1 + 5000).

    x are linear images, (H, W, 3), not negative; p is the 99th percentile of the truth, over all its samples.
    Returns NaN where p is 0.
    """
    white = float(np.percentile(truth, _PERCENTILE))
    if not white > 0:
        return float("nan")
    return psnr_db(mu_law(output, white), mu_law(truth, white), 1.0)


def mu_law(linear: FloatArray, white: float) -> npt.NDArray[np.float64]:
    """Return log(1 + 5000 tanh(linear / white)) / log(1 + 5000), between 0 and 1, of any shape."""
    bounded = np.tanh(np.divide(linear, white, dtype=np.float64))
    return np.asarray(np.log1p(MU * bounded) / np.log1p(MU))
