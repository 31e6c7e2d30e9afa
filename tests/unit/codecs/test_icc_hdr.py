"""PQ and HLG by the name of a profile, where neither code points nor a `cicp` tag say so."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from ldr_heic_samples import HEIC_RGB, with_heif_property
from ldr_samples import D65, insert_png_chunk, p3_profile, picture, save

from pipeline.codecs.icc_profile import is_hdr_name
from pipeline.codecs.ldr import decode_ldr, probe_ldr
from pipeline.config import DecodeConfig
from pipeline.errors import AlreadyHdrTransferError

LIMITS = DecodeConfig()
RGB = picture()
REC_2020 = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)

# Of the W3C's note, Apple, libjxl, darktable and programs that write what the standards are called.
HDR_NAMES = [
    "ITUR_2100_PQ_FULL",
    "High Dynamic Range UHDTV Wide Color Gamut Display (Rec. 2020) - SMPTE ST 2084 PQ EOTF",
    "Rec. ITU-R BT.2100 PQ",
    "Rec. ITU-R BT.2100 HLG",
    "ITU-R BT.2100-2 (PQ)",
    "BT.2100 HLG",
    "Rec.2100 PQ",
    "rec. 2100 hlg",
    "Rec2100PQ",
    "Rec2100HLG",
    "Rec. ITU-R BT.2020-1; HLG",
    "Display P3; PQ",
    "PQ Rec2020 RGB",
    "HLG P3 RGB",
    "BT.2020 with ARIB STD-B67",
]
SDR_NAMES = [
    "",
    "Rec. ITU-R BT.2020-1",
    "Rec2020-elle-V4-g10",
    "ITU-R BT.2020",
    "BT.2100",
    "Rec.2100 linear",
    "Display P3",
    "sRGB IEC61966-2.1",
    "EPSON Stylus Photo 2100 PQ",
    "SP2100 PQ glossy",
    "EPSON P3 PQR 2100",
    "Rec.2020 PQX-200 monitor",
    "HLG lamp",
]


def profile(description: str, space: str = "rgb") -> bytes:
    """Gamma 2.2 with a description of one's own (ICC.1:2022, 10.15: one record, UTF-16), and no `cicp` tag."""
    colors = {"primaries": REC_2020} if space == "rgb" else {}
    plain = bytes(imagecodecs.cms_profile(space, whitepoint=D65, gamma=2.2, **colors))
    text = description.encode("utf-16-be")
    body = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    at = next(i for i in range(132, 132 + 12 * plain[131], 12) if plain[i : i + 4] == b"desc")
    start = len(plain) + -len(plain) % 4
    table = plain[:at] + b"desc" + struct.pack(">II", start, len(body)) + plain[at + 12 :]
    whole = table.ljust(start, b"\0") + body
    return struct.pack(">I", len(whole)) + whole[4:]


def png_with_profile_name(name: bytes, icc: bytes) -> bytes:
    return insert_png_chunk(save(RGB, "png"), b"iCCP", name + b"\0\0" + zlib.compress(icc))


def with_profile(kind: str, icc: bytes) -> bytes:
    if kind == "heic":
        body = b"prof" + icc
        return with_heif_property(HEIC_RGB, struct.pack(">I", 8 + len(body)) + b"colr" + body)
    return save(RGB, kind, icc_profile=icc)


@pytest.mark.parametrize("name", HDR_NAMES)
def test_names_of_pq_and_hlg(name: str) -> None:
    assert is_hdr_name(name)


@pytest.mark.parametrize("name", SDR_NAMES)
def test_other_names_say_nothing(name: str) -> None:
    assert not is_hdr_name(name)


@pytest.mark.parametrize("icc", [p3_profile(), b"no profile at all"], ids=["sound", "broken"])
def test_a_png_says_pq_by_the_name_of_its_profile(icc: bytes) -> None:
    data = png_with_profile_name(b"ITUR_2100_PQ_FULL", icc)
    for read in (decode_ldr, probe_ldr):
        with pytest.raises(AlreadyHdrTransferError, match="PQ or HLG"):
            read(data, LIMITS)


def test_code_points_take_precedence_over_the_name() -> None:
    data = insert_png_chunk(png_with_profile_name(b"ITUR_2100_PQ_FULL", p3_profile()), b"cICP", bytes([1, 13, 0, 1]))
    assert np.array_equal(decode_ldr(data, LIMITS).pixels, RGB)


@pytest.mark.parametrize("name", [b"Rec. ITU-R BT.2020-1", b"x" * 200 + b" BT.2100 PQ"])
def test_other_profile_names_of_a_png_change_nothing(name: bytes) -> None:
    image = decode_ldr(png_with_profile_name(name, p3_profile()), LIMITS)
    assert np.array_equal(image.pixels, decode_ldr(png_with_profile_name(b"p", p3_profile()), LIMITS).pixels)
    assert image.info.warnings == ()


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp", "avif", "heic"])
def test_the_description_counts_in_every_format(kind: str) -> None:
    with pytest.raises(AlreadyHdrTransferError):
        decode_ldr(with_profile(kind, profile("Rec. ITU-R BT.2100 HLG")), LIMITS)
    image = decode_ldr(with_profile(kind, profile("Rec. ITU-R BT.2020-1")), LIMITS)
    assert image.info.icc_profile == "Rec. ITU-R BT.2020-1"
    assert image.info.warnings == ()


def test_the_description_of_a_gray_profile_counts() -> None:
    with pytest.raises(AlreadyHdrTransferError):
        decode_ldr(save(RGB[..., 1], "png", icc_profile=profile("Rec. 2100 PQ", "gray")), LIMITS)


def test_a_cicp_tag_takes_precedence_over_the_description() -> None:
    icc = bytearray(profile("Rec. 2100 PQ"))
    at = next(i for i in range(132, 132 + 12 * icc[131], 12) if bytes(icc[i : i + 4]) in {b"cprt", b"dmnd"})
    body = int.from_bytes(icc[at + 4 : at + 8], "big")
    icc[at : at + 4] = b"cicp"
    icc[body : body + 12] = b"cicp\0\0\0\0" + bytes([9, 1, 0, 1])
    assert decode_ldr(save(RGB, "png", icc_profile=bytes(icc)), LIMITS).info.warnings == ()
