"""Noise that is left and detail that is kept, both against the truth, where the input is well exposed.

Denoising is a trade of one for the other: a blur takes both away. Samples are compared as the network and the manifest
see them, E(x) = x^(1/2.24), after exposure alignment, so that a global factor changes neither.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import linear_to_network
from pipeline.evaluation.areas import FloatArray
from pipeline.evaluation.baselines import srgb_decode
from pipeline.evaluation.extras import load_extra
from pipeline.evaluation.pair import Pair

BLOCK_PX = 8
"""The side of the blocks in which flatness and noise are measured."""
FLAT_BELOW = 1 / 255
"""A block is flat where the truth deviates from a plane by less than this, root mean square: one 8-bit code."""
MIN_NOISE = 0.5 / 255
"""An input has noise to remove from this root mean square on; rounding to 8 bits alone makes 0.29 / 255."""
MIN_FLAT_BLOCKS = 4
TEXTURED_FROM = 2 / 255
"""Texture is where the truth's detail has at least this root mean square over 9 x 9 pixels."""
MIN_TEXTURED_PX = 256
_SIGMA_PX = 1.0
_REACH_PX = 9  # the Gaussian, cut off at four sigma, reaches 4 px to each side


def flat_noise_left(pair: Pair) -> float:
    """Return the noise of the output over that of the sRGB decode of the input, in flat, well-exposed blocks.

    Noise is the root mean square of E(output) - E(truth), all channels, after the plane that fits it best was taken out
    of each block of 8 x 8 px and channel: what is left of errors of tone is smooth. Flat blocks are those whose truth
    deviates from a plane by less than 1/255. NaN with fewer than 4 of them, and for inputs without noise to remove:
    under 0.5/255 in the decode.
    """
    truth = _blocks(linear_to_network(pair.truth))
    exposed = _blocks(pair.well_exposed[..., None]).all(axis=(1, 2))
    flat = exposed & (_rms(_without_plane(truth)) < FLAT_BELOW)
    if np.count_nonzero(flat) < MIN_FLAT_BLOCKS:
        return float("nan")
    decoded = Pair(pair.ldr, srgb_decode(pair.ldr), pair.truth)
    noise, decoded_noise = (
        float(np.sqrt(np.mean(_without_plane(_blocks(linear_to_network(image))[flat] - truth[flat]) ** 2)))
        for image in (pair.aligned.output, decoded.aligned.output)
    )
    return noise / decoded_noise if decoded_noise >= MIN_NOISE else float("nan")


def detail_kept(pair: Pair) -> float:
    """Return the share of the truth's finest detail that the output has, in well-exposed texture: 1 is all of it.

    Detail d is E(Y) minus its Gaussian of 1 px, Y the luminance. The share is the slope of the regression of the
    output's detail on the truth's through the origin, sum(d_out d_true) / sum(d_true^2): noise, which does not depend
    on the truth, leaves it where it is, blur lowers it, and over 1 detail is exaggerated. Counted are pixels within
    4 px of which everything is well exposed, where d_true has a root mean square of at least 2/255 over 9 x 9 px. NaN
    with fewer than 256 of them. Raises ConfigError without scipy.
    """
    ndimage: Any = load_extra("scipy.ndimage", "scipy")
    ours, true = (_detail(image, ndimage) for image in (pair.aligned.output_luminance, pair.true_luminance))
    inside = ndimage.binary_erosion(pair.well_exposed, np.ones((_REACH_PX, _REACH_PX), np.bool_), border_value=1)
    area = inside & (ndimage.uniform_filter(true**2, _REACH_PX) >= TEXTURED_FROM**2)
    if np.count_nonzero(area) < MIN_TEXTURED_PX:
        return float("nan")
    return float(np.sum(ours[area] * true[area]) / np.sum(true[area] ** 2))


def _detail(light: FloatArray, ndimage: Any) -> npt.NDArray[np.float64]:
    encoded = linear_to_network(light).astype(np.float64)
    return np.asarray(encoded - ndimage.gaussian_filter(encoded, _SIGMA_PX))


def _blocks(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cut (H, W, C) into whole blocks, (N, pixels, C); what fills none is left out."""
    rows, columns, channels = image.shape[0] // BLOCK_PX, image.shape[1] // BLOCK_PX, image.shape[2]
    whole = image[: rows * BLOCK_PX, : columns * BLOCK_PX]
    parts = whole.reshape(rows, BLOCK_PX, columns, BLOCK_PX, channels).transpose(0, 2, 1, 3, 4)
    return parts.reshape(rows * columns, BLOCK_PX**2, channels)


def _without_plane(blocks: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Take the plane out of each block and channel, (N, pixels, C), that fits it best by least squares."""
    rows, columns = np.mgrid[:BLOCK_PX, :BLOCK_PX].reshape(2, -1)
    basis, _ = np.linalg.qr(np.stack([np.ones(BLOCK_PX**2), rows, columns], axis=1))
    values = blocks.astype(np.float64)
    return np.asarray(values - basis @ (basis.T @ values))


def _rms(blocks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.sqrt(np.mean(blocks**2, axis=(1, 2))))
