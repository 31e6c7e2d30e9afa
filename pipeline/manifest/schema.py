"""The manifest's columns: one table that is the schema, its documentation, and the promise to readers.

Versioning: a reader ignores columns that it does not know and fills nullable columns that a part lacks with null, so
adding a nullable column keeps `SCHEMA_VERSION`. Anything else (a rename, another type, unit or meaning, a new
required column) raises it, and older readers then refuse the part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 1

# Keys of the Parquet file's key-value metadata; values are decimal integers in ASCII.
META_SCHEMA_VERSION: Final = b"hdrfleet.schema_version"
META_PLAN: Final = b"hdrfleet.plan"
META_SHARD: Final = b"hdrfleet.shard"
META_ATTEMPT: Final = b"hdrfleet.attempt"

# Plain strings throughout: dictionary types do not survive every Parquet reader.
_STRING = pa.string()
_INT32 = pa.int32()
_INT64 = pa.int64()
_FLOAT64 = pa.float64()
_BOOL = pa.bool_()
_TIMESTAMP = pa.timestamp("us", tz="UTC")
_STRINGS = pa.list_(pa.field("element", _STRING, nullable=False))


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `unit` is empty for names, digests and flags; `varies` marks a column of `RUN_COLUMNS`.

    `section` is the part of docs/quality-statistics.md that defines how the value is computed, where one does.
    """

    name: str
    type: pa.DataType
    unit: str
    nullable: bool
    doc: str
    varies: bool = False
    section: str = ""


def _required(name: str, kind: pa.DataType, unit: str, doc: str, *, varies: bool = False) -> Column:
    return Column(name, kind, unit, nullable=False, doc=doc, varies=varies)


def _optional(name: str, kind: pa.DataType, unit: str, doc: str, *, varies: bool = False) -> Column:
    return Column(name, kind, unit, nullable=True, doc=doc, varies=varies)


def _duration(name: str, doc: str) -> Column:
    return _required(name, _FLOAT64, "ms", f"{doc}; 0 where the stage did not run.", varies=True)


def _count(name: str, doc: str) -> Column:
    return Column(name, _INT64, "samples", nullable=True, doc=doc, section="counts")


def _statistic(name: str, unit: str, doc: str, section: str = "formulas") -> Column:
    return Column(name, _FLOAT64, unit, nullable=True, doc=doc, section=section)


_SOURCE = (
    _required(
        "source", _STRING, "", "Path relative to SRC, or the listed key; without userinfo and secret parameters."
    ),
    _optional("source_etag", _STRING, "", "The planned version: S3 ETag without quotes; locally `<mtime_ns>-<size>`."),
    _required("source_bytes", _INT64, "bytes", "Size of the source object as planned."),
    _optional("source_sha256", _STRING, "hex", "SHA-256 of the source bytes; null where they could not be read."),
)
_OUTCOME = (
    _required("status", _STRING, "", "`ok`, `failed` or `quarantined`."),
    _optional("error_code", _STRING, "", "Stable code of the failure; null exactly where `status` is `ok`."),
    _optional("error_message", _STRING, "", "One line for a person, 500 characters at most, without credentials."),
)
_IMAGE = (
    _optional("format", _STRING, "", "Container format of the input, such as `jpeg`, `png` or `tiff`."),
    _optional("mode", _STRING, "", "Pixel layout of the input as stored, such as `RGB`, `CMYK` or `P`."),
    _optional("width", _INT32, "px", "Width after EXIF orientation."),
    _optional("height", _INT32, "px", "Height after EXIF orientation."),
    _optional("megapixels", _FLOAT64, "10^6 px", "width × height / 10^6."),
    _optional("bit_depth", _INT32, "bits", "Bits per sample as delivered to the network: 8 or 16."),
    _optional("orientation", _INT32, "1..8", "EXIF orientation that was applied; 1 is upright."),
    _optional("icc_profile", _STRING, "", "Description of the embedded ICC profile; null where there is none."),
    _optional("has_alpha", _BOOL, "", "Whether the input has an alpha channel (it bypasses the network)."),
    _optional(
        "num_frames",
        _INT32,
        "count",
        "Pages (without reduced copies) or frames in the file; only the primary image is converted.",
    ),
    _required("warnings", _STRINGS, "", "Stable codes of things worth knowing about the input; often empty."),
)
_OUTPUT = (
    _optional("output", _STRING, "", "Path of the EXR relative to DST; null where there is none."),
    _optional("output_bytes", _INT64, "bytes", "Size of the EXR."),
    _optional("output_sha256", _STRING, "hex", "SHA-256 of the EXR's bytes."),
    _required("revision", _INT32, "from 1", "Revision of the output, or the planned one where there is no output."),
    _count(
        "num_half_overflow",
        "Samples too large for the file, clamped to its largest: 65504, 32768 in DWAA, float32's in float.",
    ),
    _optional("exposure_ev", _FLOAT64, "EV", "`--exposure`: the EXR's values are the statistics' times 2**EV."),
    _optional("adopted", _BOOL, "", "Whether an identical EXR of an earlier attempt was kept.", varies=True),
    _optional("verified", _BOOL, "", "Whether the EXR was decoded again; always so when adopted.", varies=True),
    _optional("collected_at", _TIMESTAMP, "UTC", "When `gc` gave up this output; null while it is kept.", varies=True),
)
_IDENTITY = (
    _required("weights_name", _STRING, "", "Name of the weights, such as `identity` or the checkpoint's file name."),
    _required("weights_sha256", _STRING, "hex", "SHA-256 that identifies the weights."),
    _required("pixel_digest", _STRING, "hex", "SHA-256 of the options that change pixels or statistics."),
    _required("software_version", _STRING, "", "hdrfleet's version."),
)
_INFERENCE = (
    _optional("device", _STRING, "", "Device that ran the network, such as `cpu` or `cuda:0`."),
    _optional("precision", _STRING, "", "`fp32`, `bf16` or `fp16`."),
    _optional("tiles", _INT32, "count", "Tiles that the image was cut into; 1 is the whole image at once."),
    _optional("tile_px", _INT32, "px", "Side of a tile's core."),
    _optional("num_oom_retries", _INT32, "count", "Times the tile was halved for lack of GPU memory.", varies=True),
    _count("num_negative", "Negative samples in the network's output, before clamping."),
    _count("num_nan", "NaN samples in the network's output, before clamping."),
    _count("num_inf", "Infinite samples in the network's output, before clamping."),
)
_RUN = (
    _required("plan", _INT32, "from 1", "Number of the plan that listed this input."),
    _required("shard", _INT32, "from 0", "Number of the shard within the plan."),
    _required(
        "attempt",
        _INT32,
        "from 1",
        "Attempt at the shard, within one run of the driver, that committed this row.",
        varies=True,
    ),
    _required("worker", _STRING, "", "Identifier of the worker process.", varies=True),
    _required("node", _STRING, "", "Identifier of the machine.", varies=True),
    _required("started_at", _TIMESTAMP, "UTC", "When work on this image began.", varies=True),
    _required("finished_at", _TIMESTAMP, "UTC", "When work on this image ended.", varies=True),
    _duration("fetch_ms", "Wall time of reading the source"),
    _duration("decode_ms", "Wall time of decoding"),
    _duration("infer_ms", "Wall time of the network, transfers and tiling included"),
    _duration("encode_ms", "Wall time of encoding the EXR"),
    _duration("put_ms", "Wall time of storing the EXR"),
)
# Names of pipeline.records.QualityStats; formulas and sources stand in docs/quality-statistics.md.
_STATISTICS = (
    _statistic("clipped_fraction", "0..1", "Share of pixels with a channel at the input's clipping level."),
    _statistic("input_dynamic_range_stops", "stops", "Dynamic range of the linearised input, p0.1 to p99.9 luminance."),
    _statistic("output_dynamic_range_stops", "stops", "Dynamic range of the output, p0.1 to p99.9 luminance."),
    _statistic(
        "stops_gained_clipped",
        "stops",
        "Mean log2 of output over input luminance in the clipped area; null where there is none.",
    ),
    _statistic("luminance_p1", "1.0 = clip", "1st percentile of output luminance (linear Rec.709 Y)."),
    _statistic("luminance_p50", "1.0 = clip", "Median of output luminance."),
    _statistic("luminance_p99", "1.0 = clip", "99th percentile of output luminance."),
    _statistic("luminance_p999", "1.0 = clip", "99.9th percentile of output luminance."),
    _statistic("luminance_max", "1.0 = clip", "Maximum of output luminance."),
    _statistic("fidelity_psnr_db", "dB", "PSNR of output against input where the input is well exposed."),
    _statistic(
        "chroma_shift", "u'v'", "Mean chromaticity distance of output against input where the input is well exposed."
    ),
    _statistic("input_noise_sigma", "0..1", "Noise estimate of the encoded input.", "noise"),
    _statistic("output_noise_sigma", "0..1", "Noise estimate of the encoded output.", "noise"),
    _statistic("input_banding", "0..1", "Banding estimate of the input.", "banding"),
    _statistic("output_banding", "0..1", "Banding estimate of the output.", "banding"),
)

COLUMNS: Final[tuple[Column, ...]] = (
    *_SOURCE,
    *_OUTCOME,
    *_IMAGE,
    *_OUTPUT,
    *_IDENTITY,
    *_INFERENCE,
    *_RUN,
    *_STATISTICS,
)

SCHEMA: Final[pa.Schema] = pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in COLUMNS])

STATISTIC_COLUMNS: Final[tuple[str, ...]] = tuple(c.name for c in _STATISTICS)

RUN_COLUMNS: Final[frozenset[str]] = frozenset(c.name for c in COLUMNS if c.varies)
"""Columns that may differ between two fault-free runs of one job; all others must be equal.

`tiles`, `tile_px`, `device` and `precision` are not among them: runs that differ there compute with other rounding.
Runs over copies of one library in different stores differ in `source_etag` too.
"""


def type_name(kind: pa.DataType) -> str:
    """Short name of a column's type as the documentation prints it."""
    if pa.types.is_list(kind):
        return f"list<{kind.value_type}>"
    if pa.types.is_timestamp(kind):
        return f"timestamp[{kind.unit}, {kind.tz}]"
    return str(kind)


def columns_markdown() -> str:
    """The columns as a Markdown table, as it stands in docs/manifest.md, with links to the formulas."""
    lines = ["| column | type | unit | null | meaning |", "|---|---|---|---|---|"]
    for c in COLUMNS:
        null = "yes" if c.nullable else "no"
        link = f" [Formula](quality-statistics.md#{c.section})" if c.section else ""
        lines.append(f"| `{c.name}` | {type_name(c.type)} | {c.unit} | {null} | {c.doc}{link} |")
    return "\n".join(lines) + "\n"
