"""Generated HDR scenes and files for tests of training and evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenEXR
from numpy.typing import NDArray


def make_panorama(seed: int = 0, width: int = 128) -> NDArray[np.float32]:
    """A small equirectangular scene, float32 (width / 2, width, 3): walls, sky, and a sun 2,000 times as bright."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: width // 2, :width].astype(np.float32)
    latitude, longitude = 0.5 - rows / (width // 2), columns / width
    ground = 0.15 + 0.1 * np.sin(2 * np.pi * (3 * longitude + rng.random()))[..., None] * rng.random(3)
    sky = (0.5 + latitude[..., None]) * np.array([0.5, 0.7, 1.0])
    scene = np.where(latitude[..., None] > 0, sky, ground) * np.exp(rng.normal(0, 0.05, (width // 2, width, 3)))
    sun_at = rng.uniform(0.2, 0.8)
    distance2 = (longitude - sun_at) ** 2 * 4 + (latitude - 0.15) ** 2
    scene += np.array([1.0, 0.8, 0.5]) * (2000 * np.exp(-distance2 / 0.0008))[..., None]
    return scene.astype(np.float32)


def write_exr(path: Path, pixels: NDArray[np.floating]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"RGB": np.ascontiguousarray(pixels, np.float32)}).write(str(path))


def write_scenes(folder: Path, num_scenes: int = 3, width: int = 128) -> list[str]:
    """Write that many panoramas as EXR; returns their names."""
    names = [f"{chr(97 + index)}_place" for index in range(num_scenes)]
    for index, name in enumerate(names):
        write_exr(folder / f"{name}.exr", make_panorama(index, width))
    return names
