"""All metrics by name, and measuring one image with them. What each one is stands in docs/evaluation.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.evaluation import color, detail, flip, psnr, pu21, stops
from pipeline.evaluation.areas import FloatArray, LdrArray
from pipeline.evaluation.pair import Pair, build_pair


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its `name` (a column of records), `label` for people, `unit`, and whether more is better.

    `function` returns NaN where the metric is undefined, such as the clipped error of a picture without clipping.
    `num_digits` are worth printing. A fast metric takes about as long as a pass over the pixels.
    """

    name: str
    label: str
    unit: str
    higher_is_better: bool
    is_fast: bool
    num_digits: int
    function: Callable[[Pair], float]

    def aligned(self) -> Metric:
        """The same metric after exposure alignment, named `aligned_...`."""
        function = self.function
        return Metric(
            f"aligned_{self.name}",
            f"{self.label}, exposure aligned",
            self.unit,
            self.higher_is_better,
            self.is_fast,
            self.num_digits,
            lambda pair: function(pair.aligned),
        )


def _outside(pair: Pair, image: FloatArray) -> FloatArray:
    return image[~pair.clipped]


_ALIGNABLE = (
    Metric("mu_psnr_db", "mu-PSNR", "dB", True, True, 2, lambda p: psnr.mu_psnr_db(p.output, p.truth)),
    Metric("pu21_psnr_db", "PU21-PSNR", "dB", True, True, 2, lambda p: pu21.pu21_psnr_db(p.output, p.truth)),
    Metric(
        "unclipped_pu21_psnr_db",
        "PU21-PSNR, unclipped area",
        "dB",
        True,
        True,
        2,
        lambda p: pu21.pu21_psnr_db(_outside(p, p.output), _outside(p, p.truth)),
    ),
    Metric("ntire_psnr_db", "NTIRE PSNR", "dB", True, True, 2, lambda p: psnr.ntire_psnr_db(p.output, p.truth)),
    Metric("linear_psnr_db", "PSNR-L", "dB", True, True, 2, lambda p: psnr.linear_psnr_db(p.output, p.truth)),
    Metric("pu21_ssim", "PU21-SSIM", "", True, False, 4, lambda p: pu21.pu21_ssim(p.output, p.truth)),
    Metric("hdr_flip", "HDR-FLIP", "", False, False, 4, lambda p: flip.hdr_flip(p.output, p.truth)),
    Metric(
        "clipped_error_stops",
        "error, clipped area",
        "stops",
        False,
        True,
        3,
        lambda p: stops.mean_error_stops(p.output_luminance, p.true_luminance, p.clipped),
    ),
    Metric(
        "unclipped_error_stops",
        "error, unclipped area",
        "stops",
        False,
        True,
        3,
        lambda p: stops.mean_error_stops(p.output_luminance, p.true_luminance, ~p.clipped),
    ),
    Metric(
        "peak_error_stops",
        "peak error per highlight",
        "stops",
        False,
        True,
        3,
        lambda p: stops.peak_error_stops(p.output_luminance, p.true_luminance, p.highlights),
    ),
)
_OTHERS = (
    Metric("exposure_error_ev", "exposure error", "EV", False, True, 3, lambda p: abs(p.bias_ev)),
    Metric(
        "hue_shift_deg",
        "hue shift, well exposed",
        "degrees",
        False,
        True,
        2,
        lambda p: color.hue_shift_deg(p.output, p.truth, p.well_exposed),
    ),
    Metric(
        "clipped_hue_shift_deg",
        "hue shift, clipped area",
        "degrees",
        False,
        True,
        2,
        lambda p: color.hue_shift_deg(p.output, p.truth, p.clipped),
    ),
    Metric(
        "chroma_shift",
        "u'v' shift, well exposed",
        "u'v'",
        False,
        True,
        4,
        lambda p: color.chroma_shift(p.output, p.truth, p.well_exposed),
    ),
    Metric(
        "clipped_chroma_shift",
        "u'v' shift, clipped area",
        "u'v'",
        False,
        True,
        4,
        lambda p: color.chroma_shift(p.output, p.truth, p.clipped),
    ),
    Metric("flat_noise_left", "noise left, flat areas", "of the decode's", False, True, 3, detail.flat_noise_left),
    Metric("detail_kept", "detail kept", "of the truth's", True, True, 3, detail.detail_kept),
)

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (*_ALIGNABLE, *_OTHERS, *(metric.aligned() for metric in _ALIGNABLE))
}
"""Every metric by name, in the order in which tables show them."""

FAST_METRICS: tuple[str, ...] = (
    "mu_psnr_db",
    "pu21_psnr_db",
    "unclipped_pu21_psnr_db",
    "clipped_error_stops",
    "unclipped_error_stops",
    "peak_error_stops",
    "exposure_error_ev",
    "hue_shift_deg",
    "flat_noise_left",
    "detail_kept",
)
"""The quick ones, `--metrics fast`: a few milliseconds for a view of 256 px."""


def evaluate_pair(
    ldr: LdrArray, output: FloatArray, truth: FloatArray, metrics: Iterable[str] = FAST_METRICS
) -> dict[str, float]:
    """Measure one output against its truth; returns the metrics asked for, in that order.

    `ldr` is the input, (H, W, 3), uint8 or uint16; `output` and `truth` are (H, W, 3) float32, linear Rec.709, with 1.0
    at the input's clipping level. Negative values and NaN count as 0, values above 65504 as 65504. A metric that is
    undefined for this image is NaN. Raises ValueError for arrays of another shape or type and for unknown names,
    ConfigError where a metric needs a package that is not installed.
    """
    chosen = [_metric(name) for name in metrics]
    pair = build_pair(ldr, output, truth)
    return {metric.name: metric.function(pair) for metric in chosen}


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; there are: {', '.join(METRICS)}")
    return METRICS[name]
