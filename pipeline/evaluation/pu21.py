"""PU21: a perceptually uniform encoding of absolute light, and the PSNR and SSIM of encoded images.

Source: R. K. Mantiuk and M. Azimi, "PU21: A novel perceptually uniform encoding for adapting existing quality metrics
for HDR", Picture Coding Symposium 2021, in the variant `banding_glare` that its authors ask to use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import luminance
from pipeline.evaluation.extras import load_extra
from pipeline.evaluation.psnr import psnr_db

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]

CLIPPING_NITS = 203.0
"""What linear 1.0, the input's clipping level, is shown at: HDR reference white of ITU-R BT.2408."""
MIN_NITS, MAX_NITS = 0.005, 10_000.0
PEAK = 256.0
"""Peak of PSNR and range of SSIM, as in the authors' code: the encoding is scaled so that 100 cd/m2 gives 256."""

PU21_PARAMETERS = (0.353487901, 0.3734658629, 8.277049286e-05, 0.9062562627, 0.09150303166, 0.9099517204, 596.3148142)
_MIN_SSIM_PX = 11


def pu21_encode(nits: npt.NDArray[np.floating]) -> DoubleArray:
    """Encode light in cd/m2, any shape, clamped to 0.005..10,000, to PU21 units: 0 to 595.4, and 256.4 at 100 cd/m2.

    V = p7 (((p1 + p2 Y^p4) / (1 + p3 Y^p4))^p5 - p6).
    """
    power = np.clip(nits.astype(np.float64), MIN_NITS, MAX_NITS) ** PU21_PARAMETERS[3]
    encoded = PU21_PARAMETERS[6] * (
        ((PU21_PARAMETERS[0] + PU21_PARAMETERS[1] * power) / (1 + PU21_PARAMETERS[2] * power)) ** PU21_PARAMETERS[4]
        - PU21_PARAMETERS[5]
    )
    return np.asarray(np.maximum(encoded, 0.0))


def pu21_decode(encoded: npt.NDArray[np.floating]) -> DoubleArray:
    """Return the light in cd/m2 of PU21 units between 0 and 595.4: the inverse of `pu21_encode`."""
    root = np.maximum(encoded.astype(np.float64) / PU21_PARAMETERS[6] + PU21_PARAMETERS[5], 0.0) ** (
        1 / PU21_PARAMETERS[4]
    )
    return np.asarray(
        (np.maximum(root - PU21_PARAMETERS[0], 0.0) / (PU21_PARAMETERS[1] - PU21_PARAMETERS[2] * root))
        ** (1 / PU21_PARAMETERS[3])
    )


def pu21_psnr_db(output: FloatArray, truth: FloatArray) -> float:
    """Return the PSNR, peak 256, of PU21-encoded RGB. Images are linear, (..., 3), 1.0 = 203 cd/m2; at most 99 dB."""
    return psnr_db(pu21_encode(output * CLIPPING_NITS), pu21_encode(truth * CLIPPING_NITS), PEAK)


def pu21_ssim(output: FloatArray, truth: FloatArray) -> float:
    """Return the SSIM of PU21-encoded luminance with a dynamic range of 256, -1 to 1.

    Images are linear, (H, W, 3), 1.0 = 203 cd/m2. SSIM as in Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli,
    "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004: Gaussian window of 11 px,
    sigma 1.5, K 0.01 and 0.03, averaged where the window fits. NaN for images under 11 px. Raises ConfigError without
    scikit-image.
    """
    if min(truth.shape[:2]) < _MIN_SSIM_PX:
        return float("nan")
    metrics: Any = load_extra("skimage.metrics", "scikit-image")
    encoded = [pu21_encode(luminance(image) * CLIPPING_NITS) for image in (output, truth)]
    return float(
        metrics.structural_similarity(
            *encoded, data_range=PEAK, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )
