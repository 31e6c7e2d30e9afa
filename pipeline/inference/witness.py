"""Whether a device was lost through an image: what it did with another one right before says so."""

from __future__ import annotations

import numpy as np

from pipeline.errors import DeviceLostError
from pipeline.inference.base import Engine, Inference, LdrPixels

# A broken device may still do with the few pixels of a warm-up; a megapixel takes a tenth of a second on a GPU.
_CONTROL_SIDE_PX = 1024


class Witness:
    """Runs an engine, and names the image that took its device along, where it is known that the device was sound.

    A device that is lost is as good as gone for its whole process, so the first suspect stays the only one. To be used
    by one thread at a time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._suspect: str | None = None

    def infer(self, pixels: LdrPixels, source: str, *, is_wary: bool) -> Inference:
        """See Engine.infer. If `is_wary`, a GPU converts a megapixel of its own first.

        Raises DeviceLostError with `source` as its `suspect` where it did that and then was lost with this image.
        """
        is_sound = False
        try:
            if is_wary and self._engine.device != "cpu":
                self._engine.infer(_control())
                is_sound = True
            return self._engine.infer(pixels)
        except DeviceLostError as error:
            if is_sound and self._suspect is None:
                self._suspect = source
            raise DeviceLostError(str(error), suspect=self._suspect) from error


def _control() -> LdrPixels:
    """A gradient: (H, W, 3) uint8, of all codes."""
    row = np.linspace(0, 255, _CONTROL_SIDE_PX).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row[:, np.newaxis], (_CONTROL_SIDE_PX, _CONTROL_SIDE_PX, 3)))
