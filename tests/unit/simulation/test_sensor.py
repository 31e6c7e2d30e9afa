"""The noise that is measured is the noise that is stated. Tolerances are four standard errors of what is measured."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.simulation.sensor import Sensor

SIDE = 240
NUM = SIDE * SIDE
# Variance of a sample variance is 2 sigma**4 / N for N independent normal samples. The binomial kernel leaves
# neighbours correlated by 4/6 and 1/6 in each direction, and the sum of squared correlations divides N.
CORRELATED_NUM = NUM / (1 + 2 * ((4 / 6) ** 2 + (1 / 6) ** 2)) ** 2


def flat(level: float) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), level, np.float32)


@pytest.mark.parametrize("level", [0.1, 0.3, 0.7])
@pytest.mark.parametrize(("full_well_e", "read_noise_e"), [(1000.0, 2.0), (8000.0, 40.0), (40_000.0, 1.0)])
def test_variance_is_a_x_plus_b(level: float, full_well_e: float, read_noise_e: float) -> None:
    gains = (2.0, 1.0, 1.5)
    developed = Sensor(full_well_e, read_noise_e, gains).expose(flat(level), np.random.default_rng(0))
    assert developed.dtype == np.float32
    for channel, gain in enumerate(gains):
        electrons = level / gain * full_well_e
        variance = (gain / full_well_e) ** 2 * (electrons + read_noise_e**2)
        measured = developed[..., channel].astype(float)
        assert measured.var() == pytest.approx(variance, rel=4 * (2 / NUM) ** 0.5)
        assert measured.mean() == pytest.approx(level, abs=4 * (variance / NUM) ** 0.5)


def test_demosaicing_leaves_three_eighths_of_the_deviation_and_correlated_neighbours() -> None:
    full_well_e = 4000.0
    sensor = Sensor(full_well_e, 3.0, (1.0, 1.0, 1.0), has_correlated_noise=True)
    noise = sensor.expose(flat(0.4), np.random.default_rng(1)).astype(float) - 0.4
    variance = (3 / 8) ** 2 * (0.4 / full_well_e + (3.0 / full_well_e) ** 2)
    for channel in range(3):
        plane = noise[..., channel]
        assert plane.var() == pytest.approx(variance, rel=4 * (2 / CORRELATED_NUM) ** 0.5)
        assert np.corrcoef(plane[:, 1:].ravel(), plane[:, :-1].ravel())[0, 1] == pytest.approx(4 / 6, abs=0.02)
        assert np.corrcoef(plane[2:].ravel(), plane[:-2].ravel())[0, 1] == pytest.approx(1 / 6, abs=0.04)
        assert np.corrcoef(plane[3:].ravel(), plane[:-3].ravel())[0, 1] == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("is_correlated", [False, True])
def test_channels_are_noisy_each_for_itself(is_correlated: bool) -> None:
    sensor = Sensor(2000.0, 3.0, (1.8, 1.0, 1.4), is_correlated)
    noise = sensor.expose(flat(0.3), np.random.default_rng(2)).reshape(-1, 3)
    off_diagonal = np.corrcoef(noise.T) - np.eye(3)
    assert np.abs(off_diagonal).max() < 4 / (CORRELATED_NUM if is_correlated else NUM) ** 0.5


def test_without_noise_the_sensor_only_clips_each_channel_for_itself() -> None:
    light = np.array([[[0.0, 0.5, 0.999], [1.0, 1.001, 5.0], [0.2, 1.7, 0.4], [1e6, 0.1, 3e38]]], np.float32)
    developed = Sensor(1e12, 0.0, (2.2, 1.0, 1.6)).expose(light, np.random.default_rng(0))
    np.testing.assert_allclose(developed, np.minimum(light, 1), atol=5e-6)


def test_noise_never_leaves_the_range_and_the_sun_is_white() -> None:
    sensor = Sensor(50.0, 20.0, (2.0, 1.0, 1.5))
    dark = sensor.expose(flat(0.0), np.random.default_rng(0))
    assert dark.min() == 0
    assert 0.3 < (dark == 0).mean() < 0.7, "half of the read noise lies below black"
    for light in (1e5, 3e38, np.inf):
        bright = Sensor(800.0, 8.0, (2.0, 1.0, 1.5)).expose(flat(light), np.random.default_rng(0))
        assert (bright == 1).all()


def test_noise_depends_on_the_generator_alone() -> None:
    sensor = Sensor(2000.0, 3.0, (1.8, 1.0, 1.4), has_correlated_noise=True)
    one, same, other = (sensor.expose(flat(0.3), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((0.0, 1.0, (1.0, 1.0, 1.0)), "full_well_e"),
        ((10.0, -1.0, (1.0, 1.0, 1.0)), "read_noise_e"),
        ((10.0, 1.0, (1.0, 0.9, 1.0)), "white balance"),
    ],
)
def test_impossible_sensors_are_refused(values: tuple[float, float, tuple[float, float, float]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Sensor(*values)
