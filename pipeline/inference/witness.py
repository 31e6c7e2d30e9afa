"""Whether a device was lost through an image: what it did with another one right before says so."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from pipeline.errors import DeviceLostError, ImageError
from pipeline.inference.base import Engine, Inference, LdrPixels

# A broken device may still do with the few pixels of a warm-up; a megapixel takes a tenth of a second on a GPU.
_CONTROL_SIDE_PX = 1024
# What a kernel can do to its context (CUDA Runtime API, cudaError_t): memory errors, links and drivers are no image's.
_KERNEL_TEXTS = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid program counter",
    "device-side assert",
    "unspecified launch failure",
    "launch timed out",
    "status_execution_failed",
)


class Witness:
    """Runs an engine, and names the image that took its device along, where it is known that the device was sound.

    A device that is lost is as good as gone for its whole process, so the first suspect stays the only one. To be used
    by one thread at a time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._suspect: str | None = None
        self._is_sound = False

    def check(self) -> None:
        """Let a GPU convert a megapixel of its own; `infer` knows then that it was sound. Raises DeviceLostError."""
        self._is_sound = False
        if self._engine.device == "cpu":
            return
        try:
            # Where that needs more memory than there is, nothing is known; the image may be smaller.
            with suppress(ImageError, MemoryError):
                self._engine.infer(_control())
                self._is_sound = True
        except DeviceLostError as error:
            raise DeviceLostError(str(error), suspect=self._suspect) from error

    def infer(self, pixels: LdrPixels, source: str) -> Inference:
        """See Engine.infer.

        Raises DeviceLostError with `source` as its `suspect` where a kernel failed after a `check` that passed.
        """
        was_sound, self._is_sound = self._is_sound, False
        try:
            return self._engine.infer(pixels)
        except DeviceLostError as error:
            is_of_a_kernel = any(text in str(error).lower() for text in _KERNEL_TEXTS)
            if was_sound and is_of_a_kernel and self._suspect is None:
                self._suspect = source
            raise DeviceLostError(f"{error}; at work on {source}", suspect=self._suspect) from error


def _control() -> LdrPixels:
    """A gradient: (H, W, 3) uint8, of all codes."""
    row = np.linspace(0, 255, _CONTROL_SIDE_PX).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(row[:, np.newaxis], (_CONTROL_SIDE_PX, _CONTROL_SIDE_PX, 3)))
