"""The backdrop of the demo scene: evening sky, sun, clouds, hills and a lake. NumPy only.

Directions and colours are arrays of shape (3, N), float32: x to the right, y up, z away from the camera; colours
are linear Rec.709 radiances. The sky is an analytic gradient chosen for its looks and its range, not a sky model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SUN_AZIMUTH_DEG = -14.5
SUN_ELEVATION_DEG = 7.2
SUN_RADIUS_DEG = 0.8  # three times the real one, so that a small picture shows a disk and not a dot
SUN_RADIANCE = (5200.0, 3500.0, 1750.0)

_LAKE_BELOW_EYE_M = 14.0


def colour(red: float, green: float, blue: float) -> FloatArray:
    """Return one colour or vector as a (3, 1) column that broadcasts over (3, N)."""
    return np.array([[red], [green], [blue]], dtype=np.float32)


def dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the dot products of (3, N) vectors as (N,)."""
    total: FloatArray = a[0] * b[0]
    total += a[1] * b[1]
    total += a[2] * b[2]
    return total


def normalize(v: FloatArray) -> FloatArray:
    """Return (3, N) vectors at unit length."""
    inverse: FloatArray = np.reciprocal(np.sqrt(dot(v, v)))
    return v * inverse


def mix(a: FloatArray, b: FloatArray, t: FloatArray) -> FloatArray:
    """Return a + (b - a) t: a where t is 0, b where t is 1."""
    return a + (b - a) * t


def smoothstep(low: float, high: float, x: FloatArray) -> FloatArray:
    """Return the cubic ramp from 0 at `low` to 1 at `high`."""
    t: FloatArray = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def direction_from_angles(azimuth_deg: float, elevation_deg: float) -> FloatArray:
    """Return the (3, 1) unit vector at an azimuth (0 ahead, positive to the right) and an elevation."""
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    flat = np.cos(elevation)
    return colour(flat * np.sin(azimuth), np.sin(elevation), flat * np.cos(azimuth))


SUN_DIRECTION = direction_from_angles(SUN_AZIMUTH_DEG, SUN_ELEVATION_DEG)


@dataclass(frozen=True, slots=True)
class ValueNoise:
    """Periodic value noise in [0, 1): random lattice values, blended by a cubic ramp."""

    lattice: FloatArray

    @classmethod
    def from_rng(cls, rng: np.random.Generator, size: int = 256) -> ValueNoise:
        """Draw the lattice; `size` must be a power of two."""
        return cls(rng.random(size * size, dtype=np.float32))

    def __call__(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the noise at points (x, y), which share a shape; the lattice step is 1."""
        size = int(np.sqrt(self.lattice.size))
        floor_x, floor_y = np.floor(x), np.floor(y)
        u, v = x - floor_x, y - floor_y
        u, v = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v)
        column, row = floor_x.astype(np.int32), floor_y.astype(np.int32)
        x0, x1 = column & (size - 1), (column + 1) & (size - 1)
        y0, y1 = (row & (size - 1)) * size, ((row + 1) & (size - 1)) * size
        at = self.lattice.take
        near: FloatArray = at(y0 + x0) * (1.0 - u) + at(y0 + x1) * u
        far = at(y1 + x0) * (1.0 - u) + at(y1 + x1) * u
        blended: FloatArray = near + (far - near) * v
        return blended

    def fractal(self, x: FloatArray, y: FloatArray, num_octaves: int) -> FloatArray:
        """Return a sum of octaves, each twice as fine and half as strong, scaled back to [0, 1)."""
        total = np.zeros_like(x)
        weight, weights = 1.0, 0.0
        for octave in range(num_octaves):
            scale = 2.0**octave
            total += weight * self(x * scale + 17.3 * octave, y * scale + 9.1 * octave)
            weights += weight
            weight *= 0.5
        return total / weights


@dataclass(frozen=True, slots=True)
class _Hills:
    """One range: elevations in degrees, and how clearly it stands out of the haze (0 hidden, 1 clear)."""

    base_deg: float
    relief_deg: float
    period_deg: float
    clearness: float


_HILLS = (_Hills(2.2, 3.6, 15.0, 0.30), _Hills(0.9, 2.9, 9.0, 0.62), _Hills(0.1, 1.7, 5.0, 0.88))
_NUM_AZIMUTHS = 16_384


@dataclass(frozen=True, slots=True)
class Backdrop:
    """Everything beyond the terrace, a function of direction alone but for the lake's waves.

    `ridges_deg` holds the elevation of each range of hills over a full turn of azimuth, the farthest first.
    """

    noise: ValueNoise
    ridges_deg: tuple[FloatArray, ...]

    @classmethod
    def from_noise(cls, noise: ValueNoise) -> Backdrop:
        """Draw the ridges from the noise."""
        azimuth_deg = np.linspace(-180.0, 180.0, _NUM_AZIMUTHS, dtype=np.float32)
        ridges = []
        for layer, hills in enumerate(_HILLS):
            row = np.full_like(azimuth_deg, 31.7 * (layer + 1))
            relief = noise.fractal(azimuth_deg / hills.period_deg, row, 5)
            ridges.append(hills.base_deg + hills.relief_deg * relief)
        return cls(noise, tuple(ridges))

    def radiance(self, direction: FloatArray) -> FloatArray:
        """Return the (3, N) radiance seen along unit directions (3, N)."""
        above = direction[1] > 0.0
        result = np.empty_like(direction)
        up, down = np.flatnonzero(above), np.flatnonzero(~above)
        if up.size:
            result[:, up] = self._land_and_sky(direction[:, up])
        if down.size:
            result[:, down] = self._lake(direction[:, down])
        return result

    def _sky(self, direction: FloatArray) -> FloatArray:
        height = np.maximum(direction[1], 0.0)
        toward_sun = np.clip(dot(direction, SUN_DIRECTION), -1.0, 1.0)
        angle_deg = np.degrees(np.arccos(toward_sun))
        facing = (0.5 + 0.5 * toward_sun) ** 3
        horizon = mix(colour(0.17, 0.17, 0.25), colour(0.86, 0.40, 0.17), facing)
        zenith = mix(colour(0.04, 0.075, 0.17), colour(0.10, 0.16, 0.30), facing)
        base = mix(horizon, zenith, smoothstep(-0.06, 0.42, height))
        base = base + colour(0.16, 0.06, 0.10) * (facing * np.exp(-(((height - 0.13) / 0.08) ** 2)))
        base = self._with_clouds(base, direction, facing)
        glow = (
            colour(9.0, 5.0, 1.9) * np.exp(-angle_deg / 1.1)
            + colour(1.5, 0.72, 0.22) * np.exp(-angle_deg / 4.0)
            + colour(0.42, 0.17, 0.05) * np.exp(-angle_deg / 14.0)
        )
        # Limb darkening, the linear law with u = 0.6.
        inside = np.clip(1.0 - (angle_deg / SUN_RADIUS_DEG) ** 2, 0.0, 1.0)
        disk = np.where(angle_deg < SUN_RADIUS_DEG, 0.4 + 0.6 * np.sqrt(inside), 0.0)
        return base + glow + colour(*SUN_RADIANCE) * disk

    def _with_clouds(self, base: FloatArray, direction: FloatArray, facing: FloatArray) -> FloatArray:
        height = np.maximum(direction[1], 0.012)
        x, z = direction[0] / height, direction[2] / height
        streak = self.noise.fractal(x * 0.55 + 0.12 * z, z * 0.95, 5)
        cover = smoothstep(0.47, 0.78, streak) * smoothstep(0.02, 0.12, direction[1])
        lit = mix(colour(0.22, 0.17, 0.24), colour(1.35, 0.62, 0.34), facing**2)
        return mix(base, lit, 0.8 * cover)

    def _land_and_sky(self, direction: FloatArray) -> FloatArray:
        azimuth_deg = np.degrees(np.arctan2(direction[0], direction[2]))
        elevation_deg = np.degrees(np.arcsin(np.clip(direction[1], -1.0, 1.0)))
        result = self._sky(direction)
        toward_sun = np.clip(dot(direction, SUN_DIRECTION), 0.0, 1.0)
        haze = mix(colour(0.20, 0.17, 0.21), colour(0.95, 0.46, 0.20), toward_sun**10)
        step = ((azimuth_deg + 180.0) * ((_NUM_AZIMUTHS - 1) / 360.0)).astype(np.int32)
        for hills, ridges_deg in zip(_HILLS, self.ridges_deg, strict=True):
            covered = np.flatnonzero(elevation_deg < ridges_deg[step])
            if not covered.size:
                continue
            ridge_deg = ridges_deg[step[covered]]
            trees = self.noise.fractal(azimuth_deg[covered] * 6.0, elevation_deg[covered] * 9.0, 3)
            slope = colour(0.030, 0.036, 0.026) * (0.4 + 1.2 * trees)
            mist = hills.clearness * (0.55 + 0.45 * np.clip(elevation_deg[covered] / ridge_deg, 0.0, 1.0))
            result[:, covered] = mix(haze[:, covered], slope, mist)
        return result

    def _lake(self, direction: FloatArray) -> FloatArray:
        distance = _LAKE_BELOW_EYE_M / np.maximum(-direction[1], 0.004)
        x, z = direction[0] * distance, direction[2] * distance
        ripple = self.noise.fractal(x * 0.55, z * 0.16, 3)
        chop = self.noise(x * 2.1 + 40.0, z * 0.6)
        calm = 1.0 / (1.0 + distance / 250.0)
        # At grazing angles mostly the facets that lean towards the eye are seen: hence the constant tilt.
        lean = -0.035 + (0.11 * (ripple - 0.5) + 0.05 * (chop - 0.5)) * calm
        normal = normalize(np.stack([0.08 * (chop - 0.5) * calm, np.ones_like(x), lean]))
        cosine = np.clip(-dot(direction, normal), 0.02, 1.0)
        mirrored = direction + 2.0 * cosine * normal
        mirrored[1] = np.maximum(mirrored[1], 0.004)
        mirrored = normalize(mirrored)
        fresnel = 0.02 + 0.98 * (1.0 - cosine) ** 5
        # The disk itself would hit single ripples at random; a lobe over facet slopes (as in Cox and Munk, 1954)
        # gives the same path of light without speckles.
        image = np.minimum(self._land_and_sky(mirrored), 6.0)
        facet = normalize(SUN_DIRECTION - direction)
        slope_across, slope_along = facet[0] / facet[1], facet[2] / facet[1]
        lobe = np.exp(-((slope_across / 0.05) ** 2) - (slope_along / 0.20) ** 2)
        sparkle = smoothstep(0.52, 0.80, self.noise(x * 1.1, z * 0.42 + 7.0)) * (0.3 + ripple)
        glitter = colour(26.0, 15.0, 6.0) * (lobe * (0.03 + sparkle))
        result: FloatArray = image * fresnel + colour(0.012, 0.022, 0.028) + glitter
        return result
