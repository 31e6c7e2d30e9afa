from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import OpenEXR
import pytest
from hdr_scenes import make_panorama, write_exr
from numpy.typing import NDArray

from pipeline.codecs.color import REC709_CHROMATICITIES, linear_to_srgb, luminance, srgb_to_linear
from pipeline.errors import SceneError
from pipeline.simulation.scenes import find_scenes, load_scene, read_linear
from pipeline.simulation.views import box_downscale

ACES_AP0 = (0.7347, 0.2653, 0.0, 1.0, 0.0001, -0.077, 0.32168, 0.33767)


def photograph(height: int = 72, width: int = 96) -> NDArray[np.float32]:
    return np.exp2(np.random.default_rng(1).uniform(-6, 6, (height, width, 3))).astype(np.float32)


def radiance(pixels: NDArray[np.float32]) -> bytes:
    return bytes(imagecodecs.rgbe_encode(pixels, out=pixels.nbytes))


def write_channels(path: Path, channels: dict[str, NDArray[np.float32]], **header: object) -> None:
    OpenEXR.File({"type": OpenEXR.scanlineimage, **header}, channels).write(str(path))


def spoilt(value: float) -> NDArray[np.float32]:
    pixels = photograph()
    pixels[5, 7, 1] = value
    return pixels


def ldr_codes() -> NDArray[np.float32]:
    codes = np.random.default_rng(0).integers(0, 256, (72, 96, 3))
    return srgb_to_linear(codes.astype(np.float32) / 255)


def flat_and_noisy() -> NDArray[np.float32]:
    return np.exp2(np.random.default_rng(0).uniform(-2.9, 2.9, (72, 96, 1)) + np.zeros(3)).astype(np.float32)


def linearised_photograph(fine: int) -> NDArray[np.float32]:
    """An 8-bit picture of a bright sky, decoded, then averaged over blocks: thousands of values, 9 stops, clipped."""
    rng = np.random.default_rng(3)
    height, width = 96 * fine, 192 * fine
    sky = np.linspace(1.15, -8, height)[:, None, None] + rng.normal(0, 0.05, (height, width, 3))
    codes = np.rint(np.clip(linear_to_srgb(np.exp2(sky).astype(np.float32)), 0, 1) * 255)
    return box_downscale(srgb_to_linear(codes.astype(np.float32) / 255), fine)


REFUSED = {
    "nan": (spoilt(np.nan), "1 NaN or infinite"),
    "inf": (spoilt(np.inf), "1 NaN or infinite"),
    "ldr": (ldr_codes(), "LDR image in an HDR container"),
    "low range": (flat_and_noisy(), "under 6 stops"),
    "clipped": (linearised_photograph(2), r"1\d\.\d% of the pixels are as bright as its maximum"),
    "clipped, four times as fine": (linearised_photograph(4), "of the pixels are as bright as its maximum"),
    "clipped and scaled": (linearised_photograph(2) * np.float32(37.0), "of the pixels are as bright as its maximum"),
    "black": (np.zeros((72, 96, 3), np.float32), "LDR image in an HDR container"),
    "flat height": (photograph(63, 200), "at least 64 x 64"),
    "narrow": (photograph(200, 63), "at least 64 x 64"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_bad_pixels_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    pixels, reason = REFUSED[fault]
    path = tmp_path / "scene.exr"
    write_exr(path, pixels)
    with pytest.raises(SceneError, match=reason) as caught:
        load_scene(path, "scene")
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_clipped_picture_passes_every_other_test() -> None:
    pixels = linearised_photograph(2)
    assert np.unique(pixels[..., 1]).size > 1000
    light = luminance(pixels)
    assert np.log2(light.max() / np.percentile(light, 0.1)) > 8


@pytest.mark.parametrize("radius_px", [1, 2, 3])
def test_a_small_sun_is_no_clipping(radius_px: int, tmp_path: Path) -> None:
    """A disc of one value: 29 pixels at most of 8,192, 0.35 %. The sun itself is 0.0005 % of a panorama."""
    pixels = make_panorama(width=128)
    rows, columns = np.mgrid[:64, :128]
    pixels[np.hypot(rows - 20, columns - 40) <= radius_px] = 50_000
    write_exr(tmp_path / "sun.exr", pixels)
    assert load_scene(tmp_path / "sun.exr", "sun").pixels.max() == 50_000


@pytest.mark.parametrize(("num_px", "is_clipped"), [(34, False), (35, True)])
def test_half_a_percent_at_the_maximum_decides(num_px: int, is_clipped: bool, tmp_path: Path) -> None:
    pixels = photograph(72, 96)  # 6,912 pixels
    pixels[0, :num_px, 0] = 1000 * np.linspace(0.9985, 1, num_px)
    write_exr(tmp_path / "scene.exr", pixels)
    if is_clipped:
        with pytest.raises(SceneError, match="as bright as its maximum"):
            load_scene(tmp_path / "scene.exr", "scene")
    else:
        load_scene(tmp_path / "scene.exr", "scene")


@pytest.mark.parametrize("stops", [5.9, 6.2])
def test_the_dynamic_range_decides_at_six_stops(stops: float, tmp_path: Path) -> None:
    grey = np.exp2(np.linspace(0, stops, 96 * 72)).reshape(72, 96, 1) + np.zeros(3)
    write_exr(tmp_path / "scene.exr", grey)
    if stops < 6:
        with pytest.raises(SceneError, match="6 stops"):
            load_scene(tmp_path / "scene.exr", "scene")
    else:
        assert load_scene(tmp_path / "scene.exr", "scene").pixels.max() == pytest.approx(2**stops)


def test_bytes_that_are_no_image_are_refused(tmp_path: Path) -> None:
    write_exr(tmp_path / "whole.exr", photograph())
    whole = (tmp_path / "whole.exr").read_bytes()
    whole_radiance = radiance(photograph())
    files = {
        "empty.exr": b"",
        "garbage.exr": b"\x76\x2f\x31\x01 but no more",
        "cut.exr": whole[: len(whole) // 2],
        "empty.hdr": b"",
        "garbage.hdr": b"#?RADIANCE\nno image",
        "cut.hdr": whole_radiance[: len(whole_radiance) // 2],
        "jpeg.pic": b"\xff\xd8\xff\xe0",
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(SceneError, match="cannot be read as an HDR image") as caught:
            load_scene(path, name)
        assert str(path) in str(caught.value)


def test_a_file_that_is_gone_is_a_scene_error(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"absent\.exr"):
        load_scene(tmp_path / "absent.exr", "absent")


def test_a_gray_exr_is_refused_and_alpha_is_left_out(tmp_path: Path) -> None:
    pixels = photograph()
    write_channels(tmp_path / "gray.exr", {"Y": pixels[..., 0].copy()})
    with pytest.raises(SceneError, match=r"gray\.exr"):
        load_scene(tmp_path / "gray.exr", "gray")
    write_channels(tmp_path / "alpha.exr", {"RGB": pixels, "A": np.full(pixels.shape[:2], 0.5, np.float32)})
    np.testing.assert_array_equal(load_scene(tmp_path / "alpha.exr", "alpha").pixels, pixels)


def test_primaries_other_than_rec709_are_refused(tmp_path: Path) -> None:
    pixels = photograph()
    write_channels(tmp_path / "stated.exr", {"RGB": pixels}, chromaticities=REC709_CHROMATICITIES)
    np.testing.assert_array_equal(load_scene(tmp_path / "stated.exr", "stated").pixels, pixels)
    write_channels(tmp_path / "aces.exr", {"RGB": pixels}, chromaticities=ACES_AP0)
    with pytest.raises(SceneError, match=r"aces\.exr: its primaries"):
        load_scene(tmp_path / "aces.exr", "aces")
    (tmp_path / "xyz.hdr").write_bytes(radiance(pixels).replace(b"32-bit_rle_rgbe", b"32-bit_rle_xyze"))
    with pytest.raises(SceneError, match=r"xyz\.hdr: holds CIE XYZ"):
        load_scene(tmp_path / "xyz.hdr", "xyz")


def with_variables(pixels: NDArray[np.float32], *lines: bytes) -> bytes:
    """A Radiance file with these lines in its header."""
    return radiance(pixels).replace(b"FORMAT=", b"".join(line + b"\n" for line in lines) + b"FORMAT=", 1)


@pytest.mark.parametrize(
    ("line", "is_rec709"),
    [
        (b"PRIMARIES=0.640 0.330 0.300 0.600 0.150 0.060 0.3127 0.3290", True),
        (b"PRIMARIES= .708 .292 .170 .797 .131 .046 .3127 .3290", False),
        (b"PRIMARIES=0.640 0.330 0.290 0.600 0.150 0.060 0.333 0.333", False),
        (b"PRIMARIES=0.64 0.33", False),
    ],
    ids=["rec709", "rec2020", "radiance's own", "two numbers"],
)
def test_primaries_of_radiance_files_are_read(line: bytes, is_rec709: bool, tmp_path: Path) -> None:
    path = tmp_path / "stated.hdr"
    path.write_bytes(with_variables(photograph(), line))
    if is_rec709:
        load_scene(path, "stated")
    else:
        with pytest.raises(SceneError, match=r"stated\.hdr: its primaries"):
            load_scene(path, "stated")


def test_exposure_and_colour_correction_of_radiance_files_are_undone(tmp_path: Path) -> None:
    (tmp_path / "plain.hdr").write_bytes(radiance(photograph()))
    (tmp_path / "pulled.hdr").write_bytes(
        with_variables(photograph(), b"EXPOSURE=4.0", b"# EXPOSURE=3", b"EXPOSURE= 0.5", b"COLORCORR=1 2 0.5")
    )
    plain, pulled = (read_linear(tmp_path / f"{name}.hdr") for name in ("plain", "pulled"))
    np.testing.assert_allclose(pulled, plain / np.float32([2, 4, 1]), rtol=1e-6)


@pytest.mark.parametrize("value", [b"0", b"-1", b"nan", b"1 2", b"bright"])
def test_a_factor_that_is_none_is_refused(value: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.hdr").write_bytes(with_variables(photograph(), b"EXPOSURE=" + value))
    with pytest.raises(SceneError, match=r"odd\.hdr"):
        read_linear(tmp_path / "odd.hdr")


def test_samples_that_no_light_has_are_refused(tmp_path: Path) -> None:
    pixels = photograph()
    pixels[5, 5, 1] = 3.3e38
    write_exr(tmp_path / "wild.exr", pixels)
    with pytest.raises(SceneError, match=r"wild\.exr: its largest sample is 3\.3e\+38"):
        load_scene(tmp_path / "wild.exr", "wild")


def test_pixels_are_kept_as_they_are_but_for_negative_ones(tmp_path: Path) -> None:
    half = photograph().astype(np.float16)
    half[3, 4] = [-1.0, 2.0, -0.25]
    write_channels(tmp_path / "half.exr", {"RGB": half})
    scene = load_scene(tmp_path / "half.exr", "night/half")
    assert scene.name == "night/half"
    assert scene.pixels.dtype == np.float32
    assert scene.pixels.flags.c_contiguous
    np.testing.assert_array_equal(scene.pixels, np.maximum(half, 0).astype(np.float32))


@pytest.mark.parametrize("suffix", [".hdr", ".HDR", ".pic"])
def test_radiance_keeps_its_eight_bits_below_the_largest_channel(suffix: str, tmp_path: Path) -> None:
    pixels = photograph()
    (tmp_path / f"scene{suffix}").write_bytes(radiance(pixels))
    loaded = load_scene(tmp_path / f"scene{suffix}", "scene").pixels
    # A mantissa step is 2**-7 of the largest channel at most (Ward, "Real Pixels", Graphics Gems II, 1991).
    assert (np.abs(loaded - pixels) <= pixels.max(axis=2, keepdims=True) * 2.0**-7).all()


@pytest.mark.parametrize(
    ("height", "width", "is_panorama"), [(100, 200, True), (500, 1000, True), (100, 150, False), (100, 203, False)]
)
def test_twice_as_wide_as_high_is_a_panorama(height: int, width: int, is_panorama: bool, tmp_path: Path) -> None:
    write_exr(tmp_path / "scene.exr", photograph(height, width))
    assert load_scene(tmp_path / "scene.exr", "scene").is_panorama is is_panorama


def test_scenes_are_found_in_order_and_named_by_their_path(tmp_path: Path) -> None:
    for name in ("b.exr", "sub/a.EXR", "a.exr"):
        write_exr(tmp_path / name, make_panorama())
    for name in ("notes.txt", "a.jpg", "sub/index.csv"):
        (tmp_path / name).write_text("no scene")
    (tmp_path / "folder.exr").mkdir()
    found = find_scenes(tmp_path)
    names = {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()}
    assert names == {"a": "a.exr", "b": "b.exr", "sub/a": "sub/a.EXR"}
    assert list(found) == sorted(found)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.exr", "b.exr", "a.hdr"):
        (tmp_path / name).touch()
    with pytest.raises(SceneError, match=r"a\.hdr: a\.exr has the same name"):
        find_scenes(tmp_path)


def test_a_folder_without_scenes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no OpenEXR or Radiance files"):
        find_scenes(tmp_path)
    with pytest.raises(SceneError, match="no such folder"):
        find_scenes(tmp_path / "absent")


def test_real_scenes_are_accepted(shared_data: Path) -> None:
    folder = shared_data / "hdri"
    if not folder.is_dir():
        pytest.skip(f"no real HDR images at {folder}")
    scenes = [load_scene(path, name) for name, path in list(find_scenes(folder).items())[::6]]
    assert scenes
    assert {scene.is_panorama for scene in scenes} == {True, False}
