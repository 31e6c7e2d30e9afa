"""The baselines are what they are said to be."""

from __future__ import annotations

import colour
import numpy as np
import pytest
from pictures import make_truth, take_picture

from pipeline.evaluation.baselines import BASELINES, identity, rempel2007, srgb_blur, srgb_decode

ALL_CODES = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)


def test_identity_is_a_power_of_2_24() -> None:
    assert identity(ALL_CODES)[0, :, 0] == pytest.approx((np.arange(256) / 255) ** 2.24, rel=1e-5)


def test_srgb_is_the_standards_curve() -> None:
    expected = colour.models.eotf_sRGB(np.arange(256) / 255)
    assert srgb_decode(ALL_CODES)[0, :, 1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_keeps_shape_and_type_and_takes_16_bits(name: str) -> None:
    picture = take_picture(make_truth())
    output = BASELINES[name](picture)
    assert output.shape == picture.shape
    assert output.dtype == np.float32
    assert output.min() >= 0
    assert BASELINES[name](picture.astype(np.uint16) * 257) == pytest.approx(output, rel=1e-5, abs=1e-6)


def test_blur_takes_noise_away_and_keeps_the_tone() -> None:
    noise = np.random.default_rng(0).normal(128, 4, (128, 128, 3))
    picture = np.clip(noise, 0, 255).round().astype(np.uint8)
    sharp, blurred = srgb_decode(picture), srgb_blur(picture)
    assert blurred.mean(axis=(0, 1)) == pytest.approx(sharp.mean(axis=(0, 1)), rel=1e-3)
    # A Gaussian of 0.5 px has weights of 0.787 and 0.107 on either side: the sum of squares, along both axes.
    assert blurred.std() / sharp.std() == pytest.approx(0.787**2 + 2 * 0.107**2, abs=0.02)


def picture_with_window(size_px: int, inside: slice, outside: int) -> np.ndarray:
    picture = np.full((size_px, size_px, 3), outside, np.uint8)
    picture[inside, inside] = 255
    return picture


def test_rempel_leaves_an_unclipped_picture_alone() -> None:
    picture = np.minimum(take_picture(make_truth()), 249)
    assert (rempel2007(picture) == srgb_decode(picture)).all()


def test_rempel_multiplies_a_large_clipped_area_by_four_at_most() -> None:
    picture = picture_with_window(128, slice(32, 96), 60)
    gain = rempel2007(picture) / srgb_decode(picture)
    assert gain[64, 64, 0] == pytest.approx(4.0, abs=0.01)
    assert gain.max() <= 4.0001
    assert gain.min() >= 1.0
    assert (gain == gain[..., :1]).all(), "one factor for all channels keeps the hue"


def test_rempel_stops_at_edges_but_not_in_gradients() -> None:
    sharp = picture_with_window(256, slice(96, 160), 100)
    ramp = np.clip(np.abs(np.arange(256) - 128)[None, :] * -1 + 287, 0, 255) * np.ones((256, 1))
    soft = np.repeat(ramp.astype(np.uint8)[..., None], 3, axis=2)
    gain_behind_edge = (rempel2007(sharp) / srgb_decode(sharp))[128, 166, 0]
    column = 128 + 32 + 6  # as far outside the clipped area as in the sharp picture
    gain_in_gradient = (rempel2007(soft) / srgb_decode(soft))[128, column, 0]
    assert gain_behind_edge < 1.02
    assert gain_in_gradient > 1.2


def test_rempel_enhances_a_small_light_less_than_a_large_one() -> None:
    gains = []
    for half in (2, 8, 40):
        picture = picture_with_window(256, slice(128 - half, 128 + half), 60)
        gains.append((rempel2007(picture) / srgb_decode(picture)).max())
    assert gains == sorted(gains)
    assert gains[0] < gains[1] < gains[2]
