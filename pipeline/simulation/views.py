"""Views of a scene: perspective pictures out of a panorama, crops out of a photograph.

Sampling is bilinear, averaged in linear light over as many points per output pixel as the source has pixels at the
centre of the view, up to 8 x 8: kernels with negative lobes would ring around suns that are 10,000 times brighter than
their surroundings.
"""

from __future__ import annotations

from math import ceil, radians

import numpy as np
import numpy.typing as npt

from pipeline.simulation.scenes import FloatArray, HdrScene

MAX_PITCH_DEG = 30.0
"""Half the range of pitch: beyond it panoramas show patched nadirs and empty zeniths more often than not."""
MIN_FOV_DEG, MAX_FOV_DEG = 30.0, 90.0
"""The horizontal field of view: from a short telephoto lens (67 mm) to a wide one (18 mm) on a 36 mm sensor."""
MAX_ENLARGEMENT = 2.0
"""A view is enlarged at most this much, so that it still holds detail to learn from."""
_MAX_SUPERSAMPLING = 8


def sample_view(
    scene: HdrScene, size_px: int, rng: np.random.Generator, max_enlargement: float = MAX_ENLARGEMENT
) -> FloatArray:
    """Draw one square view, float32 (size_px, size_px, 3), in the scene's units; half of all views are mirrored.

    `max_enlargement` is how many pixels of the view may be drawn from one of the source, along a line. It decides how
    narrow the view of a panorama may be: 256 px of one of 1,024 columns are at least 45 degrees wide at 2, 90 at 1.
    """
    if scene.is_panorama:
        view = _random_perspective(scene.pixels, size_px, rng, max_enlargement)
    else:
        view = _random_crop(scene.pixels, size_px, rng, max_enlargement)
    return np.ascontiguousarray(view[:, ::-1] if rng.random() < 0.5 else view)


def perspective(panorama: FloatArray, size_px: int, *, yaw_deg: float, pitch_deg: float, fov_deg: float) -> FloatArray:
    """Project an equirectangular panorama, (H, W, 3), onto a square picture plane, float32 (size_px, size_px, 3).

    Rectilinear: the ray of a pixel at (x, y) on the plane at distance 1 has the direction (x, -y, 1), turned up by
    `pitch_deg` and then to the right by `yaw_deg`. `fov_deg` is the angle across the picture's width.
    """
    height, width = panorama.shape[:2]
    half = np.tan(radians(fov_deg) / 2)
    source_px = 2 * half / radians(360) * width / size_px  # source pixels per output pixel, at the centre
    fine = min(_MAX_SUPERSAMPLING, max(1, ceil(source_px)))
    side = size_px * fine
    plane = (((np.arange(side) + 0.5) / side * 2 - 1) * half).astype(np.float32)
    x, y = np.meshgrid(plane, -plane)
    pitch, yaw = radians(pitch_deg), radians(yaw_deg)
    up = y * np.cos(pitch) + np.sin(pitch)
    forward = np.cos(pitch) - y * np.sin(pitch)
    longitude = np.arctan2(x, forward) + yaw
    latitude = np.arctan2(up, np.hypot(x, forward))
    columns = (longitude / (2 * np.pi) + 0.5) * width - 0.5
    rows = (0.5 - latitude / np.pi) * height - 0.5
    return box_downscale(_bilinear(panorama, rows, columns, wrap=True), fine)


def box_downscale(image: npt.NDArray[np.floating], factor: int) -> FloatArray:
    """Average blocks of `factor` x `factor` pixels: (H, W, C) to float32 (H // factor, W // factor, C)."""
    if factor == 1:
        return image.astype(np.float32, copy=False)
    height, width = (extent // factor for extent in image.shape[:2])
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, image.shape[2])
    averaged: FloatArray = blocks.mean(axis=(1, 3), dtype=np.float32)
    return averaged


def _random_perspective(
    panorama: FloatArray, size_px: int, rng: np.random.Generator, max_enlargement: float
) -> FloatArray:
    # The widest view that is not enlarged too much decides how narrow a view may be.
    source_px_per_deg = panorama.shape[1] / 360
    narrowest = min(MAX_FOV_DEG, max(MIN_FOV_DEG, size_px / (source_px_per_deg * max_enlargement)))
    return perspective(
        panorama,
        size_px,
        yaw_deg=rng.uniform(-180, 180),
        pitch_deg=float(np.clip(rng.normal(0, MAX_PITCH_DEG / 2), -MAX_PITCH_DEG, MAX_PITCH_DEG)),
        fov_deg=rng.uniform(narrowest, MAX_FOV_DEG),
    )


def _random_crop(photo: FloatArray, size_px: int, rng: np.random.Generator, max_enlargement: float) -> FloatArray:
    height, width = photo.shape[:2]
    largest = min(height, width)
    smallest = min(largest, ceil(size_px / max_enlargement))
    side = min(largest, float(np.exp(rng.uniform(np.log(smallest), np.log(largest)))))  # exp(log(n)) may exceed n
    top, left = rng.uniform(0, height - side), rng.uniform(0, width - side)
    fine = min(_MAX_SUPERSAMPLING, max(1, ceil(side / size_px)))
    steps = (np.arange(size_px * fine, dtype=np.float32) + 0.5) / (size_px * fine) * side - 0.5
    rows, columns = np.meshgrid(top + steps, left + steps, indexing="ij")
    return box_downscale(_bilinear(photo, rows, columns, wrap=False), fine)


def _bilinear(image: FloatArray, rows: FloatArray, columns: FloatArray, *, wrap: bool) -> FloatArray:
    """Sample (H, W, 3) at float coordinates of pixel centres; columns wrap around or stop at the edge, rows stop."""
    height, width = image.shape[:2]
    rows = np.clip(rows, 0, height - 1).astype(np.float32)
    if not wrap:
        columns = np.clip(columns, 0, width - 1)
    low_row, low_column = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    down, right = (rows - low_row)[..., None], (columns - low_column).astype(np.float32)[..., None]
    high_row = np.minimum(low_row + 1, height - 1)
    high_column = low_column + 1
    if wrap:
        low_column, high_column = low_column % width, high_column % width
    else:
        high_column = np.minimum(high_column, width - 1)
    upper = image[low_row, low_column] * (1 - right) + image[low_row, high_column] * right
    lower = image[high_row, low_column] * (1 - right) + image[high_row, high_column] * right
    sampled: FloatArray = upper * (1 - down) + lower * down
    return sampled.astype(np.float32, copy=False)
