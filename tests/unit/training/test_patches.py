from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hdr_scenes import make_panorama
from torch import Tensor

from pipeline.codecs.color import linear_to_srgb, network_to_linear
from pipeline.errors import ConfigError
from pipeline.simulation.camera import CameraRanges, Photograph, photograph_scene
from pipeline.simulation.scenes import HdrScene
from pipeline.training.patches import MAX_TRUTH, PatchDataset

SCENES = [HdrScene(f"place {seed}", make_panorama(seed, 192), is_panorama=True) for seed in range(3)]
NOISELESS = CameraRanges(
    full_well_e=(1e9, 1e9),
    read_noise_e=(0.0, 0.0),
    cast_sigma=0.0,
    jpeg_probability=0.0,
    resample_probability=0.0,
)


def patches(num: int = 50, seed: int = 0, size: int = 32, ranges: CameraRanges | None = None) -> PatchDataset:
    return PatchDataset(SCENES, size, num, seed, ranges)


def is_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_patches_are_tensors_of_the_stated_form() -> None:
    dataset = patches()
    assert len(dataset) == 50
    for index in range(len(dataset)):
        ldr, truth = dataset[index]
        assert ldr.shape == truth.shape == (3, 32, 32)
        assert (ldr.dtype, truth.dtype) == (torch.uint8, torch.float32)
        assert ldr.is_contiguous()
        assert truth.is_contiguous()
        assert bool(truth.isfinite().all())
        assert float(truth.min()) >= 0


def test_a_patch_depends_on_the_seed_and_its_number_alone() -> None:
    dataset = patches()
    forwards = [dataset[index] for index in range(10)]
    np.random.seed(1)  # noqa: NPY002 - the global generators must not matter
    torch.manual_seed(1)
    copy = pickle.loads(pickle.dumps(patches(num=2**62)))  # as a data process gets it
    for index in reversed(range(10)):
        assert is_same(copy[index], forwards[index])
    assert not any(is_same(one, other) for index, one in enumerate(forwards) for other in forwards[:index])
    other_seed = patches(seed=1)
    assert not any(is_same(other_seed[index], patch) for index in range(10) for patch in forwards)


def test_large_seeds_and_numbers_are_distinct() -> None:
    dataset = patches(num=2**62, seed=2**63 - 1)
    numbers = (0, 1, 2**32, 2**32 + 1, 2**62 - 1)
    found = [dataset[number] for number in numbers]
    assert not any(is_same(one, other) for index, one in enumerate(found) for other in found[:index])


@pytest.mark.parametrize("index", [-1, 50])
def test_there_are_no_patches_beyond_the_last(index: int) -> None:
    with pytest.raises(IndexError):
        patches()[index]


def test_picture_and_truth_show_the_same_place_whichever_way_they_are_turned() -> None:
    # Response curves are monotone: sorted by its truth, a channel's codes fall by no more than a rounded one.
    dataset = patches(num=80, ranges=NOISELESS)
    for index in range(len(dataset)):
        for codes, truth in zip(*(tensor.flatten(1).numpy() for tensor in dataset[index]), strict=True):
            in_order = codes[np.argsort(truth, kind="stable")].astype(int)
            assert np.diff(in_order).min() >= -1
            assert codes.max() > codes.min() + 5


def test_truth_is_encoded_by_2_24_with_1_at_the_clipping_level() -> None:
    dataset = patches(num=60, ranges=NOISELESS)
    num_srgb = 0
    for index in range(len(dataset)):
        ldr, truth = (tensor.numpy() for tensor in dataset[index])
        linear = network_to_linear(truth)
        assert (ldr[linear >= 1.0001] == 255).all()
        assert (ldr[linear < 0.98] < 255).all()
        errors = np.abs(linear_to_srgb(np.minimum(linear, 1)) * 255 - ldr)
        num_srgb += int(errors.max() < 0.52)
    # Half of all curves are exactly sRGB; in any other domain none would fit to half a code.
    assert num_srgb == pytest.approx(30, abs=4 * (60 * 0.25) ** 0.5)


def test_one_patch_in_four_is_turned() -> None:
    # Bright above and dark below: the mean light of the edges says which way up a patch is.
    upright = np.broadcast_to(np.linspace(8, 0.1, 96)[:, None, None], (96, 192, 3)).astype(np.float32)
    dataset = PatchDataset([HdrScene("ramp", upright, is_panorama=True)], 16, 240, 0, NOISELESS)
    directions = np.zeros(4, int)
    for index in range(len(dataset)):
        light = dataset[index][1].mean(dim=0)
        edges = [light[0].mean(), light[:, 0].mean(), light[-1].mean(), light[:, -1].mean()]
        directions[int(torch.stack(edges).argmax())] += 1
    assert directions[0] == pytest.approx(180, abs=4 * (240 * 0.25 * 0.75) ** 0.5)
    assert directions[1:] == pytest.approx(np.full(3, 20), abs=4 * (240 / 12) ** 0.5)


def test_scenes_are_drawn_in_equal_shares() -> None:
    # Colours tell the scenes apart; 6 stops of light inside each.
    ramp = np.exp2(np.linspace(-3, 3, 64 * 128)).reshape(64, 128, 1).astype(np.float32)
    scenes = [HdrScene(str(channel), ramp * np.eye(3, dtype=np.float32)[channel], True) for channel in range(3)]
    dataset = PatchDataset(scenes, 16, 300, 0, NOISELESS)
    drawn = np.bincount([int(dataset[index][1].sum(dim=(1, 2)).argmax()) for index in range(300)], minlength=3)
    assert drawn == pytest.approx(np.full(3, 100), abs=4 * (300 * 2 / 9) ** 0.5)


def test_truth_fits_a_half_float() -> None:
    pixels = make_panorama(0, 192)
    pixels[pixels > 100] *= 1e9
    dataset = PatchDataset([HdrScene("blinding", pixels, is_panorama=True)], 32, 40, 0)
    brightest = max(float(dataset[index][1].max()) for index in range(len(dataset)))
    assert brightest == pytest.approx(MAX_TRUTH ** (1 / 2.24), rel=1e-5)


@pytest.mark.parametrize("size", [0, 2, 30, -4])
def test_sizes_that_the_network_cannot_take_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 4"):
        patches(size=size)


def test_no_scenes_are_refused() -> None:
    with pytest.raises(ConfigError, match="no scenes"):
        PatchDataset([], 32, 1, 0)


def crops(num: int, *, size: int = 16, view: int = 48, per_view: int = 4, seed: int = 0) -> PatchDataset:
    return PatchDataset(SCENES, size, num, seed, NOISELESS, view_px=view, crops_per_view=per_view)


def test_crops_of_a_photograph_are_found_in_it_whichever_way_they_are_turned() -> None:
    dataset = crops(64 * 4)
    for index in (0, 5, 64 + 5, 3 * 64 + 5, 4 * 64 - 1):
        rng = np.random.default_rng([0, index % 64])
        scene = SCENES[int(rng.integers(len(SCENES)))]
        whole = photograph_scene(scene, 48, rng, NOISELESS)
        windows = np.lib.stride_tricks.sliding_window_view(whole.ldr, (16, 16), axis=(0, 1))
        patch = dataset[index][0].numpy()
        turned = [np.rot90(patch, turns, axes=(1, 2)) for turns in range(4)]
        assert any((windows == candidate).all(axis=(2, 3, 4)).any() for candidate in turned), index


def test_crops_depend_on_the_seed_and_their_number_alone() -> None:
    dataset = crops(2**40)
    numbers = [0, 64, 255, 256, 300, 2**33]
    forwards = [dataset[number] for number in numbers]
    copy = pickle.loads(pickle.dumps(crops(2**40)))
    for number, patch in reversed(list(zip(numbers, forwards, strict=True))):
        assert is_same(copy[number], patch)
        assert not is_same(crops(2**40, seed=1)[number], patch)


def test_neighbouring_patches_come_from_different_photographs_and_each_is_taken_once() -> None:
    taken: list[int] = []

    class Counting(PatchDataset):
        def _photograph(self, number: int) -> Photograph:
            if number not in self._kept:
                taken.append(number)
            return super()._photograph(number)

    dataset = Counting(SCENES, 16, 2**20, 0, NOISELESS, view_px=48, crops_per_view=4)
    for index in range(64 * 4 + 3):
        dataset[index]
    assert taken == list(range(64 + 3))
    assert len(dataset._kept) <= 64


def test_highlights_are_drawn_more_often_than_chance_would(monkeypatch: pytest.MonkeyPatch) -> None:
    def clipped() -> float:
        dataset = crops(64 * 4)
        shares = [(dataset[index][0].amax(dim=0) >= 250).float().mean() for index in range(len(dataset))]
        return float(np.mean(shares))

    found = clipped()
    monkeypatch.setattr("pipeline.training.patches.HIGHLIGHT_PROBABILITY", 0.0)
    assert found > 1.3 * clipped()


def test_views_that_hold_no_patch_are_refused() -> None:
    with pytest.raises(ConfigError, match="32 px hold no patches of 48"):
        PatchDataset(SCENES, 48, 1, 0, view_px=32)
    with pytest.raises(ConfigError, match="0 crops"):
        PatchDataset(SCENES, 48, 1, 0, crops_per_view=0)
