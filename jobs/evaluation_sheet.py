"""A sheet of one scene's views: input, outputs and truth at several exposures, and where they err. Pillow and NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from jobs.contact_sheet import downscale_by_area
from pipeline.codecs.color import linear_to_srgb, luminance
from pipeline.evaluation.stops import log_ratio

EXPOSURES_EV = (0.0, -2.0, -4.0)
ERROR_RANGE_STOPS = 3.0
_BACKGROUND, _TEXT, _MUTED = (27, 28, 30), (232, 233, 235), (156, 160, 166)
# Too dark, right, too bright: the ends and the middle of a diverging scale that people with colour blindness can read.
_SCALE = np.array([(33, 102, 172), (247, 247, 247), (178, 24, 43)], np.float32)
_MARGIN_PX, _GAP_PX, _CAPTION_PX, _LABEL_PX = 20, 8, 28, 130
_TITLE_PX, _BODY_PX = 20, 14


@dataclass(frozen=True, slots=True)
class SheetImage:
    """One row: `linear` is float32 (H, W, 3), 1.0 = the input's clipping level; `note` says how good it is."""

    label: str
    linear: NDArray[np.float32]
    note: str = ""


@dataclass(frozen=True, slots=True)
class SheetView:
    """One view: its rows, and the `truth` that they are compared with, of the same size."""

    name: str
    images: Sequence[SheetImage]
    truth: NDArray[np.float32]
    note: str = ""


def render_evaluation_sheet(title: str, views: Sequence[SheetView], cell_px: int = 256) -> Image.Image:
    """Draw the sheet, RGB. Every view gives one row per image and one for the truth.

    Columns are the exposures (times 2**EV, clipped at 1, sRGB encoded, no tone mapping) and the error: log2 of the
    image's luminance over the truth's, blue where 3 stops too dark, white where right, red where 3 stops too bright.
    Raises ValueError without views, or for images of another shape than their truth.
    """
    if not views:
        msg = "an evaluation sheet needs at least one view"
        raise ValueError(msg)
    for view in views:
        for image in view.images:
            if image.linear.shape != view.truth.shape:
                msg = f"{view.name}: {image.label} is {image.linear.shape}, its truth {view.truth.shape}"
                raise ValueError(msg)
    return _Sheet(cell_px).draw(title, views)


def error_colours(output: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the colours, (H, W, 3) uint8, of log2(output / truth) in luminance; both images are (H, W, 3) linear."""
    place = np.clip(log_ratio(luminance(output), luminance(truth)) / ERROR_RANGE_STOPS, -1, 1).astype(np.float32)
    side = np.where(place < 0, 0, 2)
    colours = _SCALE[1] + np.abs(place)[..., None] * (_SCALE[side] - _SCALE[1])
    return np.asarray(np.rint(colours), np.uint8)


class _Sheet:
    """Knows the places; all views are drawn in cells of one size."""

    def __init__(self, cell_px: int) -> None:
        self._cell_px = cell_px
        self._num_columns = len(EXPOSURES_EV) + 1
        self._title_font = ImageFont.load_default(_TITLE_PX)
        self._font = ImageFont.load_default(_BODY_PX)
        self._width_px = 2 * _MARGIN_PX + _LABEL_PX + self._num_columns * (cell_px + _GAP_PX) - _GAP_PX

    def draw(self, title: str, views: Sequence[SheetView]) -> Image.Image:
        header_px = _MARGIN_PX + 3 * _CAPTION_PX
        heights = [_CAPTION_PX + (len(view.images) + 1) * (self._size_px(view)[0] + _GAP_PX) for view in views]
        sheet = Image.new("RGB", (self._width_px, header_px + sum(heights) + _MARGIN_PX), _BACKGROUND)
        canvas = ImageDraw.Draw(sheet)
        self._text(canvas, (_MARGIN_PX, _MARGIN_PX), title, self._title_font)
        about = (
            f"Linear light through the sRGB curve, clipped at 1. Error: log2(luminance / truth), "
            f"blue -{ERROR_RANGE_STOPS:g}, white 0, red +{ERROR_RANGE_STOPS:g} stops."
        )
        self._text(canvas, (_MARGIN_PX, _MARGIN_PX + _CAPTION_PX), about, self._font, _MUTED)
        for column, heading in enumerate([*(f"{ev:+g} EV" if ev else "0 EV" for ev in EXPOSURES_EV), "error"]):
            place = (self._left_px(column), header_px - _CAPTION_PX + _GAP_PX)
            self._text(canvas, place, heading, self._font)
        top = header_px
        for view, height in zip(views, heights, strict=True):
            self._draw_view(sheet, canvas, view, top)
            top += height
        return sheet

    def _draw_view(self, sheet: Image.Image, canvas: ImageDraw.ImageDraw, view: SheetView, top: int) -> None:
        self._text(canvas, (_MARGIN_PX, top + _GAP_PX), f"{view.name}   {view.note}", self._font, _MUTED)
        top += _CAPTION_PX
        for image in (*view.images, SheetImage("truth", view.truth)):
            self._text(canvas, (_MARGIN_PX, top), image.label, self._font)
            for line, text in enumerate(image.note.split("\n"), start=1):
                self._text(canvas, (_MARGIN_PX, top + line * (_BODY_PX + 4)), text, self._font, _MUTED)
            height, width = self._size_px(view)
            small = downscale_by_area(image.linear, width, height)
            for column, ev in enumerate(EXPOSURES_EV):
                sheet.paste(_encode(small * np.float32(2.0**ev)), (self._left_px(column), top))
            if image.linear is not view.truth:
                colours = Image.fromarray(error_colours(image.linear, view.truth))
                error = colours.resize((width, height), Image.Resampling.BOX)
                sheet.paste(error, (self._left_px(len(EXPOSURES_EV)), top))
            top += height + _GAP_PX

    def _text(
        self,
        canvas: ImageDraw.ImageDraw,
        place: tuple[int, int],
        text: str,
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
        colour: tuple[int, int, int] = _TEXT,
    ) -> None:
        canvas.text(place, " ".join(text.encode("utf-8", "replace").decode().split()), colour, font)

    def _left_px(self, column: int) -> int:
        return _MARGIN_PX + _LABEL_PX + column * (self._cell_px + _GAP_PX)

    def _size_px(self, view: SheetView) -> tuple[int, int]:
        """The (height, width) that fills a square cell and keeps the proportions."""
        height, width = int(view.truth.shape[0]), int(view.truth.shape[1])
        scale = self._cell_px / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))


def _encode(linear: NDArray[np.float32]) -> Image.Image:
    codes = np.rint(linear_to_srgb(np.clip(linear, 0.0, 1.0)) * np.float32(255.0))
    return Image.fromarray(codes.astype(np.uint8))
