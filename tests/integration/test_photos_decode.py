"""Every file of the real test photographs: decoded with the right facts, or failed with the right code.

The table is complete in both directions: a file without a row, or a row without a file, fails.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import hdrfleet_here
from fakes import FakeEngine
from PIL import Image

from pipeline.codecs.exr import decode_exr
from pipeline.codecs.ldr import decode_ldr, estimate_decoded_bytes, probe_ldr
from pipeline.config import DecodeConfig, StorageConfig, build_config
from pipeline.convert import ShardConverter
from pipeline.errors import ImageError
from pipeline.manifest import open_manifest
from pipeline.records import Provenance
from pipeline.sharding import open_source, plan_shards, source_store
from pipeline.storage import ObjectStore, open_store

LIMITS = DecodeConfig()


@dataclass(frozen=True)
class Expected:
    """`code` is None where the file decodes; sizes are in pixels after orientation."""

    code: str | None = None
    format: str = "jpeg"
    width: int = 0
    height: int = 0
    mode: str = "RGB"
    bit_depth: int = 8
    orientation: int = 1
    icc_profile: str | None = None
    has_alpha: bool = False
    num_frames: int = 1
    warnings: tuple[str, ...] = ()


def jpeg(width: int, height: int, **facts: object) -> Expected:
    return Expected(width=width, height=height, **facts)


def png(width: int, height: int, **facts: object) -> Expected:
    return Expected(format="png", width=width, height=height, **facts)


SRGB = "sRGB IEC61966-2.1"
PHOTOS = {
    "corrupt/pillow_broken.png": Expected("decode_corrupt"),
    "corrupt/pillow_broken_data_stream.png": Expected("decode_corrupt"),
    # Its APP14 segment is one byte short; the pixels are whole.
    "corrupt/pillow_truncated_app14.jpg": jpeg(100, 100, icc_profile=SRGB, warnings=("junk_in_header",)),
    "corrupt/pillow_truncated_end_chunk.png": Expected("decode_truncated"),
    "corrupt/pillow_truncated_jpeg.jpg": Expected("decode_truncated"),
    # Its profile is damaged, and has a wrong checksum.
    "corrupt/pillow_unknown_compression_method.png": png(
        57, 57, mode="RGBA", has_alpha=True, warnings=("icc_invalid",)
    ),
    "derived/empty.jpg": Expected("empty"),
    "derived/one_pixel.png": png(1, 1),
    "derived/strip_2048x7.jpg": jpeg(2048, 7),
    "derived/tahoe_16bit_1001x751.png": png(1001, 751, bit_depth=16),
    "derived/tahoe_cmyk.jpg": jpeg(2048, 1536, mode="CMYK", warnings=("cmyk_without_profile",)),
    "derived/tahoe_gray_progressive.jpg": jpeg(2048, 1536, mode="L"),
    "derived/tahoe_half_truncated.jpg": Expected("decode_truncated"),
    "derived/tahoe_odd_1801x1203.jpg": jpeg(1801, 1203),
    "derived/tahoe_rgba.png": png(900, 675, mode="RGBA", has_alpha=True),
    "formats/libvips_indexed.png": png(290, 442, mode="P"),
    "formats/libvips_sample.jpg": jpeg(290, 442, icc_profile="Artifex Software A98 ICC Profile"),
    # Not only its EXIF is bad: a restart interval of its scan is damaged, and half of the picture is a glitch.
    "formats/pillow_hopper_bad_exif.jpg": Expected("decode_corrupt"),
    "formats/pillow_hopper_gray.jpg": jpeg(128, 128, mode="L"),
    "formats/pillow_hopper_orientation_5.jpg": jpeg(128, 128, orientation=5),
    "formats/pillow_truncated_exif_dpi.jpg": jpeg(
        480, 640, icc_profile="Generic RGB Profile", warnings=("exif_invalid",)
    ),
    "formats/pillow_uncompressed_rgb.png": png(800, 600, mode="RGBA", has_alpha=True),
    "formats/pillow_xmp_tags_orientation.png": png(
        326, 268, mode="RGBA", orientation=3, icc_profile="ColorMatch RGB", has_alpha=True
    ),
    "photos/exif_orienta_Landscape_1.jpg": jpeg(1800, 1200),
    "photos/exif_orienta_Landscape_8.jpg": jpeg(1800, 1200, orientation=8),
    "photos/exif_orienta_Portrait_6.jpg": jpeg(1200, 1800, orientation=6),
    "photos/exif_orienta_Portrait_7.jpg": jpeg(1200, 1800, orientation=7),
    "photos/exif_orienta_Portrait_8.jpg": jpeg(1200, 1800, orientation=8),
    "photos/libvips_ultra-hdr.jpg": jpeg(
        3840,
        2160,
        icc_profile="sRGB Gamut with sRGB Transfer",
        num_frames=2,
        warnings=("multi_picture", "already_hdr_gain_map"),
    ),
    "photos/openimageio__4.webp": Expected(format="webp", width=1024, height=772),
    "photos/openimageio__5.webp": Expected(format="webp", width=1024, height=752),
    "photos/openimageio__tahoe-gps.jpg": jpeg(2048, 1536),
    "photos/pillow_icc_profile_big.jpg": jpeg(425, 250, icc_profile="TIFF RGB"),
    "photos/pillow_junk_jpeg_header.jpg": jpeg(1024, 768, warnings=("junk_in_header",)),
    "photos/pillow_xmp_test.jpg": jpeg(2000, 1072, icc_profile="Adobe RGB (1998)"),
    "photos/skimage_astronaut.png": png(512, 512, icc_profile=SRGB),
    "photos/skimage_camera.png": png(512, 512, mode="L"),
    "photos/skimage_hubble_deep_field.jpg": jpeg(1000, 872, icc_profile=SRGB),
    "photos/skimage_rocket.jpg": jpeg(640, 427, icc_profile="Adobe RGB (1998)"),
}


def small(shared_data: Path, name: str, size: tuple[int, int] = (90, 60)) -> np.ndarray:
    """The decoded photo, upright, scaled to `size` (width, height), as float."""
    pixels = decode_ldr((shared_data / "photos" / name).read_bytes(), LIMITS).pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), np.float64)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def turned_copies(pixels: np.ndarray) -> list[np.ndarray]:
    """The other three ways to hold a picture of the same shape."""
    return [pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]]


@pytest.mark.parametrize("name", PHOTOS)
def test_photo(shared_data: Path, name: str) -> None:
    data = (shared_data / "photos" / name).read_bytes()
    expected = PHOTOS[name]
    if expected.code is not None:
        with pytest.raises(ImageError) as caught:
            decode_ldr(data, LIMITS)
        assert caught.value.code == expected.code
        return
    image = decode_ldr(data, LIMITS)
    facts = {key: getattr(image.info, key) for key in Expected.__dataclass_fields__ if key != "code"}
    assert Expected(**facts) == expected
    assert image.pixels.shape == (expected.height, expected.width, 3)
    assert image.pixels.dtype == {8: np.uint8, 16: np.uint16}[expected.bit_depth]
    assert probe_ldr(data, LIMITS) == image.info
    alpha_bytes = 0 if image.alpha is None else image.alpha.nbytes
    assert estimate_decoded_bytes(image.info) == image.pixels.nbytes + alpha_bytes


def test_the_table_is_complete(shared_data: Path) -> None:
    root = shared_data / "photos"
    files = {str(path.relative_to(root)) for path in root.glob("*/*") if path.is_file()}
    assert files == set(PHOTOS)
    with (root / "index.csv").open(encoding="utf-8", newline="") as stream:
        assert {row["file"] for row in csv.DictReader(stream)} == files


def test_landscape_stands_upright(shared_data: Path) -> None:
    reference = small(shared_data, "photos/exif_orienta_Landscape_1.jpg")
    turned = small(shared_data, "photos/exif_orienta_Landscape_8.jpg")
    assert correlation(reference, turned) > 0.99
    assert all(correlation(reference, other) < 0.9 for other in turned_copies(turned))


def test_portraits_stand_upright(shared_data: Path) -> None:
    six, seven, eight = (small(shared_data, f"photos/exif_orienta_Portrait_{n}.jpg", (60, 90)) for n in (6, 7, 8))
    assert correlation(six, seven) > 0.99
    assert correlation(six, eight) > 0.99
    assert all(correlation(six, other) < 0.95 for other in turned_copies(seven))
    # Bright sky above, dark ground below.
    assert six[:30].mean() > six[60:].mean() + 20


def test_hopper_with_orientation_five_is_the_gray_hopper(shared_data: Path) -> None:
    gray = small(shared_data, "formats/pillow_hopper_gray.jpg", (64, 64)).mean(axis=2)
    turned = small(shared_data, "formats/pillow_hopper_orientation_5.jpg", (64, 64)).mean(axis=2)
    assert correlation(gray, turned) > 0.98
    assert all(correlation(gray, other) < 0.9 for other in [*turned_copies(turned), turned.T])


def test_derived_photos_show_the_same_lake(shared_data: Path) -> None:
    reference = small(shared_data, "photos/openimageio__tahoe-gps.jpg")
    for name in ("derived/tahoe_cmyk.jpg", "derived/tahoe_rgba.png"):
        assert correlation(reference, small(shared_data, name)) > 0.97, name
    # The CMYK copy was made by the naive formula, so that undoing it is exact up to JPEG.
    assert np.abs(reference - small(shared_data, "derived/tahoe_cmyk.jpg")).mean() < 3
    deep = decode_ldr((shared_data / "photos/derived/tahoe_16bit_1001x751.png").read_bytes(), LIMITS).pixels
    shallow = Image.fromarray((deep >> 8).astype(np.uint8)).resize((90, 60), Image.Resampling.BOX)
    assert correlation(reference, np.asarray(shallow, np.float64)) > 0.97
    assert deep.dtype == np.uint16


def test_one_picture_with_and_without_profile_looks_alike(shared_data: Path) -> None:
    """The Adobe RGB JPEG and the palette PNG are one sRGB-rendered photo: conversion must bring them together."""
    palette = small(shared_data, "formats/libvips_indexed.png", (58, 88))
    tagged = small(shared_data, "formats/libvips_sample.jpg", (58, 88))
    assert np.abs(palette - tagged).mean() < 12


def test_capture_metadata_of_real_cameras(shared_data: Path) -> None:
    lake = probe_ldr((shared_data / "photos/photos/openimageio__tahoe-gps.jpg").read_bytes(), LIMITS).capture
    assert (lake.camera_make, lake.camera_model) == ("HTC", "T-Mobile G1")
    assert lake.captured_at == "2009:02:21 08:32:04"
    assert lake.latitude_deg == pytest.approx(39.30678, abs=1e-4)
    assert lake.longitude_deg == pytest.approx(-120.33507, abs=1e-4)
    stones = probe_ldr((shared_data / "photos/photos/pillow_xmp_test.jpg").read_bytes(), LIMITS).capture
    assert stones.camera_model == "Canon EOS Rebel T6"
    assert stones.lens_model == "EF-S18-55mm f/3.5-5.6 III"
    assert (stones.exposure_time_s, stones.aperture, stones.iso_speed, stones.focal_length_mm) == (0.01, 4, 100, 25)


@pytest.mark.timeout(300)
def test_every_photo_becomes_the_row_and_the_exr_it_should(shared_data: Path, tmp_path: Path) -> None:
    """The whole path but for the network, which takes minutes on a CPU: source, plan, convert, verify, manifest."""
    config = build_config(
        source={"url": str(shared_data / "photos")},
        destination={"url": str(tmp_path)},
        encode={"verify": "all"},
    )
    store = open_store(str(tmp_path), StorageConfig())
    converter = ShardConverter(
        source=source_store(config.source),
        destination=store,
        engine=FakeEngine(),
        config=config,
        provenance=Provenance("0", "fake", "0" * 64, config.pixel_digest(), "worker", "node"),
    )
    for shard in plan_shards(open_source(config.source).iterate(), 1, config.sharding):
        converter.run(shard)
    converter.close()
    require_rows_and_outputs(store)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_command_converts_every_photo_with_the_default_weights(shared_data: Path, tmp_path: Path) -> None:
    arguments = ("--executor", "local", "--device", "cpu", "--verify", "all", "--quiet")
    assert hdrfleet_here("convert", shared_data / "photos", tmp_path, *arguments) == 3  # some are damaged on purpose
    rows = require_rows_and_outputs(open_store(str(tmp_path), StorageConfig()))
    for name, row in rows.items():
        if row["status"] == "ok":
            assert row["num_nan"] == row["num_inf"] == 0, name
            # Well exposed parts come back much as they were, in brightness and colour: 24 dB and 0.025 at the least.
            assert row["fidelity_psnr_db"] is None or row["fidelity_psnr_db"] > 20, name
            assert row["chroma_shift"] is None or row["chroma_shift"] < 0.03, name


def require_rows_and_outputs(store: ObjectStore) -> dict[str, dict[str, Any]]:
    """The rows by source, once they and the outputs are found to be what the table says."""
    rows = {row["source"]: row for row in open_manifest(store).current.to_pylist()}
    assert rows.keys() == PHOTOS.keys()
    for name, expected in PHOTOS.items():
        row = rows[name]
        assert row["error_code"] == expected.code, name
        if expected.code is None:
            for field in fields(expected):
                if field.name != "code":
                    found = row[field.name]
                    assert (tuple(found) if isinstance(found, list) else found) == getattr(expected, field.name), name
            assert row["verified"], name
            assert row["luminance_max"] > 0, name
            stored = decode_exr(store.read(row["output"])).image
            assert stored.pixels.shape == (expected.height, expected.width, 3), name
            assert (stored.alpha is not None) == expected.has_alpha, name
    return rows
