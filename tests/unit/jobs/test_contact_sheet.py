from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs.contact_sheet import SheetRow, downscale_by_area, render_contact_sheet
from pipeline.codecs.color import linear_to_srgb, srgb_to_linear

CELL_PX = 96


def flat_row(level: float = 0.5, *, width: int = 60, height: int = 40, code: int = 128, note: str = "") -> SheetRow:
    return SheetRow(
        "picture.jpg",
        np.full((height, width, 3), code, dtype=np.uint8),
        np.full((height, width, 3), level, dtype=np.float32),
        note,
    )


def boxes_of(sheet: Image.Image, code: int) -> list[tuple[int, int, int, int]]:
    """Return (left, top, width, height) of each run of columns that holds long vertical runs of one gray code."""
    is_code = (np.asarray(sheet) == code).all(axis=-1)
    columns = np.flatnonzero(is_code.sum(axis=0) >= 20)
    boxes = []
    for run in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1):
        rows = np.flatnonzero(is_code[:, run[run.size // 2]])
        boxes.append((int(run[0]), int(rows[0]), int(run.size), int(rows.size)))
    return boxes


def gray(level: float) -> int:
    return round(255 * float(linear_to_srgb(np.array([level], dtype=np.float32))[0]))


def test_each_exposure_has_its_column_and_its_level() -> None:
    sheet = render_contact_sheet([flat_row(1.6, code=200)], (0, -2, -4), CELL_PX)
    assert sheet.mode == "RGB"
    found = [boxes_of(sheet, code) for code in (200, 255, gray(0.4), gray(0.1))]
    assert [len(boxes) for boxes in found] == [1, 1, 1, 1]
    boxes = [boxes[0] for boxes in found]
    assert [box[2:] for box in boxes] == [(CELL_PX, CELL_PX * 2 // 3)] * 4
    assert len({box[1] for box in boxes}) == 1, "the pictures of one row do not stand on one line"
    steps = np.diff([box[0] for box in boxes])
    assert (steps == steps[0]).all()
    assert steps[0] > CELL_PX


def test_portrait_is_fitted_to_the_height_and_centred() -> None:
    sheet = render_contact_sheet([flat_row(0.3, width=40, height=80, code=200)], (0,), CELL_PX)
    (left, _, width, height), (next_left, *_) = boxes_of(sheet, 200)[0], boxes_of(sheet, gray(0.3))[0]
    assert (width, height) == (CELL_PX // 2, CELL_PX)
    assert sheet.width - (next_left + width) == left, "the letterboxes of the outer cells differ"


def test_failed_row_is_a_band_that_names_its_code() -> None:
    good, code = flat_row(), "decode_truncated"
    named = render_contact_sheet([good, SheetRow("broken.jpg", None, None, code)], cell_px=CELL_PX)
    other = render_contact_sheet([good, SheetRow("broken.jpg", None, None, "empty")], cell_px=CELL_PX)
    alone = render_contact_sheet([good], cell_px=CELL_PX)
    assert named.size == other.size
    assert alone.height < named.height < alone.height + CELL_PX
    differing = np.flatnonzero((np.asarray(named) != np.asarray(other)).any(axis=(1, 2)))
    assert differing.size > 0
    assert differing[0] > alone.height - 40, "the code is not written in the failed row"


def test_failed_row_still_shows_an_input_that_could_be_read() -> None:
    row = SheetRow("picture.jpg", flat_row(code=200).input_rgb, None, "inference_failed")
    sheet = render_contact_sheet([row], (0, -2), CELL_PX)
    assert [box[2:] for box in boxes_of(sheet, 200)] == [(CELL_PX, CELL_PX * 2 // 3)]


def test_notes_and_titles_never_reach_beyond_the_margins() -> None:
    row = flat_row(note="a note that goes on " * 20)
    long_row = SheetRow("folder/" * 40 + "picture.jpg", row.input_rgb, row.hdr, row.note)
    failed = SheetRow("x" * 300, None, None, "y" * 300)
    pixels = np.asarray(render_contact_sheet([long_row, failed], cell_px=CELL_PX))
    background = pixels[0, 0]
    assert (pixels[:, :20] == background).all()
    assert (pixels[:, -20:] == background).all()
    assert (pixels[-14:] == background).all()


@pytest.mark.parametrize("name", ["two\nlines.jpg", "lone \udcff surrogate.jpg", "写真 été.jpg", ""])
def test_names_that_file_systems_allow_can_be_drawn(name: str) -> None:
    rows = [replace(flat_row(note=name), title=name), SheetRow(name, None, None, name)]
    assert (
        render_contact_sheet(rows, (0,), CELL_PX).size
        == render_contact_sheet([flat_row(), SheetRow("a", None, None, "b")], (0,), CELL_PX).size
    )


def test_input_is_averaged_in_linear_light() -> None:
    stripes = np.zeros((200, 300, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    sheet = render_contact_sheet([SheetRow("stripes", stripes, np.zeros((200, 300, 3), np.float32))], (0,), 75)
    middle = int(np.asarray(sheet)[boxes_of(sheet, gray(0.5))[0][1] + 5, 60, 1])
    assert middle == gray(0.5)
    assert middle > 180, "averaging codes instead of light would give 128"


def test_a_single_bright_pixel_survives_downscaling_with_its_energy() -> None:
    hdr = np.zeros((300, 300, 3), dtype=np.float32)
    hdr[123, 211] = 5000.0
    small = downscale_by_area(hdr, 77, 77)
    assert small.mean() == pytest.approx(hdr.mean(), rel=1e-5)
    assert small.max() > 100.0


@given(st.integers(1, 23), st.integers(1, 23), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_downscaling_equals_fine_repetition_then_block_means(
    height: int, width: int, to_height: int, to_width: int, seed: int
) -> None:
    image = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    fine = image.astype(np.float64).repeat(to_height, axis=0).repeat(to_width, axis=1)
    expected = fine.reshape(to_height, height, to_width, width, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(downscale_by_area(image, to_width, to_height), expected, atol=2e-6)


def test_non_finite_values_stay_where_they_are() -> None:
    image = np.full((4, 4, 3), 0.5, dtype=np.float32)
    image[0, 0], image[0, 3], image[3, 0] = np.nan, np.inf, -np.inf
    small = downscale_by_area(image, 4, 4)
    assert small[0, 0, 0] == 0.0
    assert small[0, 3, 0] == 65504.0
    assert small[3, 0, 0] == -65504.0
    assert (small[1:3, 1:3] == 0.5).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_type_and_layout_is_taken(dtype: type[np.floating]) -> None:
    hdr = np.linspace(0, 1, 40 * 60 * 3).astype(dtype).reshape(60, 40, 3).transpose(1, 0, 2)[::-1]
    codes = np.rint(255 * linear_to_srgb(np.clip(hdr.astype(np.float32), 0, 1))).astype(np.uint8)
    assert not hdr.flags.c_contiguous
    sheet = np.asarray(render_contact_sheet([SheetRow("ramp", codes, hdr)], (0,), CELL_PX)).astype(int)
    first, second = sheet[:, 24 : 24 + CELL_PX], sheet[:, 24 + CELL_PX + 10 : 24 + 2 * CELL_PX + 10]
    pictures = slice(-80, -30)
    assert np.abs(first[pictures] - second[pictures]).max() <= 2
    assert np.ptp(first[pictures]) > 50


def test_one_pixel_fills_its_cell() -> None:
    sheet = render_contact_sheet([flat_row(0.2, width=1, height=1, code=200)], (0,), CELL_PX)
    assert boxes_of(sheet, 200)[0][2:] == (CELL_PX, CELL_PX)


@pytest.mark.parametrize(
    ("rows", "exposures_ev", "cell_px", "message"),
    [
        ([], (0,), CELL_PX, "at least one row"),
        ([flat_row()], (), CELL_PX, "one exposure"),
        ([flat_row()], (0,), 16, "16 px"),
        ([replace(flat_row(), hdr=np.zeros((4, 4), np.float32))], (0,), CELL_PX, "hdr must be"),
        ([replace(flat_row(), hdr=np.zeros((4, 4, 4), np.float32))], (0,), CELL_PX, "hdr must be"),
        ([replace(flat_row(), hdr=np.zeros((4, 4, 3), np.uint8))], (0,), CELL_PX, "floating point"),
        ([replace(flat_row(), input_rgb=np.zeros((0, 4, 3), np.uint8))], (0,), CELL_PX, "with pixels"),
        ([replace(flat_row(), input_rgb=np.zeros((4, 4, 3), np.uint16))], (0,), CELL_PX, "uint8"),
    ],
)
def test_unusable_arguments_are_refused(
    rows: list[SheetRow], exposures_ev: tuple[float, ...], cell_px: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        render_contact_sheet(rows, exposures_ev, cell_px)


def test_display_curve_is_the_codecs_own() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    row = SheetRow("all codes", codes, srgb_to_linear(codes / np.float32(255)))
    sheet = np.asarray(render_contact_sheet([row], (0,), 64))
    left, right = sheet[:, 24 : 24 + 64], sheet[:, 24 + 74 : 24 + 138]
    pictures = slice(-80, -30)
    np.testing.assert_array_equal(left[pictures], right[pictures])
    assert np.unique(left[pictures]).size > 150
