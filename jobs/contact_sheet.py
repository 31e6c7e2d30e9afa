"""A contact sheet: for each image the input, and its HDR output at several exposures. Pillow and NumPy only.

What was reconstructed above the clipping level shows where a picture that is pulled down by stops keeps structure;
what was not stays a flat gray.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.codecs.color import linear_to_srgb, srgb_to_linear

_BACKGROUND = (27, 28, 30)
_CELL = (18, 19, 20)
_RULE = (58, 60, 64)
_TEXT = (232, 233, 235)
_MUTED = (156, 160, 166)
_FAILED = (236, 122, 104)

_MARGIN_PX = 24
_GAP_PX = 10
_TITLE_PX, _BODY_PX, _HEADING_PX = 22, 14, 15
_CAPTION_PX = 26
_FAILED_CELL_FRACTION = 0.25
_MIN_CELL_PX = 64
_HALF_MAX = 65504.0

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One image of the sheet.

    `input_rgb` is (H, W, 3) uint8, sRGB encoded; `hdr` is (H, W, 3) float, linear Rec.709 with 1.0 at the input's
    clipping level. None where there is none; a row without `hdr` is a failed one, and its `note` (the error code)
    stands in place of pictures.
    """

    title: str
    input_rgb: NDArray[np.uint8] | None
    hdr: NDArray[np.floating] | None
    note: str = ""


def render_contact_sheet(
    rows: Sequence[SheetRow], exposures_ev: Sequence[float] = (0, -2, -4), cell_px: int = 320
) -> Image.Image:
    """Draw the sheet as an RGB image: one column for the input and one for each exposure of the output.

    Exposures multiply linear values by 2**EV; values above 1.0 are then clipped and the rest encoded with the sRGB
    curve (IEC 61966-2-1), with no tone mapping. Pictures are scaled to fit `cell_px` by area averaging in linear
    light. Raises ValueError without rows or exposures, for cells under 64 px, or for arrays of another shape or type.
    """
    if not rows or not exposures_ev:
        msg = "a contact sheet needs at least one row and one exposure"
        raise ValueError(msg)
    if cell_px < _MIN_CELL_PX:
        msg = f"cells of {cell_px} px cannot be read; use {_MIN_CELL_PX} or more"
        raise ValueError(msg)
    for row in rows:
        _check(row)
    return _Sheet(tuple(exposures_ev), cell_px).draw(rows)


def downscale_by_area(image: NDArray[np.floating], width: int, height: int) -> NDArray[np.float32]:
    """Resize (H, W, C) to (height, width, C): each output pixel is the mean over the exact area that it covers.

    With linear values this keeps the total light, so that a highlight of one pixel does not vanish or alias. NaN
    counts as 0, infinities as the largest half float. Enlarging repeats pixels.
    """
    finite = image.astype(np.float32, copy=False)
    if not np.isfinite(finite).all():
        finite = np.nan_to_num(finite, nan=0.0, posinf=_HALF_MAX, neginf=-_HALF_MAX)
    rows, columns, num_channels = image.shape
    shorter = _average_rows(finite.reshape(rows, -1), height).reshape(height, columns, num_channels)
    turned = shorter.swapaxes(0, 1).reshape(columns, -1)
    smaller = _average_rows(turned, width).reshape(width, height, num_channels)
    return np.ascontiguousarray(smaller.swapaxes(0, 1))


def _average_rows(rows: NDArray[np.float32], num_spans: int) -> NDArray[np.float32]:
    """Average (H, M) over equal spans to (num_spans, M); a row that a border cuts counts in both, by its parts."""
    averages = np.empty((num_spans, rows.shape[1]), dtype=np.float32)
    edges = np.linspace(0.0, rows.shape[0], num_spans + 1)
    for span, (start, stop) in enumerate(pairwise(edges.tolist())):
        covered = np.arange(floor(start), min(ceil(stop), rows.shape[0]))
        weights = np.minimum(covered + 1, stop) - np.maximum(covered, start)
        averages[span] = (weights / weights.sum()).astype(np.float32) @ rows[covered[0] : covered[-1] + 1]
    return averages


def _check(row: SheetRow) -> None:
    for name, image in (("input_rgb", row.input_rgb), ("hdr", row.hdr)):
        if image is not None and (image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape):
            msg = f"{row.title}: {name} must be (height, width, 3) with pixels, not {image.shape}"
            raise ValueError(msg)
    if row.input_rgb is not None and row.input_rgb.dtype != np.uint8:
        msg = f"{row.title}: input_rgb must be uint8, not {row.input_rgb.dtype}"
        raise ValueError(msg)
    if row.hdr is not None and not np.issubdtype(row.hdr.dtype, np.floating):
        msg = f"{row.title}: hdr must be floating point, not {row.hdr.dtype}"
        raise ValueError(msg)


def _fit(image: NDArray[np.generic], cell_px: int) -> tuple[int, int]:
    """Return the (width, height) that fills a square cell and keeps the proportions."""
    height, width = image.shape[:2]
    scale = cell_px / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _encode(linear: NDArray[np.float32]) -> Image.Image:
    codes = np.rint(linear_to_srgb(np.clip(linear, 0.0, 1.0)) * np.float32(255.0))
    return Image.fromarray(codes.astype(np.uint8))


def _shorten(text: str, font: _Font, width_px: float) -> str:
    """Make the text one line and cut its middle where it would pass `width_px`: folder and file name both show."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())  # names may hold line breaks and lone surrogates
    if font.getlength(text) <= width_px:
        return text

    def cut_to(kept: int) -> str:
        return f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"

    fitting = bisect_right(range(len(text)), width_px, key=lambda kept: font.getlength(cut_to(kept)))
    return cut_to(fitting - 1) if fitting else ""


class _Sheet:
    """Measures the rows, then draws them; holds the fonts and the columns' places."""

    def __init__(self, exposures_ev: tuple[float, ...], cell_px: int) -> None:
        self._exposures_ev = exposures_ev
        self._cell_px = cell_px
        self._num_columns = 1 + len(exposures_ev)
        self._width_px = 2 * _MARGIN_PX + self._num_columns * cell_px + (self._num_columns - 1) * _GAP_PX
        self._title_font = ImageFont.load_default(_TITLE_PX)
        self._heading_font = ImageFont.load_default(_HEADING_PX)
        self._body_font = ImageFont.load_default(_BODY_PX)

    def draw(self, rows: Sequence[SheetRow]) -> Image.Image:
        heights_px = [self._row_height_px(row) for row in rows]
        header_px = _MARGIN_PX + 2 * _CAPTION_PX + 2 * _GAP_PX + _CAPTION_PX
        total_px = header_px + sum(heights_px) + len(rows) * (_CAPTION_PX + 2 * _GAP_PX) + _MARGIN_PX - _GAP_PX
        sheet = Image.new("RGB", (self._width_px, total_px), _BACKGROUND)
        canvas = ImageDraw.Draw(sheet)
        self._draw_header(canvas, header_px)
        top = header_px
        for row, height_px in zip(rows, heights_px, strict=True):
            top += _GAP_PX
            self._draw_caption(canvas, row, top)
            top += _CAPTION_PX
            self._draw_pictures(sheet, canvas, row, top, height_px)
            top += height_px + _GAP_PX
        return sheet

    def _left_px(self, column: int) -> int:
        return _MARGIN_PX + column * (self._cell_px + _GAP_PX)

    def _row_height_px(self, row: SheetRow) -> int:
        images = [image for image in (row.input_rgb, row.hdr) if image is not None]
        lowest = round(self._cell_px * _FAILED_CELL_FRACTION)
        return max([lowest, *(_fit(image, self._cell_px)[1] for image in images)])

    def _draw_header(self, canvas: ImageDraw.ImageDraw, header_px: int) -> None:
        room = self._width_px - 2 * _MARGIN_PX
        explained = (
            "Output is linear light, shown at each exposure through the sRGB curve; values above 1 are clipped, not "
            "tone mapped."
        )
        canvas.text((_MARGIN_PX, _MARGIN_PX), "hdrfleet contact sheet", _TEXT, self._title_font)
        explained = _shorten(explained, self._body_font, room)
        canvas.text((_MARGIN_PX, _MARGIN_PX + _CAPTION_PX + _GAP_PX), explained, _MUTED, self._body_font)
        headings = ["Input", *(f"Output {ev:+g} EV" if ev else "Output 0 EV" for ev in self._exposures_ev)]
        for column, heading in enumerate(headings):
            place = (self._left_px(column) + self._cell_px / 2, header_px - _GAP_PX)
            canvas.text(place, heading, _TEXT, self._heading_font, anchor="ms")
        canvas.line([(_MARGIN_PX, header_px), (self._width_px - _MARGIN_PX, header_px)], _RULE)

    def _draw_caption(self, canvas: ImageDraw.ImageDraw, row: SheetRow, top: int) -> None:
        baseline = top + round(0.68 * _CAPTION_PX)
        room = self._width_px - 2 * _MARGIN_PX
        title = _shorten(row.title, self._body_font, 0.6 * room)
        canvas.text((_MARGIN_PX, baseline), title, _TEXT, self._body_font, anchor="ls")
        if row.hdr is None:
            return
        left = _MARGIN_PX + self._body_font.getlength(title) + 2 * _GAP_PX
        note = _shorten(row.note, self._body_font, self._width_px - _MARGIN_PX - left)
        canvas.text((self._width_px - _MARGIN_PX, baseline), note, _MUTED, self._body_font, anchor="rs")

    def _draw_pictures(
        self, sheet: Image.Image, canvas: ImageDraw.ImageDraw, row: SheetRow, top: int, height_px: int
    ) -> None:
        for column in range(0 if row.input_rgb is not None else 1, self._num_columns):
            left = self._left_px(column)
            canvas.rectangle((left, top, left + self._cell_px - 1, top + height_px - 1), _CELL)
        if row.input_rgb is not None:
            size = _fit(row.input_rgb, self._cell_px)
            decoded = srgb_to_linear(np.arange(256, dtype=np.float32) / np.float32(255.0))[row.input_rgb]
            self._paste(sheet, _encode(downscale_by_area(decoded, *size)), 0, top, height_px)
        if row.hdr is None:
            self._draw_failure(canvas, row, top, height_px)
            return
        small = downscale_by_area(row.hdr, *_fit(row.hdr, self._cell_px))
        for column, ev in enumerate(self._exposures_ev, start=1):
            self._paste(sheet, _encode(small * np.float32(2.0**ev)), column, top, height_px)

    def _paste(self, sheet: Image.Image, picture: Image.Image, column: int, top: int, height_px: int) -> None:
        left = self._left_px(column) + (self._cell_px - picture.width) // 2
        sheet.paste(picture, (left, top + (height_px - picture.height) // 2))

    def _draw_failure(self, canvas: ImageDraw.ImageDraw, row: SheetRow, top: int, height_px: int) -> None:
        first = 0 if row.input_rgb is None else 1
        left, right = self._left_px(first), self._width_px - _MARGIN_PX
        canvas.rectangle((left, top, right - 1, top + height_px - 1), _CELL, outline=_FAILED)
        reason = _shorten(f"no output: {row.note or 'unknown'}", self._heading_font, right - left - 2 * _GAP_PX)
        canvas.text(((left + right) / 2, top + height_px / 2), reason, _FAILED, self._heading_font, anchor="mm")
