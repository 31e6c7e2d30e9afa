"""The house of the demo scene: a plastered front with a colour chart, a lit window and a door to an unlit room.

Points, directions and colours are float32 arrays of shape (3, N); lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.demo_sky import FloatArray, ValueNoise, colour

# The front faces the camera at depth WALL_Z, right of WALL_X; boxes on it are (left, right, bottom, top).
WALL_X, WALL_Z, WALL_TOP_Y = 0.95, 3.0, 3.15
_DOOR = (2.15, 2.95, 0.0, 2.05)
_WINDOW = (3.25, 3.95, 1.05, 2.0)
_CHART = (1.17, 1.89, 0.86, 1.34)
_BRACKET = (1.592, 1.620, 2.17, 2.36)
_ROOM_DEPTH_M = 3.2

# sRGB codes of a small colour chart, row by row: hues, then skin and foliage, then a gray scale.
_CHART_SRGB = (
    (175, 54, 60), (214, 126, 44), (231, 199, 31), (70, 148, 73), (8, 133, 161), (80, 91, 166),
    (115, 82, 68), (194, 150, 130), (98, 122, 157), (87, 108, 67), (133, 128, 177), (187, 86, 149),
    (243, 243, 242), (200, 200, 200), (160, 160, 160), (122, 122, 121), (85, 85, 85), (52, 52, 52),
)  # fmt: skip
_CHART_COLUMNS, _CHART_ROWS = 6, 3


@dataclass(frozen=True, slots=True)
class House:
    """The materials of the house; `noise` is its plaster's."""

    noise: ValueNoise

    def side(self, point: FloatArray, light: FloatArray) -> FloatArray:
        """Return the radiance of the side wall at points under `light`."""
        return self._plaster(point[2], point[1]) * light

    def _plaster(self, u: FloatArray, v: FloatArray) -> FloatArray:
        return colour(0.60, 0.53, 0.44) * (0.97 + 0.06 * self.noise.fractal(u * 2.0, v * 2.0, 3))

    def front(self, point: FloatArray, direction: FloatArray, light: FloatArray) -> FloatArray:
        """Return the radiance of the front at points that rays along `direction` hit under `light`."""
        x, y = point[0], point[1]
        albedo = self._plaster(x, y)
        trim = 0.07
        for left, right, bottom, top in (_DOOR, _WINDOW):
            framed = _within(x, y, (left - trim, right + trim, bottom - trim, top + trim))
            albedo[:, framed] = colour(0.22, 0.13, 0.08)
        albedo[:, y < 0.16] = colour(0.16, 0.14, 0.13)
        albedo[:, y > WALL_TOP_Y - 0.10] = colour(0.12, 0.10, 0.09)
        albedo[:, _within(x, y, _BRACKET)] = 0.02
        self._paint_chart(albedo, x, y)
        result = albedo * light
        inside = np.flatnonzero(_within(x, y, _DOOR))
        if inside.size:
            result[:, inside] = self._room(point[:, inside], direction[:, inside])
        lit = np.flatnonzero(_within(x, y, _WINDOW))
        if lit.size:
            result[:, lit] = self._window(x[lit], y[lit])
        return result

    def _paint_chart(self, albedo: FloatArray, x: FloatArray, y: FloatArray) -> None:
        left, right, bottom, top = _CHART
        albedo[:, _within(x, y, (left - 0.03, right + 0.03, bottom - 0.03, top + 0.03))] = 0.02
        rays = np.flatnonzero(_within(x, y, _CHART))
        u = (x[rays] - left) / (right - left) * _CHART_COLUMNS
        v = (top - y[rays]) / (top - bottom) * _CHART_ROWS
        column = np.clip(u.astype(np.int32), 0, _CHART_COLUMNS - 1)
        row = np.clip(v.astype(np.int32), 0, _CHART_ROWS - 1)
        in_patch = (np.abs(u - column - 0.5) < 0.43) & (np.abs(v - row - 0.5) < 0.43)
        patches = (np.array(_CHART_SRGB, dtype=np.float32) / 255.0) ** 2.2
        albedo[:, rays[in_patch]] = patches[(row * _CHART_COLUMNS + column)[in_patch]].T

    def _window(self, x: FloatArray, y: FloatArray) -> FloatArray:
        left, right, bottom, top = _WINDOW
        u, v = (x - left) / (right - left), (y - bottom) / (top - bottom)
        folds = 0.75 + 0.25 * np.sin(u * 46.0 + 1.5 * np.sin(v * 3.0))
        curtain = (u < 0.30) | (u > 0.70)
        room = 0.9 + 3.4 * np.exp(-(((u - 0.52) / 0.30) ** 2) - ((v - 0.78) / 0.38) ** 2)
        warm = colour(2.3, 1.45, 0.66) * np.where(curtain, 0.55 * folds * (0.6 + 0.6 * v), room)
        bar = (np.abs(u - 0.5) < 0.025) | (np.abs(v - 0.5) < 0.02)
        return np.where(bar, colour(0.05, 0.03, 0.02), warm).astype(np.float32)

    def _room(self, point: FloatArray, direction: FloatArray) -> FloatArray:
        """The unlit room behind the door, by interior mapping: follow the ray to its back, side, floor or ceiling."""
        left, right, _, top = _DOOR
        with np.errstate(divide="ignore"):
            to_back = _ROOM_DEPTH_M / direction[2]
            wall_x = np.where(direction[0] > 0.0, right + 0.8, left - 0.8)
            to_side = (wall_x - point[0]) / direction[0]
            to_level = (np.where(direction[1] > 0.0, top + 0.3, 0.0) - point[1]) / direction[1]
        reach = np.minimum(np.minimum(to_back, np.abs(to_side)), np.abs(to_level))
        x, y, z = point + direction * reach
        depth_m = z - WALL_Z
        paper = 0.5 + 0.5 * (np.sin(x * 24.0) > 0.0)
        planks = 0.35 + 0.65 * (np.sin(x * 20.0) > -0.9)
        tone = np.where(to_back <= reach, paper, np.where(y < 0.01, planks, 0.45))
        picture = (np.abs(x - 2.95) < 0.28) & (np.abs(y - 1.35) < 0.2) & (to_back <= reach)
        tone = np.where(picture, 2.6 * self.noise.fractal(x * 9.0, y * 9.0, 3), tone)
        light = 0.0035 + 0.05 * np.exp(-depth_m / 0.5) * (0.2 + 0.8 * (y < 0.01))
        result: FloatArray = colour(0.95, 0.72, 0.55) * (tone * light).astype(np.float32)
        return result


def _within(x: FloatArray, y: FloatArray, box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    left, right, bottom, top = box
    return (x > left) & (x < right) & (y > bottom) & (y < top)
