from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import OpenEXR
import pytest
from hdr_scenes import make_panorama, write_exr
from numpy.typing import NDArray

from pipeline.codecs.color import REC709_CHROMATICITIES, srgb_to_linear
from pipeline.errors import SceneError
from pipeline.simulation.scenes import find_scenes, load_scene

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


REFUSED = {
    "nan": (spoilt(np.nan), "1 NaN or infinite"),
    "inf": (spoilt(np.inf), "1 NaN or infinite"),
    "ldr": (ldr_codes(), "LDR image in an HDR container"),
    "low range": (flat_and_noisy(), "under 6 stops"),
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
