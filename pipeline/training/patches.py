"""Training patches: simulated photographs with their truth, as tensors. Patch k depends on the seed and k alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.codecs.color import linear_to_network
from pipeline.errors import ConfigError
from pipeline.simulation.camera import CameraRanges, photograph_scene
from pipeline.simulation.scenes import HdrScene

MAX_TRUTH = 65504.0
"""The largest truth, linear: what a half-float EXR can hold."""
_SIZE_STEP_PX = 4


class PatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """`num_patches` patches of `patch_px` squared, drawn from `scenes` in equal shares.

    Patch k is (ldr, truth): uint8 (3, H, W), and float32 (3, H, W) in the network's gamma domain with 1.0 at the
    picture's clipping level. It is turned by a random multiple of 90 degrees one time in four: pictures are mostly
    upright, but not always. Raises ConfigError for a patch size that is no multiple of 4, or without scenes.
    """

    def __init__(
        self, scenes: Sequence[HdrScene], patch_px: int, num_patches: int, seed: int, ranges: CameraRanges | None = None
    ) -> None:
        if not scenes:
            raise ConfigError("no scenes to draw patches from")
        if patch_px < _SIZE_STEP_PX or patch_px % _SIZE_STEP_PX:
            raise ConfigError(f"patch size {patch_px} px; give a multiple of {_SIZE_STEP_PX}")
        self._scenes = scenes
        self._patch_px = patch_px
        self._num_patches = num_patches
        self._seed = seed
        self._ranges = ranges or CameraRanges()

    def __len__(self) -> int:
        return self._num_patches

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self._num_patches:
            raise IndexError(index)
        rng = np.random.default_rng([self._seed, index])
        scene = self._scenes[int(rng.integers(len(self._scenes)))]
        shot = photograph_scene(scene, self._patch_px, rng, self._ranges)
        quarter_turns = int(rng.integers(1, 4)) if rng.random() < 0.25 else 0
        ldr, truth = (np.rot90(image, quarter_turns).transpose(2, 0, 1) for image in (shot.ldr, shot.truth))
        encoded = linear_to_network(np.minimum(truth, np.float32(MAX_TRUTH)))
        return torch.from_numpy(np.ascontiguousarray(ldr)), torch.from_numpy(np.ascontiguousarray(encoded))
