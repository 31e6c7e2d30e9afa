"""Plans cover every pixel once, regions are what the network needs, and padding is numpy's."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.tiling import (
    HALO_PX,
    MIN_TILE_PX,
    Span,
    align_up,
    gather_region,
    halved_tile_px,
    largest_tile_px,
    padded_indices,
    plan_tiles,
    subdivide,
)

# Time limits would fail on a busy machine.
quick = settings(deadline=None, max_examples=40)

SIZES = st.integers(1, 700)
TILES = st.integers(4, 80).map(lambda n: 4 * n)


@quick
@given(SIZES, SIZES, TILES)
def test_cores_partition_the_padded_image(height: int, width: int, tile_px: int) -> None:
    count = np.zeros((align_up(height), align_up(width)), int)
    for tile in plan_tiles(height, width, tile_px):
        assert 0 < tile.core_y.size <= tile_px
        assert 0 < tile.core_x.size <= tile_px
        count[tile.core_y.start : tile.core_y.stop, tile.core_x.start : tile.core_x.stop] += 1
    assert (count == 1).all()


@quick
@given(SIZES, SIZES, TILES, st.integers(0, 40).map(lambda n: 4 * n))
def test_regions_are_aligned_and_reach_the_halo_or_the_border(height: int, width: int, tile_px: int, halo: int) -> None:
    for tile in plan_tiles(height, width, tile_px, halo):
        for core, region, size in (
            (tile.core_y, tile.region_y, height),
            (tile.core_x, tile.region_x, width),
        ):
            assert region.start == max(core.start - halo, 0)
            assert region.stop == min(core.stop + halo, align_up(size))
            assert region.start % 4 == region.stop % 4 == 0
        assert tile.num_region_pixels == tile.region_shape[0] * tile.region_shape[1]


@quick
@given(SIZES, SIZES, TILES, TILES)
def test_subdividing_keeps_the_partition(height: int, width: int, tile_px: int, smaller_px: int) -> None:
    tiles = plan_tiles(height, width, tile_px)
    half = tiles[len(tiles) // 2 :]
    count = np.zeros((align_up(height), align_up(width)), int)
    for tile in half:
        count[tile.core_y.start : tile.core_y.stop, tile.core_x.start : tile.core_x.stop] += 1
    for tile in subdivide(half, height, width, smaller_px):
        assert max(tile.core_y.size, tile.core_x.size) <= smaller_px
        count[tile.core_y.start : tile.core_y.stop, tile.core_x.start : tile.core_x.stop] -= 1
    assert not count.any()


def test_cores_are_balanced() -> None:
    assert [tile.core_x.size for tile in plan_tiles(64, 2100, 1024)] == [700, 700, 700]
    assert [tile.core_x.size for tile in plan_tiles(64, 2056, 1024)] == [684, 684, 688]


def test_a_very_large_image_needs_no_pixels_to_plan() -> None:
    tiles = plan_tiles(10_001, 20_003, 1024)
    assert len(tiles) == 10 * 20
    assert max(tile.num_region_pixels for tile in tiles) <= (1024 + 2 * HALO_PX) ** 2


@pytest.mark.parametrize(("size", "tile_px", "halo"), [((0, 4), 64, 96), ((4, 0), 64, 96), ((4, 4), 62, 96)])
def test_nonsense_is_refused(size: tuple[int, int], tile_px: int, halo: int) -> None:
    with pytest.raises(ValueError, match=r"px|pixels"):
        plan_tiles(*size, tile_px, halo)
    with pytest.raises(ValueError, match="multiples of 4"):
        plan_tiles(4, 4, 64, 95)


@quick
@given(st.integers(1, 60))
def test_padding_is_numpys_reflection(size: int) -> None:
    row = np.arange(size)
    padding = align_up(size) - size
    expected = np.pad(row, (0, padding), mode="reflect" if size > padding else "edge")
    np.testing.assert_array_equal(row[padded_indices(Span(0, align_up(size)), size)], expected)


@quick
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([4, 8, 20, 64]), st.sampled_from([0, 4, 96]))
def test_gathered_regions_equal_a_padded_copy(height: int, width: int, tile_px: int, halo: int) -> None:
    pixels = np.random.default_rng(height * 100 + width).integers(0, 65536, (height, width, 3)).astype(np.uint16)
    padded = pixels
    for axis, size in enumerate((height, width)):
        amount = align_up(size) - size
        margins = [(0, 0)] * 3
        margins[axis] = (0, amount)
        padded = np.pad(padded, margins, mode="reflect" if size > amount else "edge")
    for tile in plan_tiles(height, width, tile_px, halo):
        out = np.empty((*tile.region_shape, 3), np.uint16)
        gather_region(pixels, tile, out)
        expected = padded[tile.region_y.start : tile.region_y.stop, tile.region_x.start : tile.region_x.stop]
        np.testing.assert_array_equal(out, expected)


def largest_region(height: int, width: int, tile_px: int) -> int:
    return max(tile.num_region_pixels for tile in plan_tiles(height, width, tile_px))


@quick
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(256**2, 10**7))
def test_the_largest_tile_fits_the_budget(height: int, width: int, max_pixels: int) -> None:
    tile_px = largest_tile_px(height, width, max_pixels)
    assert tile_px is not None
    assert tile_px % 4 == 0
    assert tile_px >= MIN_TILE_PX
    assert largest_region(height, width, tile_px) <= max_pixels


def test_an_image_that_fits_is_one_tile() -> None:
    for height, width in ((1, 1), (300, 200), (1060, 1900), (32, 20_000)):
        tile_px = largest_tile_px(height, width, align_up(height) * align_up(width))
        assert tile_px is not None
        assert len(plan_tiles(height, width, tile_px)) == 1


def test_a_budget_below_the_smallest_tile_has_no_answer() -> None:
    assert largest_tile_px(5000, 5000, 256**2) == MIN_TILE_PX
    assert largest_tile_px(5000, 5000, 256**2 - 1) is None


def test_halving_ends_at_the_smallest_tile() -> None:
    tile_px, steps = 4096, []
    while tile_px:
        steps.append(tile_px)
        tile_px = halved_tile_px(tile_px, plan_tiles(9000, 9000, tile_px)[0])
    assert steps[-1] == MIN_TILE_PX
    assert len(steps) <= 8
    assert all(later <= max(earlier // 2, MIN_TILE_PX) < earlier for earlier, later in pairwise(steps))


def test_halving_counts_from_the_core_that_failed() -> None:
    assert halved_tile_px(8192, plan_tiles(300, 400, 8192)[0]) == 200
    assert halved_tile_px(8192, plan_tiles(64, 60, 8192)[0]) is None


def test_tiling_does_not_import_torch() -> None:
    modules = ", ".join(f"pipeline.inference.{name}" for name in ("tiling", "base", "memory"))
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
