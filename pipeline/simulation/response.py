"""Camera response curves: from linear light, 0 to the clipping level 1, to the encoded value.

All of them are monotone and map 0 to 0 and 1 to 1, so that a curve never moves the clipping level. Measured curves
(Grossberg and Nayar, "Modeling the space of camera response functions", IEEE TPAMI 2004) lie around the sRGB curve
with more or less contrast and brightness in the mid-tones, which is what the family here spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.codecs.color import linear_to_srgb
from pipeline.simulation.scenes import FloatArray

CurveKind = Literal["srgb", "phone", "power", "rec709"]
CURVE_PROBABILITIES: dict[CurveKind, float] = {"srgb": 0.5, "phone": 0.35, "power": 0.1, "rec709": 0.05}
"""How often each kind is drawn: the exact sRGB curve and its phone-like variants most often."""
SRGB_PROBABILITY = CURVE_PROBABILITIES["srgb"]
MAX_CONTRAST = 0.3
MAX_BRIGHTNESS = 0.08
MIN_POWER, MAX_POWER = 2.0, 2.4


@dataclass(frozen=True, slots=True)
class ResponseCurve:
    """One response curve.

    - `srgb`: IEC 61966-2-1.
    - `phone`: sRGB, then brightness `y ** (1 - brightness)`, then an S-curve `y - contrast / (2 pi) sin(2 pi y)`, whose
      slope stays within 1 +- contrast. The `contrast` of tone curves that phones render with is mostly positive.
    - `power`: `x ** (1 / power)`.
    - `rec709`: the opto-electronic transfer function of ITU-R BT.709-6.

    Raises ValueError where the values make no monotone curve: contrast beyond +-1, brightness of 1 or more (or under
    -1), power of 0 or less.
    """

    kind: CurveKind = "srgb"
    contrast: float = 0.0
    brightness: float = 0.0
    power: float = 2.2

    def __post_init__(self) -> None:
        if self.kind not in CURVE_PROBABILITIES:
            msg = f"kind must be one of {', '.join(CURVE_PROBABILITIES)}, not {self.kind}"
            raise ValueError(msg)
        if not (abs(self.contrast) <= 1 and -1 <= self.brightness < 1 and self.power > 0):
            msg = f"no monotone curve: contrast {self.contrast}, brightness {self.brightness}, power {self.power}"
            raise ValueError(msg)

    def encode(self, linear: FloatArray) -> FloatArray:
        """Encode linear light in [0, 1], any shape, float32 to float32 in [0, 1]."""
        if self.kind == "power":
            return np.power(linear, np.float32(1 / self.power))
        if self.kind == "rec709":
            curve = np.float32(1.099) * np.maximum(linear, np.float32(0.018)) ** np.float32(0.45) - np.float32(0.099)
            return np.where(linear < np.float32(0.018), linear * np.float32(4.5), curve)
        encoded = linear_to_srgb(linear)
        if self.kind == "srgb":
            return encoded
        encoded = np.power(np.clip(encoded, 0, 1), np.float32(1 - self.brightness))
        bend = np.float32(self.contrast / (2 * np.pi)) * np.sin(np.float32(2 * np.pi) * encoded)
        bent: FloatArray = np.clip(encoded - bend, np.float32(0), np.float32(1))
        return bent


def draw_curve(rng: np.random.Generator, srgb_probability: float = SRGB_PROBABILITY) -> ResponseCurve:
    """Draw a curve: its kind, then its parameters uniformly (contrast down to a third of -MAX).

    sRGB has `srgb_probability`, 0 to 1; the other kinds share the rest in the proportions of CURVE_PROBABILITIES.
    """
    kinds = list(CURVE_PROBABILITIES)
    share = (1 - srgb_probability) / (1 - SRGB_PROBABILITY)
    weights = [srgb_probability if kind == "srgb" else CURVE_PROBABILITIES[kind] * share for kind in kinds]
    return ResponseCurve(
        kind=kinds[int(rng.choice(len(kinds), p=weights))],
        contrast=rng.uniform(-MAX_CONTRAST / 3, MAX_CONTRAST),
        brightness=rng.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS),
        power=rng.uniform(MIN_POWER, MAX_POWER),
    )
