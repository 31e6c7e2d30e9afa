"""The largest image that is asked for: 200 megapixels, in tiles, on what memory a worker gives itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import hdrfleet, rows_of
from fakes import tiny_network
from PIL import Image
from safetensors.torch import save_file

from pipeline.codecs.exr import decode_exr

SIDE_PX = 14_144  # 200.05 MP
# The picture repeats itself after this, so that outputs may be compared with one period of it, far from any border.
PERIOD_PX = 512


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_two_hundred_megapixels(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
    period = np.asarray(coarse.resize((PERIOD_PX, PERIOD_PX), Image.Resampling.BICUBIC))
    repeats = -(-SIDE_PX // PERIOD_PX)
    (tmp_path / "photos").mkdir()
    whole = Image.fromarray(np.tile(period, (repeats, repeats, 1))[:SIDE_PX, :SIDE_PX])
    whole.save(tmp_path / "photos/large.png", compress_level=1)
    del whole
    network = tiny_network(nf=2)
    save_file(dict(network.state_dict()), tmp_path / "tiny.safetensors")
    options = ("--weights", tmp_path / "tiny.safetensors", "--precision", "fp32", "--pixel-type", "float")
    run = hdrfleet(
        *("convert", tmp_path / "photos", tmp_path / "hdr", *options, "--executor", "local", "--quiet"),
        *("--compression", "none", "--memory-budget", "2GiB"),
        home=tmp_path / "home",
        timeout_s=1000,
    )
    assert run.returncode == 0, run.stderr
    (row,) = rows_of(tmp_path / "hdr")
    assert (row["status"], row["width"], row["height"]) == ("ok", SIDE_PX, SIDE_PX)
    assert int(str(row["tiles"])) > 1
    data = (tmp_path / "hdr" / str(row["output"])).read_bytes()
    assert hashlib.sha256(data).hexdigest() == row["output_sha256"]
    stored = decode_exr(data, (SIDE_PX, SIDE_PX)).image.pixels
    assert stored.shape == (SIDE_PX, SIDE_PX, 3)

    field = np.tile(period, (3, 3, 1))
    with torch.inference_mode():
        encoded = network(torch.from_numpy(field / np.float32(255)).permute(2, 0, 1)[None].contiguous())
    expected = encoded[0].permute(1, 2, 0).numpy().clip(0) ** np.float32(2.24)
    expected = expected[PERIOD_PX : 2 * PERIOD_PX, PERIOD_PX : 2 * PERIOD_PX]
    for top in range(PERIOD_PX, SIDE_PX - 2 * PERIOD_PX, PERIOD_PX):
        band = stored[top : top + PERIOD_PX, PERIOD_PX : PERIOD_PX * (repeats - 2)]
        repeated = np.tile(expected, (1, band.shape[1] // PERIOD_PX, 1))
        np.testing.assert_allclose(band, repeated, rtol=1e-4, atol=1e-5, err_msg=f"rows from {top} on")
