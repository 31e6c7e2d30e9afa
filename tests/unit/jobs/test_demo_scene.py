from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from jobs.camera import CameraSettings, photograph, save_exposures
from jobs.demo_scene import LAMP_CENTRE, MEDIAN_LUMINANCE, project, render_scene
from jobs.demo_sky import SUN_AZIMUTH_DEG, SUN_ELEVATION_DEG, direction_from_angles
from pipeline.codecs.color import luminance, srgb_to_linear

WIDTH, HEIGHT = 288, 192
NOISELESS = CameraSettings(full_well_e=1e12, read_noise_e=0.0, white_balance=(1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def scene() -> NDArray[np.float32]:
    return render_scene(WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def exposures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exposures") / "new" / "folder"
    return {path.name: path for path in save_exposures(folder, width=WIDTH, height=HEIGHT)}


def patch_around(scene: NDArray[np.float32], point: tuple[float, float, float], radius_px: int) -> NDArray[np.float32]:
    x, y = (round(value) for value in project(point, WIDTH, HEIGHT))
    return luminance(scene)[y - radius_px : y + radius_px + 1, x - radius_px : x + radius_px + 1]


def sun_point() -> tuple[float, float, float]:
    x, y, z = (10_000.0 * direction_from_angles(SUN_AZIMUTH_DEG, SUN_ELEVATION_DEG)[:, 0]).tolist()
    return x, y, z


def test_scene_is_physical_and_normalised(scene: NDArray[np.float32]) -> None:
    assert scene.shape == (HEIGHT, WIDTH, 3)
    assert scene.dtype == np.float32
    assert np.isfinite(scene).all()
    assert scene.min() > 0.0
    assert np.median(luminance(scene)) == pytest.approx(MEDIAN_LUMINANCE, rel=1e-4)


def test_scene_spans_more_than_14_stops_between_robust_percentiles(scene: NDArray[np.float32]) -> None:
    low, high = np.percentile(luminance(scene), [0.1, 99.9])
    assert np.log2(high / low) > 14.0


def test_sun_reaches_thousands_times_mid_gray_where_it_is_projected(scene: NDArray[np.float32]) -> None:
    brightest = np.unravel_index(luminance(scene).argmax(), (HEIGHT, WIDTH))
    x, y = project(sun_point(), WIDTH, HEIGHT)
    assert np.hypot(brightest[1] - x, brightest[0] - y) < 6.0
    assert luminance(scene).max() > 1000 * MEDIAN_LUMINANCE


@pytest.mark.parametrize(("point", "radius_px"), [(sun_point(), 8), (LAMP_CENTRE, 5)], ids=["sun", "lamp"])
def test_lights_clip_at_0_ev_and_have_structure_at_minus_4_ev(
    scene: NDArray[np.float32], point: tuple[float, float, float], radius_px: int
) -> None:
    patch = patch_around(scene, point, radius_px)
    assert np.percentile(patch, 25) > 0.7, "the light and its surroundings are not bright"
    pulled_down = patch / 16.0
    assert pulled_down.max() > 1.0, "the core should still clip"
    assert pulled_down.min() < 0.3, "core and surroundings are one thing at -4 EV"


def test_doorway_is_deep_shadow_with_detail(scene: NDArray[np.float32]) -> None:
    doorway = patch_around(scene, (2.55, 1.1, 3.0), 8)
    assert doorway.max() < MEDIAN_LUMINANCE / 2**4
    assert np.log2(doorway.max() / doorway.min()) > 0.5


def test_another_seed_gives_another_sky_and_the_same_seed_the_same_scene(scene: NDArray[np.float32]) -> None:
    small = render_scene(48, 32, seed=7)
    np.testing.assert_array_equal(small, render_scene(48, 32, seed=7))
    assert not np.allclose(small, render_scene(48, 32, seed=8), rtol=1e-3)


def test_resolution_does_not_change_what_is_seen(scene: NDArray[np.float32]) -> None:
    half = render_scene(WIDTH // 2, HEIGHT // 2)
    reduced = scene.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3))
    ratio = np.log2(luminance(half) / luminance(reduced))
    assert abs(np.median(ratio)) < 0.05
    assert np.percentile(np.abs(ratio), 90) < 0.5


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (2, 7)])
def test_tiny_scenes_render(width: int, height: int) -> None:
    assert np.isfinite(render_scene(width, height)).all()


@pytest.mark.parametrize(("width", "height"), [(0, 4), (4, 0), (-1, 4)])
def test_empty_scenes_are_refused(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="at least 1 x 1"):
        render_scene(width, height)


@pytest.mark.parametrize("exposure_ev", [-2.0, 0.0, 1.5])
def test_noiseless_photograph_is_the_srgb_curve_of_the_exposed_scene(exposure_ev: float) -> None:
    levels = np.linspace(0.0, 2.0, 3 * 64, dtype=np.float32).reshape(8, 8, 3)
    settings = CameraSettings(exposure_ev, NOISELESS.full_well_e, 0.0, (1.0, 1.0, 1.0), bit_depth=16)
    codes = photograph(levels, settings, np.random.default_rng(0))
    assert codes.dtype == np.uint16
    expected = np.minimum(levels * 2.0**exposure_ev, 1.0)
    np.testing.assert_allclose(srgb_to_linear(codes / np.float32(65535)), expected, atol=5e-5)


@pytest.mark.parametrize("signal", [0.06, 0.2, 0.7])
def test_noise_follows_the_stated_variance(signal: float) -> None:
    full_well_e, read_noise_e, gains = 2000.0, 12.0, (2.0, 1.0, 1.5)
    settings = CameraSettings(0.0, full_well_e, read_noise_e, gains, bit_depth=16)
    flat = np.full((200, 200, 3), signal, dtype=np.float32)
    linear = srgb_to_linear(photograph(flat, settings, np.random.default_rng(3)) / np.float32(65535))
    for channel, gain in enumerate(gains):
        charge = signal / gain
        sigma = gain * np.sqrt(charge / full_well_e + (read_noise_e / full_well_e) ** 2)
        assert linear[..., channel].std() == pytest.approx(sigma, rel=0.03)
        assert linear[..., channel].mean() == pytest.approx(signal, rel=0.01)


def test_what_is_far_above_clipping_is_exactly_white() -> None:
    bright = np.full((16, 16, 3), 3000.0, dtype=np.float32)
    codes = photograph(bright, CameraSettings(), np.random.default_rng(0))
    assert codes.dtype == np.uint8
    assert (codes == 255).all()


@pytest.mark.parametrize(
    "wrong",
    [{"full_well_e": 0.0}, {"read_noise_e": -1.0}, {"white_balance": (0.5, 1.0, 1.0)}, {"bit_depth": 10}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_cameras_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        CameraSettings(**wrong)


def test_exposures_have_the_stated_formats(exposures: dict[str, Path]) -> None:
    portrait_px = HEIGHT, round(WIDTH * 4 / 9)
    expected = {
        "scene_-2ev.jpg": ("JPEG", "RGB", (WIDTH, HEIGHT)),
        "scene_0ev.jpg": ("JPEG", "RGB", (WIDTH, HEIGHT)),
        "scene_+2ev.jpg": ("JPEG", "RGB", (WIDTH, HEIGHT)),
        "scene_0ev.png": ("PNG", "RGB", (WIDTH, HEIGHT)),
        "scene_0ev_16bit.png": ("PNG", "RGB", (WIDTH, HEIGHT)),
        "portrait_exif6.jpg": ("JPEG", "RGB", portrait_px),
        "detail_alpha.png": ("PNG", "RGBA", (55, 55)),
        "broken.jpg": ("JPEG", "RGB", (WIDTH, HEIGHT)),
    }
    found = {}
    for name, path in exposures.items():
        with Image.open(path) as image:
            found[name] = (image.format, image.mode, image.size)
    assert found == expected


@pytest.mark.parametrize("exposure_ev", [-2, 2])
def test_exif_exposure_times_agree_with_the_pixels(exposures: dict[str, Path], exposure_ev: int) -> None:
    name = f"scene_{exposure_ev:+d}ev.jpg"
    times_s, pictures = [], []
    for path in (exposures["scene_0ev.jpg"], exposures[name]):
        with Image.open(path) as image:
            capture = image.getexif().get_ifd(ExifTags.IFD.Exif)
            times_s.append(Fraction(float(capture[ExifTags.Base.ExposureTime])))
            pictures.append(srgb_to_linear(np.asarray(image, dtype=np.float32) / np.float32(255)))
    assert times_s[1] / times_s[0] == Fraction(2) ** exposure_ev
    usable = np.all([(picture > 0.05) & (picture < 0.8) for picture in pictures], axis=0)
    assert usable.sum() > 500
    assert np.median(pictures[1][usable] / pictures[0][usable]) == pytest.approx(2.0**exposure_ev, rel=0.05)


def test_capture_metadata_is_complete(exposures: dict[str, Path]) -> None:
    with Image.open(exposures["scene_0ev.jpg"]) as image:
        exif = image.getexif()
    capture, base = exif.get_ifd(ExifTags.IFD.Exif), ExifTags.Base
    assert (exif[base.Make], exif[base.Model]) == ("hdrfleet", "Simulated Camera")
    assert capture[base.FNumber] == 8
    assert capture[base.ISOSpeedRatings] == 100
    assert capture[base.FocalLength] == 35
    assert capture[base.DateTimeOriginal] == "2026:06:21 20:41:00"
    assert capture[base.OffsetTimeOriginal] == "+02:00"


def test_portrait_stands_upright_only_after_its_orientation(exposures: dict[str, Path]) -> None:
    with Image.open(exposures["scene_0ev.png"]) as image:
        whole = np.asarray(image, dtype=np.float32)
    upright_part = whole[:, round(WIDTH * (1 - 4 / 9)) :]
    with Image.open(exposures["portrait_exif6.jpg"]) as image:
        assert image.getexif()[ExifTags.Base.Orientation] == 6
        turned = np.asarray(ImageOps.exif_transpose(image), dtype=np.float32)
    assert turned.shape == upright_part.shape
    assert np.abs(turned - upright_part).mean() < 4.0
    assert np.abs(turned[::-1, ::-1] - upright_part).mean() > 20.0


def test_16_bit_picture_really_has_more_than_8_bits(exposures: dict[str, Path]) -> None:
    deep = imagecodecs.png_decode(exposures["scene_0ev_16bit.png"].read_bytes())
    assert deep.dtype == np.uint16
    assert np.unique(deep).size > 10_000
    with Image.open(exposures["scene_0ev.png"]) as image:
        shallow = np.asarray(image, dtype=np.float32)
    assert np.abs(deep / 257.0 - shallow).mean() < 4.0


def test_alpha_runs_from_opaque_to_transparent_around_the_lamp(exposures: dict[str, Path]) -> None:
    with Image.open(exposures["detail_alpha.png"]) as image:
        alpha = np.asarray(image)[..., 3]
        lamp = np.asarray(image)[24:31, 24:31, :3]
    assert alpha[27, 27] == 255
    assert (alpha[[0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()
    assert ((alpha > 0) & (alpha < 255)).sum() > 100
    assert (lamp == 255).all(axis=-1).mean() > 0.5


def test_broken_picture_ends_in_the_middle_of_its_pixels(exposures: dict[str, Path]) -> None:
    broken, whole = exposures["broken.jpg"].read_bytes(), exposures["scene_0ev.jpg"].read_bytes()
    assert whole.startswith(broken)
    assert broken.index(b"\xff\xda") < len(broken) - 1000, "the cut lies before the scan"
    with Image.open(io.BytesIO(broken)) as image, pytest.raises(OSError, match="truncated"):
        image.load()


def test_same_seed_writes_the_same_bytes(exposures: dict[str, Path], tmp_path: Path) -> None:
    again = save_exposures(tmp_path, width=WIDTH, height=HEIGHT)
    assert {path.name: path.read_bytes() for path in again} == {n: p.read_bytes() for n, p in exposures.items()}
