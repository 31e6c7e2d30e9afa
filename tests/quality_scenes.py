"""The fixed set of the quality gate: scenes rendered by code, pictures of them in plain sRGB, and what is measured.

To see what weights score, for example before recording bounds for them:

    PYTHONPATH=tests python -m quality_scenes identity
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from jobs.camera import CameraSettings, photograph
from jobs.demo_scene import render_scene
from jobs.evaluation_texture import banding, noise_left
from jobs.weights import read_weights
from pipeline.codecs.color import luminance
from pipeline.config import InferenceConfig
from pipeline.evaluation import evaluate_pair
from pipeline.evaluation.areas import CLIPPED_FROM, clipped_area, find_highlights, robust_peak
from pipeline.evaluation.baselines import srgb_decode
from pipeline.evaluation.pair import build_pair
from pipeline.evaluation.stops import FLOOR, log_ratio
from pipeline.inference.engine import InferenceEngine
from pipeline.models.checkpoint import build_network, load_weights

FloatArray = NDArray[np.float32]
Codes = NDArray[np.uint8]
Run = Callable[[Codes], FloatArray]

WIDTH_PX, HEIGHT_PX = 192, 128
_CAMERA = CameraSettings(full_well_e=40_000.0)
_NOISY_CAMERA = replace(_CAMERA, full_well_e=1_500.0)
_METRICS = (
    *("mu_psnr_db", "pu21_psnr_db", "unclipped_pu21_psnr_db", "clipped_error_stops", "peak_error_stops"),
    *("exposure_error_ev", "hue_shift_deg"),
)
_WALL = np.array([0.22, 0.25, 0.30], np.float32)


@dataclass(frozen=True)
class Scene:
    """A truth, (H, W, 3) float32 linear with 1.0 = clipping, and the picture taken of it."""

    name: str
    truth: FloatArray
    ldr: Codes


@dataclass(frozen=True)
class GateValues:
    """What a method scores on the set. Gains are over the sRGB decode, ratios are to its error; means over scenes.

    `worst_mu_psnr_gain_db` and `exposure_error_ev` are of the worst scene. `noise_left` is the share of its noise that
    a noisy picture keeps, `banding` that of a quantised gradient's output. `halo_stops` is the mean error on the flat
    wall around lamps, `seam_stops` the largest difference between tiled and untiled output, `dimmest_highlight` the
    lowest peak of a highlight over the brightest unclipped pixel. `white_tint_stops` is how far a large,
    neutral, clipped sky is from neutral in the output.
    """

    mu_psnr_gain_db: float
    worst_mu_psnr_gain_db: float
    pu21_psnr_gain_db: float
    unclipped_pu21_psnr_gain_db: float
    clipped_error_ratio: float
    peak_error_ratio: float
    exposure_error_ev: float
    hue_shift_deg: float
    noise_left: float
    banding: float
    halo_stops: float
    seam_stops: float
    dimmest_highlight: float
    white_tint_stops: float


@cache
def scenes() -> dict[str, Scene]:
    """The whole set by name."""
    rendered = render_scene(WIDTH_PX, HEIGHT_PX, seed=7)
    truths = {
        "scene -1.5 EV": (rendered * np.float32(2**-1.5), _CAMERA),
        "scene 0 EV": (rendered, _CAMERA),
        "scene +1.5 EV": (rendered * np.float32(2**1.5), _CAMERA),
        "scene noisy": (rendered * np.float32(2**-0.5), _NOISY_CAMERA),
        "lamps": (_lamps(), _CAMERA),
    }
    found = {
        name: Scene(name, truth, photograph(truth, settings, np.random.default_rng([7, number])).astype(np.uint8))
        for number, (name, (truth, settings)) in enumerate(truths.items())
    }
    gradient = np.linspace(0.10, 0.16, WIDTH_PX, dtype=np.float32)[None, :, None] * np.ones(
        (HEIGHT_PX, 1, 3), np.float32
    )
    noiseless = replace(_CAMERA, full_well_e=1e12, read_noise_e=0.0)
    found["gradient"] = Scene(
        "gradient", gradient, photograph(gradient, noiseless, np.random.default_rng(7)).astype(np.uint8)
    )
    return found


def _lamps() -> FloatArray:
    """A flat wall with round lamps of several sizes, brightnesses and colours, each with a soft edge."""
    rows, columns = np.mgrid[:HEIGHT_PX, :WIDTH_PX].astype(np.float32)
    image = np.broadcast_to(_WALL, (HEIGHT_PX, WIDTH_PX, 3)).copy()
    lamps = [
        (30, 30, 2.0, 40.0, (1.0, 0.9, 0.8)),
        (30, 95, 5.0, 6.0, (1.0, 0.7, 0.4)),
        (30, 160, 9.0, 15.0, (1.0, 1.0, 1.0)),
        (95, 35, 14.0, 3.0, (0.9, 1.0, 1.0)),
        (95, 100, 4.0, 200.0, (1.0, 0.8, 0.5)),
        (95, 160, 8.0, 2.0, (1.0, 0.5, 0.5)),
    ]
    for row, column, radius, peak, colour in lamps:
        distance = np.hypot(rows - row, columns - column)
        image += np.array(colour, np.float32) * (peak * np.exp(-((distance / radius) ** 4)))[..., None]
    return image


@cache
def white_sky() -> Scene:
    """A neutral overcast sky that clips all over, by up to 2.2 stops, above ground in three colours that could tint it.

    Apart from `scenes()`, whose means it would move; larger than them, so that the middle of the sky sees white alone.
    """
    height, width = 192, 256
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    clouds, grain = (gaussian_filter(rng.standard_normal((height, width)), sigma) for sigma in (12, 1))
    sky = 1.8 * np.exp2(0.4 * clouds / clouds.std())
    colours = np.array([[0.5, 0.8, 0.3], [1.0, 0.6, 0.4], [0.4, 0.6, 1.0]])
    ground = (0.25 * np.exp2(0.3 * grain / grain.std()))[..., None] * colours[(columns * 3 / width).astype(int)]
    is_ground = rows > 0.7 * height + 8 * np.sin(columns / 30)
    truth = np.where(is_ground[..., None], ground, sky[..., None]).astype(np.float32)
    return Scene("white sky", truth, photograph(truth, _CAMERA, np.random.default_rng(5)).astype(np.uint8))


def measure_weights(weights: str) -> GateValues:
    """Run the weights over the set in fp32 on the CPU, whole, and once more in tiles of 64 px."""
    whole, tiled = (
        InferenceEngine(
            build_network(load_weights(*read_weights(weights))),
            InferenceConfig(device="cpu", precision="fp32", tile_px=tile_px),
        )
        for tile_px in (None, 64)
    )

    def run_tiled(ldr: Codes) -> FloatArray:
        found = tiled.infer(ldr)
        assert found.info.num_tiles == 6, "or seams are not measured"
        return found.linear

    return measure_method(lambda ldr: whole.infer(ldr).linear, run_tiled)


def measure_method(run: Run, run_tiled: Run) -> GateValues:
    """Measure a method, a function from codes to linear light, and the same method working in tiles."""
    outputs = {name: run(scene.ldr) for name, scene in scenes().items()}
    ours = {name: evaluate_pair(s.ldr, outputs[name], s.truth, _METRICS) for name, s in scenes().items()}
    base = {name: evaluate_pair(s.ldr, srgb_decode(s.ldr), s.truth, _METRICS) for name, s in scenes().items()}

    def gains(metric: str) -> list[float]:
        return [ours[name][metric] - base[name][metric] for name in scenes() if name != "gradient"]

    def mean(values: dict[str, dict[str, float]], metric: str) -> float:
        return float(np.nanmean([found[metric] for found in values.values()]))

    noisy, gradient = scenes()["scene noisy"], scenes()["gradient"]
    return GateValues(
        mu_psnr_gain_db=float(np.mean(gains("mu_psnr_db"))),
        worst_mu_psnr_gain_db=min(gains("mu_psnr_db")),
        pu21_psnr_gain_db=float(np.mean(gains("pu21_psnr_db"))),
        unclipped_pu21_psnr_gain_db=float(np.mean(gains("unclipped_pu21_psnr_db"))),
        clipped_error_ratio=mean(ours, "clipped_error_stops") / mean(base, "clipped_error_stops"),
        peak_error_ratio=mean(ours, "peak_error_stops") / mean(base, "peak_error_stops"),
        exposure_error_ev=max(values["exposure_error_ev"] for values in ours.values()),
        hue_shift_deg=mean(ours, "hue_shift_deg"),
        noise_left=noise_left(build_pair(noisy.ldr, outputs[noisy.name], noisy.truth)),
        banding=banding(build_pair(gradient.ldr, outputs[gradient.name], gradient.truth)),
        halo_stops=halo_stops(scenes()["lamps"], outputs["lamps"]),
        seam_stops=seam_stops(run_tiled(scenes()["scene 0 EV"].ldr), outputs["scene 0 EV"]),
        dimmest_highlight=dimmest_highlight(scenes()["lamps"], outputs["lamps"]),
        white_tint_stops=white_tint_stops(white_sky(), run(white_sky().ldr)),
    )


def halo_stops(scene: Scene, output: FloatArray) -> float:
    """Mean |log2(output / truth)| of luminance on the flat wall within 12 px of a clipped area."""
    near = binary_dilation(clipped_area(scene.ldr), iterations=12)
    wall = np.abs(luminance(scene.truth) / luminance(_WALL[None, None]) - 1) < 0.02
    return float(np.abs(log_ratio(luminance(output), luminance(scene.truth)))[near & wall].mean())


def seam_stops(tiled: FloatArray, whole: FloatArray) -> float:
    """Largest |log2| between the luminance of the output in tiles and in one piece."""
    return float(np.abs(log_ratio(luminance(tiled), luminance(whole))).max())


def dimmest_highlight(scene: Scene, output: FloatArray) -> float:
    clipped, light = clipped_area(scene.ldr), luminance(output)
    highlights = find_highlights(clipped)
    assert len(highlights) == 6
    return min(robust_peak(light.reshape(-1)[pixels]) for pixels in highlights) / float(light[~clipped].max())


def white_tint_stops(scene: Scene, output: FloatArray) -> float:
    """Mean of the larger of |log2(red / green)| and |log2(blue / green)| where all channels of the input clip."""
    is_white = scene.ldr.min(axis=2) >= round(CLIPPED_FROM * 255)
    assert is_white.mean() > 0.6
    white = np.maximum(output[is_white], np.float32(FLOOR))
    return float(np.abs(np.log2(white[:, (0, 2)] / white[:, (1,)])).max(axis=1).mean())


if __name__ == "__main__":
    for field, value in asdict(measure_weights(sys.argv[1])).items():
        sys.stdout.write(f"{field:<30} {value:.4f}\n")
