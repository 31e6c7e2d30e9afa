"""False contours: small steps between flat runs of pixels; the method is in docs/quality-statistics.md."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CodeArray = npt.NDArray[np.int16]
BoolArray = npt.NDArray[np.bool_]

# Planes hold sixteenths of an 8-bit code: 255 * 16 is the input's clipping level.
CODE_UNITS = 16
RUN_PX = 8
# Deciding on the step behind a pixel takes this many pixels after the first one of its run.
REACH_PX = 2 * RUN_PX - 1

_FLAT_MAX = 3  # 0.19 codes: above the coarsest rounding to half (0.11 codes), below any step
_STEP_MIN = 8  # 0.5 codes
_STEP_MAX = 40  # 2.5 codes: a contrast-stretched 8-bit image steps by two


def count_contours(plane: CodeArray, visible: BoolArray | None, core: tuple[int, int]) -> tuple[int, int]:
    """Return the numbers of horizontal and vertical false-contour steps that a tile owns.

    `plane` is (H, W) int16 in sixteenths of a code; `visible` masks it. A step lies between the last pixel of a flat
    run of 8 pixels and the first of another one in the same row (or column), and belongs to the first run's first
    pixel; the tile owns those in its first `core` rows and columns, and needs 15 pixels beyond them to see it.
    """
    rows, columns = core
    along_rows = _count_along_first_axis(plane[:, :columns], None if visible is None else visible[:, :columns], rows)
    across = np.ascontiguousarray(plane[:rows].T)
    seen = None if visible is None else np.ascontiguousarray(visible[:rows].T)
    return _count_along_first_axis(across, seen, columns), along_rows


def _count_along_first_axis(plane: CodeArray, visible: BoolArray | None, core: int) -> int:
    num_starts = min(core, len(plane) - REACH_PX)
    if num_starts <= 0:
        return 0
    plane = plane[: num_starts + REACH_PX]
    step = np.abs(plane[1:] - plane[:-1])
    flat = step <= _FLAT_MAX
    if visible is not None:
        seen = visible[: num_starts + REACH_PX]
        flat &= seen[1:] & seen[:-1]
    run = flat[:-1] & flat[1:]  # 2, then 4 flat differences in a row; 7 of them make a run of 8 pixels
    run = run[:-2] & run[2:]
    run = run[:-3] & run[3:]
    at_step = step[RUN_PX - 1 : RUN_PX - 1 + num_starts]
    contour = run[:num_starts] & run[RUN_PX : RUN_PX + num_starts]
    contour &= (at_step >= _STEP_MIN) & (at_step <= _STEP_MAX)
    return int(np.count_nonzero(contour))
