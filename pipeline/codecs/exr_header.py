"""The EXR header that hdrfleet writes and reads: colour tags, identity, provenance, capture facts.

Capture facts use OpenEXR's standard optional attributes (ImfStandardAttributes.h), so that other programs find them.
Our own attributes are named `hdrfleet.*`: a dotted vendor prefix as camera makers use it, at most 31 bytes long so
that files keep to the short-name format that every reader knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.codecs.color import REC709_CHROMATICITIES
from pipeline.records import CaptureMetadata, InferenceInfo

# The name of scene-referred linear Rec.709 in the Color Interop Forum's list of texture and image encodings.
COLOR_INTEROP_ID = "lin_rec709_scene"

_FLOAT32_MAX = 3.4028234663852886e38
_INT32_MAX = 2**31 - 1
_CAPTURE_DATE_FORMAT = "%Y:%m:%d %H:%M:%S"

_TEXT_ATTRIBUTES = {
    "cameraMake": "camera_make",
    "cameraModel": "camera_model",
    "lensMake": "lens_make",
    "lensModel": "lens_model",
    "cameraSerialNumber": "camera_serial",
    "lensSerialNumber": "lens_serial",
    "comments": "comments",
    "owner": "owner",
}
_NUMBER_ATTRIBUTES = {
    "expTime": "exposure_time_s",
    "aperture": "aperture",
    "isoSpeed": "iso_speed",
    "nominalFocalLength": "focal_length_mm",
    "focus": "focus_m",
    "utcOffset": "utc_offset_s",
}
_GPS_ATTRIBUTES = {
    "latitude": "latitude_deg",
    "longitude": "longitude_deg",
    "altitude": "altitude_m",
}
_COUNT_ATTRIBUTES = {
    "hdrfleet.numTiles": "num_tiles",
    "hdrfleet.tilePx": "tile_px",
    "hdrfleet.numOomRetries": "num_oom_retries",
    "hdrfleet.numNegative": "num_negative",
    "hdrfleet.numNan": "num_nan",
    "hdrfleet.numInf": "num_inf",
}


@dataclass(frozen=True, slots=True)
class OutputIdentity:
    """What the stored pixels follow from: SHA-256 (hex) of source, pixel configuration and weights."""

    source_sha256: str
    pixel_digest: str
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class ExrProvenance:
    """How the pixels came to be. Recorded for readers and for adoption; not part of the identity."""

    source: str
    software_version: str
    weights_name: str
    inference: InferenceInfo
    num_half_overflow: int
    capture: CaptureMetadata
    exposure_ev: float = 0.0


def build_attributes(identity: OutputIdentity, provenance: ExrProvenance, *, keep_gps: bool) -> dict[str, object]:
    """Return the attributes for OpenEXR's header dictionary, as str, int, float and tuples of floats.

    Capture facts that are empty, not finite or no valid date are left out; counts saturate at 2**31 - 1, the
    largest value of an EXR integer; text loses control characters, and bytes of a file name that are no text are
    written as escapes. There is no time stamp and no machine name: equal arguments give equal attributes.
    """
    inference = provenance.inference
    attributes: dict[str, object] = {
        "chromaticities": REC709_CHROMATICITIES,
        "colorInteropID": COLOR_INTEROP_ID,
        "pixelAspectRatio": 1.0,
        "software": f"hdrfleet {provenance.software_version}",
        "hdrfleet.source": _clean(provenance.source),
        "hdrfleet.sourceSha256": identity.source_sha256,
        "hdrfleet.pixelDigest": identity.pixel_digest,
        "hdrfleet.weightsSha256": identity.weights_sha256,
        "hdrfleet.weights": _clean(provenance.weights_name),
        "hdrfleet.softwareVersion": provenance.software_version,
        "hdrfleet.device": _clean(inference.device),
        "hdrfleet.precision": inference.precision,
        "hdrfleet.exposureEv": float(provenance.exposure_ev),
        "hdrfleet.numHalfOverflow": min(provenance.num_half_overflow, _INT32_MAX),
    }
    for name, field in _COUNT_ATTRIBUTES.items():
        attributes[name] = min(getattr(inference, field), _INT32_MAX)
    return attributes | _capture_attributes(provenance.capture, keep_gps=keep_gps)


def parse_identity(header: Mapping[str, object]) -> OutputIdentity | None:
    """Return the identity, or None where the file is not ours."""
    values = [header.get(f"hdrfleet.{name}") for name in ("sourceSha256", "pixelDigest", "weightsSha256")]
    texts = [value for value in values if isinstance(value, str) and value]
    return OutputIdentity(*texts) if len(texts) == len(values) else None


def parse_provenance(header: Mapping[str, object]) -> ExrProvenance | None:
    """Return what the header says about the conversion, or None where the file is not ours.

    Numbers come back with float32 precision. The capture facts include GPS only where the file holds it.
    """
    texts = [header.get(f"hdrfleet.{name}") for name in ("source", "softwareVersion", "weights", "device", "precision")]
    counts = [header.get(name) for name in (*_COUNT_ATTRIBUTES, "hdrfleet.numHalfOverflow")]
    found_texts = [value for value in texts if isinstance(value, str)]
    found_counts = [value for value in counts if isinstance(value, int)]
    if len(found_texts) != len(texts) or len(found_counts) != len(counts):
        return None
    source, software_version, weights_name, device, precision = found_texts
    exposure_ev = header.get("hdrfleet.exposureEv")  # files of earlier releases have none
    by_field = dict(zip(_COUNT_ATTRIBUTES.values(), found_counts, strict=False))
    return ExrProvenance(
        source=source,
        software_version=software_version,
        weights_name=weights_name,
        inference=InferenceInfo(device=device, precision=precision, **by_field),
        num_half_overflow=found_counts[-1],
        capture=_parse_capture(header),
        exposure_ev=exposure_ev if isinstance(exposure_ev, float) else 0.0,
    )


def _capture_attributes(capture: CaptureMetadata, *, keep_gps: bool) -> dict[str, object]:
    attributes: dict[str, object] = {}
    for name, field in _TEXT_ATTRIBUTES.items():
        if text := _clean(getattr(capture, field) or ""):
            attributes[name] = text
    for name, field in (_NUMBER_ATTRIBUTES | (_GPS_ATTRIBUTES if keep_gps else {})).items():
        value = getattr(capture, field)
        if value is not None and math.isfinite(value) and abs(value) <= _FLOAT32_MAX:
            attributes[name] = float(value)  # OpenEXR refuses numpy scalars
    if capture.captured_at and _is_capture_date(capture.captured_at):
        attributes["capDate"] = capture.captured_at
    return attributes


def _parse_capture(header: Mapping[str, object]) -> CaptureMetadata:
    values: dict[str, object] = {}
    for name, field in _TEXT_ATTRIBUTES.items():
        if isinstance(value := header.get(name), str):
            values[field] = value
    for name, field in (_NUMBER_ATTRIBUTES | _GPS_ATTRIBUTES).items():
        if isinstance(value := header.get(name), float):
            values[field] = value
    if isinstance(value := header.get("capDate"), str):
        values["captured_at"] = value
    return CaptureMetadata(**values)  # type: ignore[arg-type]  # types were checked name by name above


def _is_capture_date(text: str) -> bool:
    try:
        return datetime.strptime(text, _CAPTURE_DATE_FORMAT).strftime(_CAPTURE_DATE_FORMAT) == text
    except ValueError:
        return False


def _clean(text: str) -> str:
    readable = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char for char in readable if char.isprintable()).strip()
