"""A rendered HDR scene for the demo: a terrace above a lake on a late evening. NumPy only, seconds on one core.

It holds what highlight reconstruction has to cope with: a sun with its glow, a glitter path, a lit lamp, a lit window,
glossy and mirroring spheres; and what a converter must leave alone: a smoothly lit wall (banding), a colour chart,
textures, and a doorway with detail in deep shadow. Because it is rendered, the true radiances are known.

Rays are traced with one mirror bounce. Points, directions and colours are float32 arrays of shape (3, N).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.demo_house import WALL_TOP_Y, WALL_X, WALL_Z, House
from jobs.demo_sky import (
    SUN_DIRECTION,
    Backdrop,
    FloatArray,
    ValueNoise,
    colour,
    dot,
    mix,
    normalize,
    smoothstep,
)

MEDIAN_LUMINANCE = 0.18

# Lengths in metres.
_EYE = colour(0.0, 1.5, -5.0)
_PITCH_DEG = -4.0
_HORIZONTAL_FIELD_DEG = 54.0
_TERRACE_END_Z = 4.6
LAMP_CENTRE = (1.53, 2.05, 2.62)
LAMP_RADIUS = 0.13
_SUN_IRRADIANCE = colour(3.6, 2.3, 1.15)
_SKY_FILL = colour(0.20, 0.23, 0.30)
_GROUND_FILL = colour(0.10, 0.075, 0.055)
_PENUMBRA = 0.022  # tangent of the half-angle over which the sun's shadows fade


@dataclass(frozen=True, slots=True)
class _Sphere:
    """`reflectance` is the specular colour at normal incidence; `gloss` is a Blinn-Phong exponent, 0 for matte."""

    centre: tuple[float, float, float]
    radius: float
    albedo: tuple[float, float, float]
    reflectance: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gloss: float = 0.0


@dataclass(frozen=True, slots=True)
class _Lamp:
    """A small light: `intensity` over squared distance is irradiance over pi."""

    centre: tuple[float, float, float]
    radius: float
    intensity: tuple[float, float, float]


# The lamp on the wall, and one behind the camera that models the spheres and gives them their highlights.
_LAMPS = (
    _Lamp(LAMP_CENTRE, LAMP_RADIUS, (0.95, 0.58, 0.27)),
    _Lamp((-4.2, 4.6, -4.6), 0.25, (13.0, 10.2, 7.2)),
)
_SPHERES = (
    _Sphere((-1.62, 0.55, 1.55), 0.55, (0.78, 0.76, 0.72)),
    _Sphere((-0.42, 0.42, 0.35), 0.42, (0.52, 0.035, 0.030), (0.045, 0.045, 0.045), 2600.0),
    _Sphere((0.62, 0.62, 1.35), 0.62, (0.0, 0.0, 0.0), (0.90, 0.91, 0.92), 6000.0),
    _Sphere((-1.13, 0.20, -0.75), 0.20, (0.025, 0.10, 0.42), (0.05, 0.05, 0.05), 2600.0),
    _Sphere((1.72, 0.36, 0.10), 0.36, (0.0, 0.0, 0.0), (0.95, 0.64, 0.25), 900.0),
    _Sphere((0.40, 0.17, -0.95), 0.17, (0.06, 0.30, 0.09), (0.04, 0.04, 0.04), 250.0),
    _Sphere((-2.75, 0.30, 0.55), 0.30, (0.62, 0.36, 0.05), (0.04, 0.04, 0.04), 900.0),
)
_SKY, _FLOOR, _WALL, _SIDE, _LAMP, _FIRST_SPHERE = -1, 0, 1, 2, 3, 4


def render_scene(width: int = 768, height: int = 512, seed: int = 7) -> NDArray[np.float32]:
    """Render the scene as (height, width, 3) float32, linear Rec.709, non-negative and finite.

    The exposure is set so that the median luminance is 0.18; the sun reaches thousands. `seed` draws clouds, ridges,
    waves and stone. Each pixel is the mean of 2 x 2 rays. Raises ValueError for a size below 1 x 1.
    """
    if width < 1 or height < 1:
        msg = f"a picture needs at least 1 x 1 pixels, not {width} x {height}"
        raise ValueError(msg)
    noise = ValueNoise.from_rng(np.random.default_rng(seed))
    world = _World(noise, Backdrop.from_noise(noise))
    image = np.empty((height, width, 3), dtype=np.float32)
    rows_per_band = max(1, 32_768 // width)  # bands keep the temporaries inside the processor's caches
    for top in range(0, height, rows_per_band):
        bottom = min(top + rows_per_band, height)
        direction = _camera_rays(width, height, top, bottom)
        seen = world.radiance(np.broadcast_to(_EYE, direction.shape), direction, may_reflect=True)
        image[top:bottom] = seen.reshape(3, bottom - top, 2, width, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    luminance = image @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
    return image * np.float32(MEDIAN_LUMINANCE / np.median(luminance))


def project(point: tuple[float, float, float], width: int, height: int) -> tuple[float, float]:
    """Return where a point of the scene (metres) falls in a picture: (x_px, y_px) from the top left corner."""
    x, y, z = (np.array(point) - _EYE[:, 0]).tolist()
    pitch = np.radians(_PITCH_DEG)
    depth = z * np.cos(pitch) + y * np.sin(pitch)
    up = y * np.cos(pitch) - z * np.sin(pitch)
    scale = 0.5 * width / np.tan(np.radians(0.5 * _HORIZONTAL_FIELD_DEG)) / depth
    return 0.5 * width + scale * x, 0.5 * height - scale * up


def _camera_rays(width: int, height: int, top: int, bottom: int) -> FloatArray:
    half_field = float(np.tan(np.radians(0.5 * _HORIZONTAL_FIELD_DEG)))
    x = ((np.arange(2 * width, dtype=np.float32) + 0.5) / width - 1.0) * half_field
    y = (0.5 * height - (np.arange(2 * top, 2 * bottom, dtype=np.float32) + 0.5) * 0.5) * (2.0 * half_field / width)
    across, up = (plane.ravel() for plane in np.meshgrid(x, y))
    pitch = np.radians(_PITCH_DEG)
    cosine, sine = float(np.cos(pitch)), float(np.sin(pitch))
    return normalize(np.stack([across, up * cosine + sine, cosine - up * sine]))


def _hit_sphere(
    origin: FloatArray, direction: FloatArray, centre: tuple[float, float, float], radius: float
) -> FloatArray:
    """Return the distance to the sphere's front, or inf."""
    to_centre = colour(*centre) - origin
    along = dot(to_centre, direction)
    half_chord2 = radius * radius - (dot(to_centre, to_centre) - along * along)
    distance = along - np.sqrt(np.maximum(half_chord2, 0.0))
    return np.where((half_chord2 > 0.0) & (distance > 1e-3), distance, np.inf)


def _light_past_spheres(
    point: FloatArray, toward: FloatArray, reach: FloatArray | float, softness: FloatArray | float
) -> FloatArray:
    """Return how much of a light at `reach` along `toward` passes all spheres: 1 free, 0 hidden, soft between."""
    free = np.ones(point.shape[1], dtype=np.float32)
    for sphere in _SPHERES:
        to_centre = colour(*sphere.centre) - point
        along = dot(to_centre, toward)
        miss2 = dot(to_centre, to_centre) - along * along
        near = np.flatnonzero((along > 0.0) & (along < reach) & (miss2 < (1.5 * sphere.radius) ** 2))
        miss = np.sqrt(np.maximum(miss2[near], 0.0)) - sphere.radius
        width = (softness if isinstance(softness, float) else softness[near]) * np.maximum(along[near], 0.05)
        free[near] *= np.clip(0.5 + 0.5 * miss / width, 0.0, 1.0)
    return free


def _openness(point: FloatArray, normal: FloatArray) -> FloatArray:
    """Return 1 minus the spheres' view factors, cos(theta) r^2 / d^2 each (Howell's catalogue, B-1)."""
    open_part = np.ones(point.shape[1], dtype=np.float32)
    for sphere in _SPHERES:
        to_centre = colour(*sphere.centre) - point
        distance2 = np.maximum(dot(to_centre, to_centre), sphere.radius**2)
        cosine = np.clip(dot(to_centre, normal) / np.sqrt(distance2), 0.0, 1.0)
        # A sphere's own surface is at d = r, with the centre behind it: cosine 0.
        open_part *= 1.0 - cosine * sphere.radius**2 / distance2
    return open_part


@dataclass(frozen=True, slots=True)
class _Incoming:
    """One light as it arrives at N points: where it comes from (3, N or 1) and, unshadowed part only, how strong."""

    toward: FloatArray
    strength: FloatArray


def _lights_at(point: FloatArray) -> list[_Incoming]:
    """Return the sun's and the lamps' light (normal irradiance over pi) at each point."""
    lights = [_Incoming(SUN_DIRECTION, _SUN_IRRADIANCE * _sun_visibility(point))]
    for lamp in _LAMPS:
        to_lamp = colour(*lamp.centre) - point
        distance: FloatArray = np.sqrt(dot(to_lamp, to_lamp))
        toward = to_lamp / distance
        free = _light_past_spheres(point, toward, distance, 0.02 + 0.5 * lamp.radius / distance)
        lights.append(_Incoming(toward, colour(*lamp.intensity) * (free / np.maximum(distance, lamp.radius) ** 2)))
    return lights


def _sun_visibility(point: FloatArray) -> FloatArray:
    toward = np.broadcast_to(SUN_DIRECTION, point.shape)
    free = _light_past_spheres(point, toward, np.inf, _PENUMBRA)
    ahead_m = WALL_Z - point[2]
    crossing_x = point[0] + ahead_m * float(SUN_DIRECTION[0, 0] / SUN_DIRECTION[2, 0])
    past_house = np.clip(0.5 - 0.5 * (crossing_x - WALL_X) / (_PENUMBRA * np.maximum(ahead_m, 0.05)), 0.0, 1.0)
    return free * np.where(ahead_m > 0.0, past_house, 1.0)


def _diffuse_light(lights: list[_Incoming], point: FloatArray, normal: FloatArray) -> FloatArray:
    """Return the light (irradiance over pi) that the surface receives from lights, sky and ground."""
    total = mix(_GROUND_FILL, _SKY_FILL, 0.5 + 0.5 * normal[1]) * _openness(point, normal)
    for light in lights:
        total += light.strength * np.clip(dot(normal, light.toward), 0.0, 1.0)
    return total


def _gloss(lights: list[_Incoming], normal: FloatArray, direction: FloatArray, exponent: float) -> FloatArray:
    """Return the lights' normalised Blinn-Phong highlights, before the specular colour."""
    total: FloatArray = np.zeros_like(direction)
    for light in lights:
        alignment = np.clip(dot(normal, normalize(light.toward - direction)), 0.0, 1.0)
        lobe = alignment**exponent * np.clip(dot(normal, light.toward), 0.0, 1.0)
        total += light.strength * (lobe * ((exponent + 8.0) / 8.0))
    return total


@dataclass(frozen=True, slots=True)
class _World:
    noise: ValueNoise
    backdrop: Backdrop

    def radiance(self, origin: FloatArray, direction: FloatArray, *, may_reflect: bool) -> FloatArray:
        """Return what is seen along the rays; without `may_reflect`, mirrors and polish are left out."""
        distance, surface = self._nearest(origin, direction)
        result = np.empty(direction.shape, dtype=np.float32)
        for kind in np.unique(surface):
            rays = np.flatnonzero(surface == kind)
            d = direction[:, rays]
            if kind == _SKY:
                result[:, rays] = self.backdrop.radiance(d)
                continue
            point = origin[:, rays] + d * distance[rays]
            result[:, rays] = self._shade(int(kind), point, d, may_reflect)
        return result

    def _nearest(self, origin: FloatArray, direction: FloatArray) -> tuple[FloatArray, NDArray[np.int8]]:
        ox, oy, oz = origin
        dx, dy, dz = direction
        with np.errstate(divide="ignore", invalid="ignore"):
            floor = -oy / dy
            wall = (WALL_Z - oz) / dz
            side = (WALL_X - ox) / dx
            floor_ok = (floor > 1e-3) & (oz + dz * floor < _TERRACE_END_Z)
            wall_y = oy + dy * wall
            wall_ok = (wall > 1e-3) & (dz > 0.0) & (ox + dx * wall > WALL_X) & (wall_y > 0.0) & (wall_y < WALL_TOP_Y)
            side_y, side_z = oy + dy * side, oz + dz * side
            side_ok = (side > 1e-3) & (dx > 0.0) & (side_z > WALL_Z) & (side_z < WALL_Z + 6.0)
            side_ok &= side_y < WALL_TOP_Y
        candidates = [
            np.full_like(dx, 1e9),
            np.where(floor_ok, floor, np.inf),
            np.where(wall_ok, wall, np.inf),
            np.where(side_ok, side, np.inf),
            _hit_sphere(origin, direction, LAMP_CENTRE, LAMP_RADIUS),
            *(_hit_sphere(origin, direction, sphere.centre, sphere.radius) for sphere in _SPHERES),
        ]
        distance = candidates[0]
        surface = np.full(dx.shape, _SKY, dtype=np.int8)
        for kind, candidate in enumerate(candidates[1:]):
            nearer = candidate < distance
            distance = np.where(nearer, candidate, distance)
            surface[nearer] = kind
        return distance, surface

    def _shade(self, kind: int, point: FloatArray, direction: FloatArray, may_reflect: bool) -> FloatArray:
        if kind == _FLOOR:
            return self._floor(point, direction, may_reflect)
        if kind in (_WALL, _SIDE):
            facing = colour(0.0, 0.0, -1.0) if kind == _WALL else colour(-1.0, 0.0, 0.0)
            light = _diffuse_light(_lights_at(point), point, np.broadcast_to(facing, point.shape))
            house = House(self.noise)
            return house.front(point, direction, light) if kind == _WALL else house.side(point, light)
        if kind == _LAMP:
            return self._lamp(point, direction)
        return self._sphere(_SPHERES[kind - _FIRST_SPHERE], point, direction, may_reflect)

    def _lamp(self, point: FloatArray, direction: FloatArray) -> FloatArray:
        """An opal globe with a bulb behind it: brightest where the line of sight passes the bulb."""
        normal = (point - colour(*LAMP_CENTRE)) / LAMP_RADIUS
        facing = np.clip(-dot(normal, direction), 0.0, 1.0)
        globe = colour(7.5, 4.4, 1.9) * (0.35 + 0.65 * facing)
        bulb = colour(240.0, 165.0, 85.0) * smoothstep(0.86, 0.97, facing)
        cap = np.where(normal[1] > 0.72, 0.004, 1.0)
        result: FloatArray = (globe + bulb) * cap
        return result

    def _sphere(self, sphere: _Sphere, point: FloatArray, direction: FloatArray, may_reflect: bool) -> FloatArray:
        normal = (point - colour(*sphere.centre)) / sphere.radius
        lights = _lights_at(point)
        result: FloatArray = colour(*sphere.albedo) * _diffuse_light(lights, point, normal)
        if sphere.gloss:
            cosine = np.clip(-dot(direction, normal), 0.0, 1.0)
            base = colour(*sphere.reflectance)
            fresnel = base + (1.0 - base) * (1.0 - cosine) ** 5  # Schlick 1994
            result = result + fresnel * _gloss(lights, normal, direction, sphere.gloss)
            mirrored = direction + 2.0 * cosine * normal
            if may_reflect:
                # The lobe already carries the sun; a second, sharp image of its disk would be too much.
                seen = self.radiance(point + normal * 2e-3, normalize(mirrored), may_reflect=False)
                result = result + fresnel * np.minimum(seen, 60.0)
            else:
                result = result + fresnel * _SKY_FILL
        return result

    def _floor(self, point: FloatArray, direction: FloatArray, may_reflect: bool) -> FloatArray:
        x, z = point[0] / 0.52 + 0.31, point[2] / 0.52
        tile_x, tile_z = np.floor(x), np.floor(z)
        dark = (tile_x + tile_z) % 2.0
        tint = self.noise(tile_x * 7.0 + 0.5, tile_z * 5.0 + 0.5)
        veins = self.noise.fractal(x * 2.3 + tint * 31.0, z * 2.3, 4)
        stone = mix(colour(0.40, 0.33, 0.26), colour(0.085, 0.075, 0.075), dark) * (0.62 + 0.35 * tint + 0.42 * veins)
        edge = np.minimum(0.5 - np.abs(x - tile_x - 0.5), 0.5 - np.abs(z - tile_z - 0.5))
        joint = 1.0 - smoothstep(0.008, 0.026, edge)
        albedo = mix(stone, colour(0.05, 0.045, 0.04), 0.75 * joint)
        bump_x = 0.010 * (self.noise(point[0] * 9.0, point[2] * 9.0) - 0.5) + 0.006 * (tint - 0.5)
        bump_z = 0.010 * (self.noise(point[0] * 9.0 + 50.0, point[2] * 9.0) - 0.5)
        normal = normalize(np.stack([bump_x, np.ones_like(bump_x), bump_z]))
        lights = _lights_at(point)
        result: FloatArray = albedo * _diffuse_light(lights, point, normal)
        if not may_reflect:
            return result
        cosine = np.clip(-dot(direction, normal), 0.0, 1.0)
        fresnel = (0.04 + 0.96 * (1.0 - cosine) ** 5) * (1.0 - 0.8 * joint)
        mirrored = direction + 2.0 * cosine * normal
        mirrored[1] = np.maximum(mirrored[1], 1e-3)
        seen = np.minimum(self.radiance(point + normal * 2e-3, normalize(mirrored), may_reflect=False), 60.0)
        result += fresnel * (0.75 * seen + 0.5 * _gloss(lights, normal, direction, 90.0))
        return result
