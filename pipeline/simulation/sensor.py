"""A simulated image sensor: what it makes of light, up to white-balanced linear values. No lens, no demosaicing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_MAX_CHARGE = 4.0  # far beyond saturation nothing changes any more; the bound keeps the noise of the sun finite


@dataclass(frozen=True, slots=True)
class Sensor:
    """One sensor at one sensitivity. Raises ValueError where a value makes no sensor.

    `full_well_e` and `read_noise_e` are electrons: the charge at saturation, and the noise without light.
    `white_balance` holds the gains of red, green and blue, at least 1 each: a channel with a larger gain catches less
    light and is noisier. `has_correlated_noise`: demosaicing has smoothed the noise with the 3 x 3 binomial kernel,
    which leaves 3/8 of its standard deviation.
    """

    full_well_e: float
    read_noise_e: float
    white_balance: tuple[float, float, float]
    has_correlated_noise: bool = False

    def __post_init__(self) -> None:
        if self.full_well_e <= 0 or self.read_noise_e < 0:
            msg = "full_well_e must be positive and read_noise_e not negative"
            raise ValueError(msg)
        if min(self.white_balance) < 1.0:
            msg = f"white balance gains below 1 would leave clipped white coloured: {self.white_balance}"
            raise ValueError(msg)

    def expose(self, light: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return what the sensor and its white balance make of light: float32 (H, W, 3) in [0, 1], linear.

        `light` is float32 (H, W, 3), linear, not negative; 1.0 is the level at which every channel clips. Noise is
        signal-dependent Gaussian with variance a x + b, a = 1 / full_well_e for shot noise and
        b = (read_noise_e / full_well_e) ** 2, in units of saturation and before clipping (Foi, Trimeche, Katkovnik,
        Egiazarian: "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data", IEEE TIP
        2008). A channel saturates at 1 before and is clipped at 1 after white balance, each channel for itself.
        """
        gains = np.array(self.white_balance, np.float32)
        charge = np.clip(light / gains, 0, _MAX_CHARGE)
        deviation = np.sqrt(charge / self.full_well_e + (self.read_noise_e / self.full_well_e) ** 2)
        noise = rng.standard_normal(charge.shape, dtype=np.float32)
        if self.has_correlated_noise:
            noise = _smooth(noise)
        developed: FloatArray = np.clip(np.clip(charge + deviation * noise, 0, 1) * gains, 0, 1).astype(np.float32)
        return developed


def _smooth(noise: FloatArray) -> FloatArray:
    """Convolve with the 3 x 3 binomial kernel, [1 2 1] / 4 in each direction; the edges wrap around."""
    for axis in (0, 1):
        before, after = np.roll(noise, 1, axis), np.roll(noise, -1, axis)
        noise = (before + 2 * noise + after) / np.float32(4)
    return noise
