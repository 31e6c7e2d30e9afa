from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from jobs.camera import render_truths, save_exposures
from jobs.demo_scores import print_scores, score
from pipeline.codecs.color import linear_to_srgb, srgb_to_linear
from pipeline.evaluation.areas import clipped_area

SIZE = {"width": 96, "height": 64}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder: Path = tmp_path_factory.mktemp("photos")
    found = {}
    for path in save_exposures(folder, **SIZE):
        if path.name != "broken.jpg":
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                found[path.name] = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return found


def test_truths_are_what_the_pictures_show(pictures: dict[str, np.ndarray]) -> None:
    truths = render_truths(**SIZE)
    assert truths.keys() == pictures.keys() - {"detail_alpha.png"}
    for name, truth in truths.items():
        picture = pictures[name].astype(np.float32)
        assert truth.shape == picture.shape, name
        expected = linear_to_srgb(np.clip(truth, 0, 1)) * 255
        assert np.abs(picture - expected).mean() < 4, name
        assert np.abs(picture - expected[:, ::-1]).mean() > 12, "a mirrored truth is told apart"


def test_a_score_is_that_of_the_output_beside_the_srgb_decode(pictures: dict[str, np.ndarray]) -> None:
    name = "scene_0ev.jpg"
    picture, truth = pictures[name], render_truths(**SIZE)[name]
    decoded = srgb_to_linear(picture.astype(np.float32) / 255)
    assert clipped_area(picture).any()
    same = score(name, picture, decoded.astype(np.float16), truth)
    assert same.mu_psnr_db == pytest.approx(same.srgb_mu_psnr_db, abs=0.05)
    assert same.clipped_error_stops == pytest.approx(same.srgb_clipped_error_stops, abs=0.01)
    perfect = score(name, picture, truth, truth)
    assert perfect.mu_psnr_db > same.mu_psnr_db + 20
    assert perfect.clipped_error_stops == 0 < perfect.srgb_clipped_error_stops
    assert perfect.note() == (
        f"mu-PSNR 99.0 dB (sRGB decode {perfect.srgb_mu_psnr_db:.1f}), "
        f"clipped area 0.00 stops off ({perfect.srgb_clipped_error_stops:.2f})"
    )


def test_where_nothing_is_clipped_there_is_no_clipped_error(capsys: pytest.CaptureFixture[str]) -> None:
    picture = np.full((16, 16, 3), 100, np.uint8)
    picture[:8] = 50
    found = score("gray.png", picture, srgb_to_linear(picture / np.float32(255)), np.full((16, 16, 3), 0.1, np.float32))
    assert np.isnan(found.clipped_error_stops)
    assert "clipped" not in found.note()
    print_scores([found])
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[0] == "gray.png"
    assert row[-2:] == ["-", "-"]
