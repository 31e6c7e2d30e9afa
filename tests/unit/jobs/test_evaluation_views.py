"""Views for evaluation: fixed by the seed, and bad input refused by name."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import OpenEXR
import pytest
from hdr_scenes import make_panorama, write_exr, write_scenes
from photographs import jpeg, picture, png

from jobs.evaluation_views import PairedFiles, SimulatedViews
from pipeline.errors import ConfigError, SceneError


def test_views_depend_on_seed_scene_and_number_alone(tmp_path: Path) -> None:
    write_scenes(tmp_path, 2)
    few = list(SimulatedViews(tmp_path, views_per_scene=1, view_px=64, seed=5))
    write_exr(tmp_path / "0_new.exr", make_panorama(9))
    more = {view.name: view for view in SimulatedViews(tmp_path, views_per_scene=2, view_px=64, seed=5)}
    assert len(more) == 6
    for view in few:
        assert (more[view.name].ldr == view.ldr).all()
        assert (more[view.name].truth == view.truth).all()
    other = next(iter(SimulatedViews(tmp_path, views_per_scene=1, view_px=64, seed=6)))
    assert (other.ldr != more[other.name].ldr).any()


def test_views_have_the_contract(tmp_path: Path) -> None:
    write_scenes(tmp_path, 1)
    source = SimulatedViews(tmp_path, views_per_scene=3, view_px=64)
    views = list(source)
    assert len(views) == source.num_views == 3
    assert [view.name for view in views] == ["a_place#0", "a_place#1", "a_place#2"]
    assert {view.scene for view in views} == {"a_place"}
    for view in views:
        assert view.ldr.shape == view.truth.shape == (64, 64, 3)
        assert (view.ldr.dtype, view.truth.dtype) == (np.uint8, np.float32)
    assert source.describe()["scenes"] == ["a_place"]


def test_the_split_chooses_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path, 4)
    kept = ("b_place", "d_place")
    held = SimulatedViews(tmp_path, subset="holdout", holdout=kept)
    learnt = SimulatedViews(tmp_path, subset="train", holdout=kept)
    assert held.describe()["scenes"] == ["b_place", "d_place"]
    assert learnt.describe()["scenes"] == ["a_place", "c_place"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"views_per_scene": 0}, "--views-per-scene"),
        ({"view_px": 30}, "--view-px"),
        ({"view_px": 65}, "--view-px"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_bad_numbers_name_the_option(tmp_path: Path, options: dict[str, int], says: str) -> None:
    write_scenes(tmp_path, 1)
    with pytest.raises(ConfigError, match=says):
        SimulatedViews(tmp_path, **options)  # type: ignore[arg-type]


def test_a_bad_scene_is_named(tmp_path: Path) -> None:
    write_exr(tmp_path / "flat.exr", np.ones((64, 128, 3), np.float32))
    with pytest.raises(SceneError, match=r"flat\.exr"):
        list(SimulatedViews(tmp_path))


def test_pairs_by_stem_in_subfolders_and_several_formats(tmp_path: Path) -> None:
    pixels = picture(20, 30)
    truth = np.random.default_rng(0).uniform(0, 3, (20, 30, 3)).astype(np.float32)
    write_exr(tmp_path / "a.exr", truth)
    (tmp_path / "a.png").write_bytes(png(pixels))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.hdr").write_bytes(imagecodecs.rgbe_encode(truth, header=True))
    (tmp_path / "sub/b.jpg").write_bytes(jpeg(pixels))
    (tmp_path / "alone.exr").write_bytes((tmp_path / "a.exr").read_bytes())
    source = PairedFiles(tmp_path)
    views = {view.name: view for view in source}
    assert source.num_views == 2
    assert source.left_out == ("alone",)
    assert set(views) == {"a", "sub/b"}
    assert (views["a"].ldr == pixels).all()
    assert views["a"].truth == pytest.approx(truth)
    assert views["sub/b"].truth == pytest.approx(truth, abs=0.02)
    assert views["a"].scene == "a"


def refuse(folder: Path, says: str) -> None:
    with pytest.raises(SceneError, match=says):
        list(PairedFiles(folder))


def test_pairs_that_cannot_be_used(tmp_path: Path) -> None:
    refuse(tmp_path / "missing", "no such folder")
    refuse(tmp_path, "no pairs")
    (tmp_path / "a.png").write_bytes(png(picture(20, 30)))
    refuse(tmp_path, r"no HDR file of the same name for a\.png")
    write_exr(tmp_path / "a.exr", np.ones((30, 20, 3), np.float32))
    refuse(tmp_path, r"a\.exr: 20x30 px, but a\.png has 30x20 px")
    write_exr(tmp_path / "a.exr", np.full((20, 30, 3), np.nan, np.float32))
    refuse(tmp_path, r"a\.exr: holds NaN")
    (tmp_path / "a.exr").write_bytes(b"nothing")
    refuse(tmp_path, r"a\.exr: cannot be read")
    write_exr(tmp_path / "a.exr", np.ones((20, 30, 3), np.float32))
    (tmp_path / "a.png").write_bytes(png(picture(20, 30))[:200])
    refuse(tmp_path, r"a\.png: cannot be read")
    (tmp_path / "a.jpg").write_bytes(jpeg(picture(20, 30)))
    refuse(tmp_path, r"a\.png: a\.jpg has the same name")


def test_of_two_truths_neither_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(20, 30)))
    write_exr(tmp_path / "a.exr", np.ones((20, 30, 3), np.float32))
    (tmp_path / "a.hdr").write_bytes(imagecodecs.rgbe_encode(np.ones((20, 30, 3), np.float32), header=True))
    refuse(tmp_path, r"a\.hdr: a\.exr has the same name")


def test_truths_in_other_spaces_than_rec709_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(20, 30)))
    ones = np.ones((20, 30, 3), np.float32)
    aces = (0.7347, 0.2653, 0.0, 1.0, 0.0001, -0.077, 0.32168, 0.33767)
    OpenEXR.File({"type": OpenEXR.scanlineimage, "chromaticities": aces}, {"RGB": ones}).write(str(tmp_path / "a.exr"))
    refuse(tmp_path, r"a\.exr: its primaries are not those of Rec\.709")
    (tmp_path / "a.exr").unlink()
    encoded = imagecodecs.rgbe_encode(ones, header=True)
    (tmp_path / "a.hdr").write_bytes(encoded.replace(b"32-bit_rle_rgbe", b"32-bit_rle_xyze"))
    refuse(tmp_path, r"a\.hdr: holds CIE XYZ")
