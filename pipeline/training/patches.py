"""Training patches: crops of simulated photographs with their truth, as tensors.

Patch k depends on the seed and k alone. A photograph is exposed as a whole and then cropped, so that a crop may be
clipped from edge to edge, or not at all, as parts of real photographs are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.codecs.color import linear_to_network
from pipeline.errors import ConfigError
from pipeline.simulation.camera import CameraRanges, Photograph, photograph_scene
from pipeline.simulation.scenes import HdrScene

MAX_TRUTH = 65504.0
"""The largest truth, linear: what a half-float EXR can hold."""
_SIZE_STEP_PX = 4
_GROUP_VIEWS = 64  # crops of this many photographs are interleaved, so that a batch shows different ones
HIGHLIGHT_PROBABILITY = 0.5
"""How often a crop is the one of NUM_CANDIDATES with the most pixels from CLIPPED_CODE on."""
NUM_CANDIDATES = 4
CLIPPED_CODE = 250
TURN_PROBABILITY = 0.25


class PatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """`num_patches` patches of `patch_px` squared out of photographs of `view_px` squared, of `scenes` in equal shares.

    Patch k is (ldr, truth): uint8 (3, H, W), and float32 (3, H, W) in the network's gamma domain with 1.0 at the
    picture's clipping level. `crops_per_view` patches come from one photograph, interleaved with those of 63 others;
    they are kept in memory until then, 15 bytes a pixel. `view_px` 0 photographs patches as they are, one each. One
    crop in two is drawn at random; the other is the one of four drawn with the most clipped pixels, because highlights
    are small. A patch is turned by a random multiple of 90 degrees one time in four: pictures are mostly upright, but
    not always.
    Raises ConfigError for a patch size that is no multiple of 4, a view smaller than the patch, or without scenes.
    """

    def __init__(
        self,
        scenes: Sequence[HdrScene],
        patch_px: int,
        num_patches: int,
        seed: int,
        ranges: CameraRanges | None = None,
        *,
        view_px: int = 0,
        crops_per_view: int = 1,
    ) -> None:
        if not scenes:
            raise ConfigError("no scenes to draw patches from")
        if patch_px < _SIZE_STEP_PX or patch_px % _SIZE_STEP_PX:
            raise ConfigError(f"patch size {patch_px} px; give a multiple of {_SIZE_STEP_PX}")
        if view_px and view_px < patch_px:
            raise ConfigError(f"views of {view_px} px hold no patches of {patch_px} px; give larger views, or 0")
        if crops_per_view < 1:
            raise ConfigError(f"{crops_per_view} crops per view; give 1 or more")
        if crops_per_view > 1 and view_px in {0, patch_px}:
            raise ConfigError(
                f"{crops_per_view} crops of a view that is one patch are the same; give 1, or larger views"
            )
        self._scenes = scenes
        self._patch_px = patch_px
        self._view_px = view_px or patch_px
        self._crops_per_view = crops_per_view
        self._num_patches = num_patches
        self._seed = seed
        self._ranges = ranges or CameraRanges()
        self._kept: OrderedDict[int, Photograph] = OrderedDict()

    def __len__(self) -> int:
        return self._num_patches

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self._num_patches:
            raise IndexError(index)
        group, within = divmod(index, _GROUP_VIEWS * self._crops_per_view)
        crop_number, number = divmod(within, _GROUP_VIEWS)
        shot = self._photograph(group * _GROUP_VIEWS + number)
        rng = np.random.default_rng([self._seed, index, 1 + crop_number])
        top, left = self._choose_crop(shot, rng)
        rows, columns = slice(top, top + self._patch_px), slice(left, left + self._patch_px)
        quarter_turns = int(rng.integers(1, 4)) if rng.random() < TURN_PROBABILITY else 0
        crops = (image[rows, columns] for image in (shot.ldr, shot.truth))
        ldr, truth = (np.rot90(crop, quarter_turns).transpose(2, 0, 1) for crop in crops)
        encoded = linear_to_network(np.minimum(truth, np.float32(MAX_TRUTH)))
        return torch.from_numpy(np.ascontiguousarray(ldr)), torch.from_numpy(np.ascontiguousarray(encoded))

    def _photograph(self, number: int) -> Photograph:
        """Take photograph `number`, or find it among those of the group in work."""
        if number not in self._kept:
            rng = np.random.default_rng([self._seed, number])
            scene = self._scenes[int(rng.integers(len(self._scenes)))]
            self._kept[number] = photograph_scene(scene, self._view_px, rng, self._ranges)
            while len(self._kept) > (_GROUP_VIEWS if self._crops_per_view > 1 else 1):
                self._kept.popitem(last=False)
        return self._kept[number]

    def _choose_crop(self, shot: Photograph, rng: np.random.Generator) -> tuple[int, int]:
        """Return the top left corner of a crop."""
        corners = rng.integers(0, self._view_px - self._patch_px + 1, size=(NUM_CANDIDATES, 2))
        if self._view_px == self._patch_px or rng.random() >= HIGHLIGHT_PROBABILITY:
            return int(corners[0, 0]), int(corners[0, 1])
        clipped = shot.ldr.max(axis=2) >= CLIPPED_CODE
        size = self._patch_px
        counts = [np.count_nonzero(clipped[top : top + size, left : left + size]) for top, left in corners]
        top, left = corners[int(np.argmax(counts))]
        return int(top), int(left)
