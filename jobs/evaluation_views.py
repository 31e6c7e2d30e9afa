"""Where evaluation takes its views from: a simulated camera in HDR scenes, or files of LDR and HDR pairs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.codecs.ldr import decode_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import ConfigError, ImageError, SceneError
from pipeline.extensions import IMAGE_EXTENSIONS
from pipeline.simulation.camera import CameraRanges, photograph_scene
from pipeline.simulation.scenes import HDR_EXTENSIONS, find_scenes, load_scene, name_files, read_linear
from pipeline.simulation.split import split_names

Subset = Literal["holdout", "train", "all"]
_NUM_NAMED = 3
_MIN_VIEW_PX = 32


@dataclass(frozen=True, slots=True)
class View:
    """One picture with its truth; `name` is unique, views of one `scene` are averaged.

    `ldr` is (H, W, 3) uint8 or uint16; `truth` is (H, W, 3) float32, linear Rec.709, 1.0 = the clipping level of `ldr`.
    """

    scene: str
    name: str
    ldr: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    truth: npt.NDArray[np.float32]


class ViewSource(Protocol):
    """A fixed series of views: iterating twice gives the same ones."""

    @property
    def num_views(self) -> int:
        """How many views there are."""
        ...

    @property
    def scenes(self) -> tuple[str, ...]:
        """The names of the scenes that they are of."""
        ...

    def describe(self) -> dict[str, object]:
        """What defines the views, for records."""
        ...

    def __iter__(self) -> Iterator[View]: ...


class SimulatedViews:
    """Views of HDR files through the simulated camera of `pipeline.simulation`.

    View k of a scene depends on the seed, the scene's name and k alone: more scenes or views change none. Raises
    SceneError for a folder without HDR files and for a split that leaves no scene, ConfigError for bad numbers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        views_per_scene: int = 4,
        view_px: int = 256,
        seed: int = 0,
        subset: Subset = "all",
        holdout: tuple[str, ...] | None = None,
    ) -> None:
        if views_per_scene < 1:
            raise ConfigError(f"--views-per-scene must be at least 1, not {views_per_scene}")
        if view_px < _MIN_VIEW_PX or view_px % 4:
            raise ConfigError(f"--view-px must be a multiple of 4, at least {_MIN_VIEW_PX}, not {view_px}")
        if seed < 0:
            raise ConfigError(f"--seed must not be negative, not {seed}")
        self._folder, self._views_per_scene, self._view_px, self._seed = folder, views_per_scene, view_px, seed
        self._subset, self._ranges = subset, CameraRanges()
        self._paths = find_scenes(folder)
        if subset != "all":
            chosen = split_names(self._paths, holdout)[subset]
            self._paths = {name: self._paths[name] for name in chosen}

    @property
    def num_views(self) -> int:
        """Scenes times views per scene."""
        return len(self._paths) * self._views_per_scene

    @property
    def scenes(self) -> tuple[str, ...]:
        """The chosen files, by name."""
        return tuple(self._paths)

    def describe(self) -> dict[str, object]:
        """The folder's name, what was drawn from it, and the scenes."""
        return {
            "source": self._folder.name,
            "split": self._subset,
            "views_per_scene": self._views_per_scene,
            "view_px": self._view_px,
            "seed": self._seed,
            "scenes": list(self.scenes),
        }

    def __iter__(self) -> Iterator[View]:
        """Raises SceneError at a file that holds no HDR scene."""
        for name, path in self._paths.items():
            scene = load_scene(path, name)
            for number in range(self._views_per_scene):
                rng = np.random.default_rng([self._seed, zlib.crc32(name.encode()), number])
                shot = photograph_scene(scene, self._view_px, rng, self._ranges)
                yield View(name, f"{name}#{number}", shot.ldr, shot.truth)


class PairedFiles:
    """LDR files and HDR truths of the same path and stem under one folder, such as a/b.jpg and a/b.exr.

    Every pair is a scene of its own. The truth must be linear Rec.709 with 1.0 at the LDR's clipping level; where only
    the scale differs, the exposure-aligned metrics still hold. Raises SceneError for a folder without pairs, an LDR
    file without truth, or two LDR or two HDR files of one name; a truth without LDR file is left out.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SceneError(f"{folder}: no such folder; give one with LDR files and HDR files of the same name")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        self._folder = folder
        self._truths = name_files(folder, (path for path in files if path.suffix.lower() in HDR_EXTENSIONS))
        self._pictures = name_files(folder, (path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS))
        alone = [path.name for name, path in self._pictures.items() if name not in self._truths]
        if alone:
            raise SceneError(f"{folder}: no HDR file of the same name for {', '.join(alone[:_NUM_NAMED])}")
        if not self._pictures:
            raise SceneError(f"{folder}: no pairs; put a.jpg beside a.exr, for example")

    @property
    def num_views(self) -> int:
        """How many pairs there are."""
        return len(self._pictures)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The truths that no LDR file goes with, by name."""
        return tuple(name for name in self._truths if name not in self._pictures)

    @property
    def scenes(self) -> tuple[str, ...]:
        """The pairs, by name."""
        return tuple(self._pictures)

    def describe(self) -> dict[str, object]:
        """The folder's name and the pairs'."""
        return {"source": self._folder.name, "scenes": list(self.scenes)}

    def __iter__(self) -> Iterator[View]:
        """Raises SceneError at a file that cannot be read, and where the two differ in size."""
        for name, path in self._pictures.items():
            truth_path = self._truths[name]
            try:
                ldr = decode_ldr(path.read_bytes(), DecodeConfig()).pixels
            except (OSError, ImageError) as error:
                raise SceneError(f"{path}: cannot be read: {error}") from error
            truth = _read_truth(truth_path)
            if truth.shape != ldr.shape:
                sizes = [f"{image.shape[1]}x{image.shape[0]} px" for image in (truth, ldr)]
                raise SceneError(f"{truth_path}: {sizes[0]}, but {path.name} has {sizes[1]}; give images of one size")
            yield View(name, name, ldr, truth)


def _read_truth(path: Path) -> npt.NDArray[np.float32]:
    truth = read_linear(path)
    if truth.ndim != 3 or truth.shape[2] != 3 or not np.isfinite(truth).all():
        raise SceneError(f"{path}: holds NaN or infinite samples, or no RGB pixels")
    return truth
