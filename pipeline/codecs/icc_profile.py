"""What an ICC profile says of itself (ICC.1:2022): its description, and whether it is one of PQ or HLG."""

from __future__ import annotations

import io
import re

from PIL import ImageCms

from pipeline.codecs.exif import clean_text
from pipeline.codecs.header import HDR_TRANSFERS, MAX_ICC_BYTES

_USABLE_CLASSES = frozenset({b"mntr", b"scnr", b"prtr", b"spac"})
_MAX_TAGS = 1000

# Names of PQ and HLG that mean nothing else: "PQ" or "HLG" beside the standard or the primaries that they come with, or
# the standards of the curves themselves. A number alone is not enough: there are printers that are called 2100, and PQ
# may be the quality of their print. Letters are looked for and not `\b`: ITUR_2100_PQ_FULL has underscores.
_PRIMARIES = (
    r"(?:(?<![A-Z])(?:ITU[ _.-]?R|REC|BT)[ _.-]*(?:ITU[ _.-]?R[ _.-]*)?(?:BT[ _.-]*)?(?:2100|2020)(?:-\d)?"
    r"|DISPLAY[ _-]?P3|(?<![A-Z0-9])P3)"
)
_HDR_NAME = re.compile(
    rf"{_PRIMARIES}[ _,;:/()-]*(?:PQ|HLG)(?![A-Z0-9])"
    rf"|(?<![A-Z0-9])(?:PQ|HLG)[ _]+{_PRIMARIES} RGB"
    r"|SMPTE ST[ .-]?2084(?!\d)|ARIB STD-B67(?!\d)",
    re.IGNORECASE,
)


def is_usable(icc: bytes) -> bool:
    """Whether these bytes have the header of a profile from a colour space, of a size that is looked at."""
    return 132 <= len(icc) <= MAX_ICC_BYTES and icc[36:40] == b"acsp" and icc[12:16] in _USABLE_CLASSES


def describe(icc: bytes) -> str | None:
    """Return the profile's description, cleaned, or None where it cannot be read."""
    try:
        return clean_text(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def is_hdr(icc: bytes) -> bool:
    """Whether the profile is one of PQ or HLG: by its `cicp` tag (9.2.17), or by its description where it has none."""
    transfer = _cicp_transfer(icc)
    if transfer is not None:
        return transfer in HDR_TRANSFERS
    return is_usable(icc) and is_hdr_name(describe(icc) or "")


def is_hdr_name(name: str) -> bool:
    """Whether a profile's name or description is one of PQ or HLG (ITU-R BT.2100).

    `ITUR_2100_PQ_FULL` is the name by which the W3C Note "Using the ITU BT.2100 PQ EOTF with the PNG Format" tells
    such files; the profile that comes with it calls itself "... (Rec. 2020) - SMPTE ST 2084 PQ EOTF".
    """
    return _HDR_NAME.search(name) is not None


def _cicp_transfer(icc: bytes) -> int | None:
    """Return the transfer characteristics (ITU-T H.273) of the profile's `cicp` tag, or None without a sound one."""
    num_tags = min(int.from_bytes(icc[128:132], "big"), _MAX_TAGS)
    for at in range(132, 132 + 12 * num_tags, 12):
        if icc[at : at + 4] == b"cicp":
            body = int.from_bytes(icc[at + 4 : at + 8], "big")
            return icc[body + 9] if icc[body : body + 4] == b"cicp" and body + 9 < len(icc) else None
    return None
