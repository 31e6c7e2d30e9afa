"""EXIF orientation as array operations (CIPA DC-008, tag 0x0112)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Turn = Callable[[NDArray[Any]], NDArray[Any]]

_TURNS: dict[int, _Turn] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def swaps_sides(orientation: int) -> bool:
    """True where width and height change places (5..8)."""
    return orientation >= 5


def apply_orientation(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn (H, W) or (H, W, C) pixels stored with `orientation` (1..8) upright. The result is C-contiguous."""
    return np.ascontiguousarray(_TURNS[orientation](pixels))


def orientation_of(turns: list[_Turn]) -> int:
    """Return the EXIF orientation that equals `turns` applied one after another."""
    probe = np.arange(6).reshape(2, 3)
    turned = probe
    for turn in turns:
        turned = turn(turned)
    return next(o for o, turn in _TURNS.items() if np.array_equal(turn(probe), turned))
