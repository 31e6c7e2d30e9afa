"""Small scenes for the tests of evaluation: a truth with highlights, and the picture that an sRGB camera takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import linear_to_srgb

FloatArray = npt.NDArray[np.float32]


def make_truth(seed: int = 0, size_px: int = 64) -> FloatArray:
    """Smooth coloured light between 0.02 and 0.8, and two round lamps that reach 4 and 20 times the clipping level."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size_px, :size_px] / size_px
    waves = [0.4 + 0.35 * np.sin(2 * np.pi * (a * rows + b * columns + c)) for a, b, c in rng.uniform(0.5, 1.5, (3, 3))]
    truth = np.stack(waves, axis=-1) * 0.9 + 0.02
    for row, column, peak in ((0.3, 0.3, 4.0), (0.7, 0.6, 20.0)):
        distance = np.hypot(rows - row, columns - column)
        truth += np.array([1.0, 0.8, 0.6]) * (peak * np.exp(-((distance / 0.05) ** 2)))[..., None]
    return truth.astype(np.float32)


def take_picture(truth: FloatArray) -> npt.NDArray[np.uint8]:
    return np.rint(linear_to_srgb(np.clip(truth, 0, 1)) * 255).astype(np.uint8)
