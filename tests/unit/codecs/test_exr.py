from __future__ import annotations

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import OpenEXR
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codecs.exr import (
    ExrProvenance,
    HdrImage,
    OutputIdentity,
    decode_exr,
    encode_exr,
    prepare_hdr,
    read_exr_identity,
    verify_exr,
)
from pipeline.config import EncodeConfig
from pipeline.errors import EncodeError, VerifyError
from pipeline.records import CaptureMetadata, InferenceInfo

GOLDEN_HEADER = Path(__file__).with_name("golden") / "exr_header.json"
LOSSLESS = ["none", "zip", "piz", "htj2k256"]
SIZES = [(1, 1), (1, 7), (7, 1), (3, 5), (33, 130)]

IDENTITY = OutputIdentity(source_sha256="a1" * 32, pixel_digest="b2" * 32, weights_sha256="c3" * 32)
CAPTURE = CaptureMetadata(
    camera_make="Nikon",
    camera_model="D70",
    lens_make="Sigma",
    lens_model="18-50mm f/2.8",
    camera_serial="2003871",
    lens_serial="0042",
    exposure_time_s=0.008,
    aperture=5.6,
    iso_speed=200.0,
    focal_length_mm=35.0,
    focus_m=3.25,
    captured_at="2005:07:13 11:02:59",
    utc_offset_s=-7200.0,
    owner="Jörg Müller",
    comments="Lake Tahoe",
    latitude_deg=39.0968,
    longitude_deg=-120.0324,
    altitude_m=1897.0,
)
PROVENANCE = ExrProvenance(
    source="holiday/tahoe 1.jpg",
    software_version="1.2.3",
    weights_name="identity",
    inference=InferenceInfo(
        device="cuda: NVIDIA H100",
        precision="fp16",
        num_tiles=6,
        tile_px=1024,
        num_oom_retries=1,
        num_negative=17,
        num_nan=2,
        num_inf=3,
    ),
    num_half_overflow=5,
    capture=CAPTURE,
)


def random_image(shape: tuple[int, int], dtype: type, *, alpha: bool = False, seed: int = 0) -> HdrImage:
    rng = np.random.default_rng(seed)
    pixels = np.exp2(rng.uniform(-10, 6, (*shape, 3))).astype(dtype)
    return HdrImage(pixels=pixels, alpha=rng.random(shape).astype(dtype) if alpha else None)


def encode(image: HdrImage, **options) -> bytes:
    return encode_exr(image, EncodeConfig(**options), IDENTITY, PROVENANCE)


def write_foreign(channels: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, channels).write(stream)
    return stream.getvalue()


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("compression", LOSSLESS)
def test_lossless_round_trip_keeps_every_bit(compression, dtype, shape, alpha) -> None:
    image = random_image(shape, dtype, alpha=alpha)
    data = encode(image, compression=compression)
    decoded = decode_exr(data)
    np.testing.assert_array_equal(decoded.image.pixels, image.pixels)
    assert decoded.image.pixels.dtype == dtype
    if image.alpha is None:
        assert decoded.image.alpha is None
    else:
        np.testing.assert_array_equal(decoded.image.alpha, image.alpha)
    verify_exr(data, image, EncodeConfig(compression=compression), IDENTITY)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(LOSSLESS), st.sampled_from(["half", "float"]), st.integers(1, 40), st.integers(1, 40), st.data())
def test_any_storable_bit_pattern_survives(compression, pixel_type, height, width, data) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    limit, bits, dtype = {"half": (0x7C00, np.uint16, np.float16), "float": (0x7F800000, np.uint32, np.float32)}[
        pixel_type
    ]
    pattern = np.random.default_rng(seed).integers(0, limit, (height, width, 3)).astype(bits).view(dtype)
    options = EncodeConfig(compression=compression, pixel_type=pixel_type)
    verify_exr(encode_exr(HdrImage(pattern), options, IDENTITY, PROVENANCE), HdrImage(pattern), options, IDENTITY)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 15, 45, 200]), st.sampled_from(["noise", "edges", "bits"]))
def test_dwaa_stays_within_its_bound_and_keeps_alpha_exact(seed, level, kind) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 70)), int(rng.integers(1, 70)))
    linear = {
        "noise": lambda: np.exp(rng.normal(0, 4, (*shape, 3))),
        "edges": lambda: (rng.random((*shape, 3)) > 0.5) * 1e6,
        "bits": lambda: rng.integers(0, 0x7C00, (*shape, 3)).astype(np.uint16).view(np.float16),
    }[kind]().astype(np.float32)
    options = EncodeConfig(compression=f"dwaa:{level}")
    prepared = prepare_hdr(linear, rng.integers(0, 256, shape).astype(np.uint8), options)
    data = encode_exr(prepared.image, options, IDENTITY, PROVENANCE)
    verify_exr(data, prepared.image, options, IDENTITY)
    np.testing.assert_array_equal(decode_exr(data).image.alpha, prepared.image.alpha)


def test_a_higher_dwaa_level_is_applied() -> None:
    image = random_image((64, 64), np.float16)
    sizes = [len(encode(image, compression=f"dwaa:{level}")) for level in (5, 45, 400)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert decode_exr(encode(image, compression="dwaa:45")).header["dwaCompressionLevel"] == 45.0


@pytest.mark.parametrize("compression", [*LOSSLESS, "dwaa:45"])
def test_equal_images_give_equal_bytes_in_any_thread(compression) -> None:
    image = random_image((70, 90), np.float16, alpha=True)
    with ThreadPoolExecutor(4) as pool:
        results = set(pool.map(lambda _: encode(image, compression=compression), range(8)))
    assert len(results) == 1


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, OpenEXR.Channel):
        return value.name
    return value if isinstance(value, str | int | float) and type(value) in (str, int, float) else str(value)


def test_header_matches_the_golden_snapshot() -> None:
    image = random_image((4, 6), np.float16, alpha=True)
    header = decode_exr(encode(image, keep_gps=True)).header
    found = {name: _plain(value) for name, value in sorted(header.items())}
    if os.environ.get("HDRFLEET_UPDATE_GOLDEN"):
        GOLDEN_HEADER.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(GOLDEN_HEADER.read_text(encoding="utf-8"))
    assert "whiteLuminance" not in header
    assert all(len(name) <= 31 for name in header)


def test_colour_tags_agree_with_openexr() -> None:
    header = decode_exr(encode(random_image((2, 2), np.float16))).header
    np.testing.assert_allclose(
        header["chromaticities"], OpenEXR.colorInteropIDToChromaticities(header["colorInteropID"]), atol=1e-6
    )


def test_gps_is_left_out_unless_asked_for() -> None:
    header = decode_exr(encode(random_image((2, 2), np.float16))).header
    assert not {"latitude", "longitude", "altitude"} & set(header)


def test_provenance_comes_back_for_adoption() -> None:
    decoded = decode_exr(encode(random_image((2, 2), np.float16), keep_gps=True))
    assert decoded.identity == IDENTITY
    assert decoded.provenance is not None
    assert replace(decoded.provenance, capture=CAPTURE) == PROVENANCE
    for name in ("camera_make", "captured_at", "owner", "lens_model", "utc_offset_s", "aperture", "latitude_deg"):
        expected = getattr(CAPTURE, name)
        found = getattr(decoded.provenance.capture, name)
        assert found == (expected if isinstance(expected, str) else pytest.approx(expected, rel=1e-6))


def test_unusable_capture_facts_and_hostile_names_do_not_stop_an_image() -> None:
    capture = CaptureMetadata(
        camera_make="Pho\x00ne\n ",
        camera_model="",
        aperture=float("nan"),
        iso_speed=1e300,
        exposure_time_s=float(np.float32(0.25)),
        captured_at="0000:00:00 00:00:00",
    )
    inference = replace(PROVENANCE.inference, num_negative=2**40)
    provenance = replace(PROVENANCE, source="bad\udcff\nname.jpg", capture=capture, inference=inference)
    header = decode_exr(encode_exr(random_image((2, 2), np.float16), EncodeConfig(), IDENTITY, provenance)).header
    assert header["cameraMake"] == "Phone"
    assert header["expTime"] == 0.25
    assert header["hdrfleet.source"] == "bad\\udcffname.jpg"
    assert header["hdrfleet.numNegative"] == 2**31 - 1
    assert not {"cameraModel", "aperture", "isoSpeed", "capDate"} & set(header)


def test_a_header_that_openexr_refuses_is_an_encode_error() -> None:
    broken = replace(PROVENANCE, software_version="\udcff")
    with pytest.raises(EncodeError):
        encode_exr(random_image((2, 2), np.float16), EncodeConfig(), IDENTITY, broken)


@pytest.mark.parametrize("compression", [*LOSSLESS, "dwaa:45"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_truncation_is_found(compression, dtype) -> None:
    image = random_image((80, 37), dtype, alpha=True)
    data = encode(image, compression=compression)
    cuts = sorted({0, len(data) - 1, *np.linspace(1, len(data) - 2, 48).astype(int).tolist()})
    assert len(cuts) == 50
    for cut in cuts:
        with pytest.raises(VerifyError):
            decode_exr(data[:cut])


def test_damage_inside_the_pixels_is_found() -> None:
    image = random_image((64, 64), np.float16)
    data = bytearray(encode(image))
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    with pytest.raises(VerifyError):
        decode_exr(bytes(data))


def test_identity_is_read_without_pixels() -> None:
    data = encode(random_image((64, 64), np.float16))
    assert read_exr_identity(data) == IDENTITY
    assert read_exr_identity(data[: len(data) // 2]) == IDENTITY
    with pytest.raises(VerifyError):
        read_exr_identity(b"not an image")


def test_a_foreign_file_decodes_without_identity() -> None:
    plane = np.arange(6, dtype=np.float16).reshape(2, 3)
    decoded = decode_exr(write_foreign({"R": plane, "G": plane, "B": plane, "Z": plane.astype(np.float32)}))
    assert decoded.identity is None
    assert decoded.provenance is None
    np.testing.assert_array_equal(decoded.image.pixels[..., 2], plane)


def test_another_size_is_refused_before_pixels_are_read() -> None:
    data = encode(random_image((64, 48), np.float16))
    assert decode_exr(data, size=(48, 64)).image.pixels.shape == (64, 48, 3)
    with (
        patch("pipeline.codecs.exr._read_planes", side_effect=MemoryError),
        pytest.raises(VerifyError, match="48 x 64 pixels, not 64 x 48"),
    ):
        decode_exr(data, size=(64, 48))


@pytest.mark.parametrize("kind", ["luminance only", "no blue", "integers", "mixed types"])
def test_other_channels_are_refused(kind) -> None:
    half, count = np.ones((4, 5), np.float16), np.ones((4, 5), np.uint32)
    channels = {
        "luminance only": {"Y": half},
        "no blue": {"R": half, "G": half},
        "integers": {"R": count, "G": count, "B": count},
        "mixed types": {"R": half, "G": half.astype(np.float32), "B": half},
    }[kind]
    with pytest.raises(VerifyError):
        decode_exr(write_foreign(channels))


def test_verify_tells_every_difference() -> None:
    options = EncodeConfig()
    image = random_image((20, 30), np.float16, alpha=True)
    data = encode(image)
    pixels, alpha = image.pixels.copy(), image.alpha.copy()
    pixels[7, 8, 1] = np.nextafter(pixels[7, 8, 1], np.float16(np.inf))
    alpha[3, 4] = 1 - alpha[3, 4]
    others = [
        HdrImage(pixels, image.alpha),
        HdrImage(image.pixels, alpha),
        HdrImage(image.pixels),
        HdrImage(image.pixels.astype(np.float32), image.alpha.astype(np.float32)),
        HdrImage(np.ascontiguousarray(image.pixels[:, :-1]), np.ascontiguousarray(image.alpha[:, :-1])),
    ]
    verify_exr(data, image, options, IDENTITY)
    for other in others:
        with pytest.raises(VerifyError):
            verify_exr(data, other, options, IDENTITY)
    with pytest.raises(VerifyError, match="identity"):
        verify_exr(data, image, options, replace(IDENTITY, source_sha256="0" * 64))


def test_verify_sees_the_sign_of_zero() -> None:
    zeros = np.zeros((2, 2, 3), np.float16)
    with pytest.raises(VerifyError):
        verify_exr(encode(HdrImage(zeros)), HdrImage(-zeros), EncodeConfig(), IDENTITY)


def test_verify_finds_pixels_that_dwaa_cannot_explain() -> None:
    options = EncodeConfig(compression="dwaa:45")
    image = random_image((40, 40), np.float16)
    data = encode(image, compression="dwaa:45")
    shifted = HdrImage(np.ascontiguousarray(np.roll(image.pixels, 1, axis=1)))
    with pytest.raises(VerifyError, match="luma"):
        verify_exr(data, shifted, options, IDENTITY)
    stored = decode_exr(encode(HdrImage(np.full((8, 8, 3), np.inf, np.float16)))).image
    assert not np.isfinite(stored.pixels).any()
    with pytest.raises(VerifyError, match="finite"):
        verify_exr(encode(stored), stored, options, IDENTITY)


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a.transpose(1, 0, 2),
        lambda a: a[:, :-1],
        lambda a: a[::2],
        lambda a: a[::-1],
        lambda a: a[..., ::-1],
        lambda a: a[..., :2],
        lambda a: a[0],
        lambda a: a[:0],
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">f2"),
    ],
    ids=["transposed", "cropped", "strided", "flipped", "bgr", "two channels", "flat", "empty", "double", "big endian"],
)
def test_arrays_that_openexr_would_misread_cannot_become_an_image(make) -> None:
    with pytest.raises(ValueError, match="must be"):
        HdrImage(make(np.ones((4, 6, 3), np.float16)))


def test_alpha_must_match_its_image() -> None:
    pixels = np.ones((4, 6, 3), np.float16)
    for alpha in (np.ones((4, 5), np.float16), np.ones((4, 6), np.float32), np.ones((6, 4), np.float16).T):
        with pytest.raises(ValueError, match="must be"):
            HdrImage(pixels, alpha)


def test_prepare_clamps_counts_and_rounds_to_half() -> None:
    values = [0.0, -1.0, np.nan, np.inf, -np.inf, 65504.0, 70000.0, 1e-9, 1 / 3]
    linear = np.array(values, np.float32).reshape(3, 1, 3)
    prepared = prepare_hdr(linear, None, EncodeConfig())
    expected = np.array([0, 0, 0, 65504, 0, 65504, 65504, 0, np.float16(1 / 3)], np.float16)
    np.testing.assert_array_equal(prepared.image.pixels.ravel(), expected)
    assert (prepared.num_nan, prepared.num_inf, prepared.num_half_overflow) == (1, 2, 1)
    assert not np.signbit(prepared.image.pixels).any()


def test_prepare_float_keeps_large_values_and_clamps_infinity() -> None:
    linear = np.array([[[1e6, np.inf, 3e38]]], np.float32)
    prepared = prepare_hdr(linear, None, EncodeConfig(pixel_type="float", exposure_ev=1))
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(prepared.image.pixels, np.array([[[2e6, largest, largest]]], np.float32))
    assert (prepared.num_inf, prepared.num_half_overflow) == (1, 1)


def test_prepare_leaves_dwaa_headroom() -> None:
    linear = np.array([[[40000, 1, 0]]], np.float32)
    prepared = prepare_hdr(linear, None, EncodeConfig(compression="dwaa"))
    np.testing.assert_array_equal(prepared.image.pixels, np.array([[[32768, 1, 0]]], np.float16))
    assert prepared.num_half_overflow == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_prepare_multiplies_by_alpha_in_linear_light(dtype) -> None:
    full = np.iinfo(dtype).max
    linear = np.full((1, 3, 3), 0.5, np.float32)
    prepared = prepare_hdr(linear, np.array([[0, full // 2, full]], dtype), EncodeConfig(pixel_type="float"))
    ratio = full // 2 / full
    np.testing.assert_allclose(prepared.image.alpha, [[0, ratio, 1]], rtol=1e-7)
    np.testing.assert_allclose(prepared.image.pixels[0, :, 0], [0, 0.5 * ratio, 0.5], rtol=1e-7)


def test_nothing_shows_through_full_transparency() -> None:
    linear = np.array([[[np.inf, 3e38, np.nan]]], np.float32)
    options = EncodeConfig(exposure_ev=20)
    prepared = prepare_hdr(linear, np.zeros((1, 1), np.uint8), options)
    np.testing.assert_array_equal(prepared.image.pixels, np.zeros((1, 1, 3)))


def test_prepare_is_the_same_in_every_band() -> None:
    rng = np.random.default_rng(3)
    linear = rng.normal(0.5, 1, (3, 2**18, 3)).astype(np.float32)
    alpha = rng.integers(0, 256, linear.shape[:2]).astype(np.uint8)
    whole = np.maximum(linear * np.float32(0.25) * (alpha / np.float32(255))[..., np.newaxis], 0)
    prepared = prepare_hdr(linear, alpha, EncodeConfig(exposure_ev=-2))
    np.testing.assert_allclose(prepared.image.pixels.astype(np.float32), whole, rtol=2**-11, atol=2**-25)


@pytest.mark.parametrize(
    ("linear", "alpha"),
    [
        (np.ones((2, 2, 3)), None),
        (np.ones((2, 2, 4), np.float32), None),
        (np.ones((4, 2, 3), np.float32)[::2], None),
        (np.ones((2, 2, 3), np.float32), np.ones((2, 3), np.uint8)),
        (np.ones((2, 2, 3), np.float32), np.ones((2, 2), np.float32)),
    ],
)
def test_prepare_refuses_what_it_does_not_expect(linear, alpha) -> None:
    with pytest.raises(ValueError, match="must be"):
        prepare_hdr(linear, alpha, EncodeConfig())
