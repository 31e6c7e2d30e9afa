"""Cutting an image of any size into tiles that together equal the whole. Pure: no torch, no I/O.

The image is conceptually padded at the right and bottom to multiples of 4. Cores on that 4-px grid partition it; each
core is computed with a halo of context that the image border clips, so that the network sees, for every core pixel,
what it would see in the whole image (including the zero padding of its convolutions at the true border). No padded
copy of the image is ever made: a tile's pixels are gathered through `padded_indices`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.models.descriptor import HDRUNET

ALIGN_PX = HDRUNET.size_multiple_px
HALO_PX = HDRUNET.halo_px
MIN_TILE_PX = 64


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of pixels along one axis."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile in padded image coordinates: the core that is kept and the region (core + halo) that is computed."""

    core_y: Span
    core_x: Span
    region_y: Span
    region_x: Span

    @property
    def region_shape(self) -> tuple[int, int]:
        """Height and width of what the network computes; both multiples of 4."""
        return self.region_y.size, self.region_x.size

    @property
    def num_region_pixels(self) -> int:
        """Pixels the network computes for this tile."""
        return self.region_y.size * self.region_x.size


def align_up(size: int) -> int:
    """Return the next multiple of 4."""
    return -(-size // ALIGN_PX) * ALIGN_PX


def plan_tiles(height: int, width: int, tile_px: int, halo_px: int = HALO_PX) -> tuple[Tile, ...]:
    """Partition a height x width image into cores of at most tile_px a side, in row-major order.

    Cores are balanced (2100 px at 1024 become three of 700, not 1024, 1024 and 52), 4-aligned and cover the padded
    image exactly. Raises ValueError for an empty image, a tile or halo that is not a multiple of 4, or a tile < 4.
    """
    if height < 1 or width < 1:
        msg = f"an image of {height} x {width} has no pixels"
        raise ValueError(msg)
    if tile_px < ALIGN_PX or tile_px % ALIGN_PX or halo_px < 0 or halo_px % ALIGN_PX:
        msg = f"tile_px and halo_px must be multiples of {ALIGN_PX}, not {tile_px} and {halo_px}"
        raise ValueError(msg)
    rows, columns = _split(Span(0, align_up(height)), tile_px), _split(Span(0, align_up(width)), tile_px)
    return tuple(_tile(y, x, height, width, halo_px) for y in rows for x in columns)


def subdivide(tiles: Iterable[Tile], height: int, width: int, tile_px: int, halo_px: int = HALO_PX) -> tuple[Tile, ...]:
    """Cut the cores of `tiles`, which belong to a height x width image, into cores of at most tile_px a side."""
    return tuple(
        _tile(y, x, height, width, halo_px)
        for tile in tiles
        for y in _split(tile.core_y, tile_px)
        for x in _split(tile.core_x, tile_px)
    )


def _split(span: Span, tile_px: int) -> list[Span]:
    num_tiles = -(-span.size // tile_px)
    units = span.size // ALIGN_PX
    edges = [span.start + ALIGN_PX * (i * units // num_tiles) for i in range(num_tiles + 1)]
    return [Span(start, stop) for start, stop in pairwise(edges)]


def _tile(core_y: Span, core_x: Span, height: int, width: int, halo_px: int) -> Tile:
    def grow(core: Span, size: int) -> Span:
        return Span(max(core.start - halo_px, 0), min(core.stop + halo_px, align_up(size)))

    return Tile(core_y, core_x, grow(core_y, height), grow(core_x, width))


def largest_tile_px(height: int, width: int, max_region_pixels: int, halo_px: int = HALO_PX) -> int | None:
    """Return the largest core side whose region, halo included, has at most max_region_pixels in this image.

    At least MIN_TILE_PX, at most the image's longer side (rounded up to 4): then the image is one tile. None when
    even the smallest tile is too large.
    """

    def region_pixels(tile_px: int) -> int:
        sides = (align_up(size) for size in (height, width))
        rows, columns = (side if tile_px >= side else min(side, tile_px + 2 * halo_px) for side in sides)
        return rows * columns

    low, high = MIN_TILE_PX // ALIGN_PX, max(align_up(max(height, width)), MIN_TILE_PX) // ALIGN_PX
    if region_pixels(low * ALIGN_PX) > max_region_pixels:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if region_pixels(middle * ALIGN_PX) <= max_region_pixels:
            low = middle
        else:
            high = middle - 1
    return low * ALIGN_PX


def halved_tile_px(tile_px: int, tile: Tile) -> int | None:
    """Return the tile size to try after `tile` did not fit, or None when it was the smallest already."""
    side_px = min(tile_px, max(tile.core_y.size, tile.core_x.size))
    if side_px <= MIN_TILE_PX:
        return None
    return max(MIN_TILE_PX, side_px // 2 // ALIGN_PX * ALIGN_PX)


def padded_indices(span: Span, size: int) -> NDArray[np.intp]:
    """Return which source row (or column) of `size` each padded coordinate in `span` shows.

    Beyond the image the padding reflects without repeating the edge (numpy's `reflect`); an image too small to
    reflect from repeats its last row (`edge`).
    """
    index = np.arange(span.start, span.stop)
    can_reflect = size > align_up(size) - size
    beyond = 2 * (size - 1) - index if can_reflect else np.full_like(index, size - 1)
    return np.where(index < size, index, beyond)


def gather_region(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], tile: Tile, out: NDArray[np.uint8] | NDArray[np.uint16]
) -> None:
    """Copy a tile's region, with padding where it leaves the image, into out (region height, region width, C)."""
    height, width = pixels.shape[:2]
    rows, columns = min(tile.region_y.stop, height), min(tile.region_x.stop, width)
    inside = pixels[tile.region_y.start : rows, tile.region_x.start : columns]
    out[: inside.shape[0], : inside.shape[1]] = inside
    if inside.shape[1] < out.shape[1]:
        source = padded_indices(Span(width, tile.region_x.stop), width)
        out[: inside.shape[0], inside.shape[1] :] = pixels[tile.region_y.start : rows][:, source]
    if inside.shape[0] < out.shape[0]:
        source = padded_indices(Span(height, tile.region_y.stop), height)
        y, x = source[:, None], padded_indices(tile.region_x, width)[None, :]
        out[inside.shape[0] :] = pixels[y, x]
