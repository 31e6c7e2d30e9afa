from __future__ import annotations

import colour
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codecs import color

GRID = np.linspace(0, 1, 4097, dtype=np.float32)


def test_srgb_agrees_with_colour_science() -> None:
    np.testing.assert_allclose(color.srgb_to_linear(GRID), colour.models.eotf_sRGB(GRID.astype(float)), atol=2e-7)
    np.testing.assert_allclose(
        color.linear_to_srgb(GRID), colour.models.eotf_inverse_sRGB(GRID.astype(float)), atol=2e-7
    )


@pytest.mark.parametrize("code", [0, 1, 10, 11, 128, 254, 255])
def test_srgb_round_trip_keeps_every_kind_of_code(code: int) -> None:
    encoded = np.array([code / 255], np.float32)
    assert round(float(color.linear_to_srgb(color.srgb_to_linear(encoded))[0]) * 255) == code


def test_network_domain_is_a_pure_power_with_one_at_the_clipping_level() -> None:
    y = np.array([-0.5, 0, 0.25, 1, 2], np.float32)
    np.testing.assert_allclose(color.network_to_linear(y), [0, 0, 0.25**2.24, 1, 2**2.24], rtol=1e-6)


@given(st.floats(0, 100, width=32))
def test_network_round_trip(value: float) -> None:
    linear = np.array([value], np.float32)
    restored = color.network_to_linear(color.linear_to_network(linear))
    np.testing.assert_allclose(restored, linear, rtol=1e-5, atol=1e-37)


def test_luminance_weighs_by_rec709() -> None:
    image = np.eye(3, dtype=np.float32).reshape(1, 3, 3)
    np.testing.assert_allclose(color.luminance(image), [[0.2126, 0.7152, 0.0722]])
    space = colour.models.RGB_COLOURSPACE_BT709
    np.testing.assert_allclose(color.REC709_TO_XYZ, space.matrix_RGB_to_XYZ, atol=1e-3)
    np.testing.assert_allclose(color.REC709_CHROMATICITIES, [*space.primaries.ravel(), *space.whitepoint], atol=1e-9)


@pytest.mark.parametrize(
    "function", [color.srgb_to_linear, color.linear_to_srgb, color.network_to_linear, color.linear_to_network]
)
def test_curves_stay_in_float32_and_leave_their_input_alone(function) -> None:
    given_values = GRID.copy()
    assert function(given_values).dtype == np.float32
    np.testing.assert_array_equal(given_values, GRID)
