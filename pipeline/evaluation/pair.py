"""One output beside its truth, with what many metrics share: masks, luminances, exposure alignment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.codecs.color import luminance
from pipeline.evaluation import areas, stops
from pipeline.evaluation.areas import BoolArray, FloatArray, LdrArray

LARGEST_VALUE = 65504.0
"""The largest half float. NaN counts as 0 and what exceeds this as this, as it would be stored."""


@dataclass(frozen=True)
class Pair:
    """One output beside its truth, both float32 (H, W, 3), linear, finite, not negative, 1.0 = `ldr`'s clipping level.

    Masks and luminances are computed once, when first needed.
    """

    ldr: LdrArray
    output: FloatArray
    truth: FloatArray

    @cached_property
    def clipped(self) -> BoolArray:
        """Where the input is clipped, (H, W)."""
        return areas.clipped_area(self.ldr)

    @cached_property
    def well_exposed(self) -> BoolArray:
        """Where the input is well exposed, (H, W)."""
        return areas.well_exposed_area(self.ldr)

    @cached_property
    def highlights(self) -> list[npt.NDArray[np.intp]]:
        """The flat indices of each highlight's pixels."""
        return areas.find_highlights(self.clipped)

    @cached_property
    def output_luminance(self) -> FloatArray:
        """Luminance of the output, (H, W)."""
        return luminance(self.output)

    @cached_property
    def true_luminance(self) -> FloatArray:
        """Luminance of the truth, (H, W)."""
        return luminance(self.truth)

    @cached_property
    def bias_ev(self) -> float:
        """Exposure bias over well-exposed pixels, EV; NaN without any."""
        return stops.exposure_bias_ev(self.output_luminance, self.true_luminance, self.well_exposed)

    @cached_property
    def aligned(self) -> Pair:
        """The same with the output's exposure bias taken out; as it is where there are no well-exposed pixels."""
        if not np.isfinite(self.bias_ev) or self.bias_ev == 0:
            return self
        return Pair(self.ldr, (self.output * np.float32(2.0**-self.bias_ev)).astype(np.float32), self.truth)


def build_pair(ldr: LdrArray, output: FloatArray, truth: FloatArray) -> Pair:
    """Check and clean one image's arrays: negative values and NaN become 0, values above 65504 become 65504.

    Raises ValueError unless `ldr` is (H, W, 3) uint8 or uint16 and the others are floating point of that shape.
    """
    if ldr.ndim != 3 or ldr.shape[2] != 3 or ldr.size == 0 or ldr.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"ldr must be (H, W, 3) uint8 or uint16 with pixels, not {ldr.shape} {ldr.dtype}")
    for name, image in (("output", output), ("truth", truth)):
        if image.shape != ldr.shape or not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"{name} must be {ldr.shape} floating point, as ldr is, not {image.shape} {image.dtype}")
    return Pair(ldr, _storable(output), _storable(truth))


def _storable(image: FloatArray) -> FloatArray:
    finite = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=LARGEST_VALUE, neginf=0.0)
    return np.clip(finite, np.float32(0), np.float32(LARGEST_VALUE))
