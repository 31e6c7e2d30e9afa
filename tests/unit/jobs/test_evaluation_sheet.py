"""The sheet shows every image, at every exposure, and where it errs."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.evaluation_sheet import SheetImage, SheetView, error_colours, render_evaluation_sheet

BLUE, WHITE, RED = (33, 102, 172), (247, 247, 247), (178, 24, 43)


def flat(level: float, height: int = 30, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), level, np.float32)


@pytest.mark.parametrize(
    ("output", "colour"), [(1.0, WHITE), (16.0, RED), (1e4, RED), (1 / 16, BLUE), (0.0, BLUE)], ids=str
)
def test_error_colours(output: float, colour: tuple[int, int, int]) -> None:
    assert tuple(error_colours(flat(output), flat(1.0))[3, 3].tolist()) == colour


def test_half_the_range_is_half_way() -> None:
    between = error_colours(flat(2**1.5), flat(1.0))[0, 0]
    assert between.tolist() == pytest.approx([(w + r) / 2 for w, r in zip(WHITE, RED, strict=True)], abs=1)


def view(name: str = "scene#0", level: float = 0.25) -> SheetView:
    return SheetView(name, [SheetImage("input", flat(1.0)), SheetImage("ours", flat(4.0), "good")], flat(level))


def has_colour(sheet: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((sheet == np.array(colour)).all(axis=-1).sum())


def test_cells_hold_exposures_and_errors() -> None:
    sheet = np.asarray(render_evaluation_sheet("scene", [view(level=4.0)], cell_px=80))
    cell = 80 * 60
    # ours: 4 is white at 0 and -2 EV, and 0.25 at -4 EV; the truth looks the same; the input is a quarter of each.
    assert has_colour(sheet, (255, 255, 255)) >= 5 * cell
    assert has_colour(sheet, (137, 137, 137)) == 3 * cell, "0.25 in the input, ours and the truth"
    assert has_colour(sheet, WHITE) == cell, "ours is right"
    assert has_colour(sheet, tuple(error_colours(flat(1.0), flat(4.0))[0, 0].tolist())) == cell


def test_every_view_gets_its_rows() -> None:
    one = render_evaluation_sheet("scene", [view()], cell_px=80)
    two = render_evaluation_sheet("scene", [view(), view("a very long name" * 20 + "\n")], cell_px=80)
    assert two.width == one.width
    assert two.height - one.height == 28 + 3 * (60 + 8)


def test_portraits_keep_their_proportions() -> None:
    tall = SheetView("t", [SheetImage("input", flat(1.0, 40, 10))], flat(1.0, 40, 10))
    sheet = np.asarray(render_evaluation_sheet("scene", [tall], cell_px=80))
    assert has_colour(sheet, WHITE) == 80 * 20


def test_nothing_to_draw_and_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        render_evaluation_sheet("scene", [])
    odd = SheetView("odd", [SheetImage("input", flat(1.0, 8, 8))], flat(1.0))
    with pytest.raises(ValueError, match="odd: input"):
        render_evaluation_sheet("scene", [odd])
