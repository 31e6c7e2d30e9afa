"""Condense a manifest into the few numbers that a person asks for first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.manifest.reader import Manifest
from pipeline.records import ConversionStatus

SUMMARY_COLUMNS: Final = (
    "source",
    "plan",
    "status",
    "error_code",
    "warnings",
    "megapixels",
    "output_bytes",
    "stops_gained_clipped",
    "clipped_fraction",
    "input_dynamic_range_stops",
    "output_dynamic_range_stops",
    "started_at",
    "finished_at",
    "infer_ms",
    "device",
    "precision",
    "weights_name",
    "adopted",
    "attempt",
    "num_oom_retries",
)
"""What `summarise` reads: pass it to `open_manifest(store, columns=...)` to leave the rest in the store's parts."""


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """Figures over the current rows (one per source).

    Counts are keyed by the column's values in descending order of count; `num_images` includes failed ones. Figures
    of pixels, bytes and statistics cover `ok` rows. `dynamic_range_gained` is output minus input dynamic range.
    Statistics are None where no row has a finite value. `active_s` is the time during which at least one image was
    in work, so that a job that was stopped and resumed days later is not diluted; `megapixels_per_s` is the pixels
    of images that were computed (not adopted) over `active_s`, `infer_megapixels_per_s` the same pixels over the
    summed time in the network, that is, per worker. `num_retried` counts rows whose shard took more than one attempt.
    """

    num_images: int
    num_by_status: Mapping[str, int]
    num_by_error_code: Mapping[str, int]
    num_by_warning: Mapping[str, int]
    num_by_device: Mapping[str, int]
    num_by_precision: Mapping[str, int]
    num_by_weights: Mapping[str, int]
    megapixels: float
    output_bytes: int
    stops_gained_clipped_mean: float | None
    stops_gained_clipped_median: float | None
    dynamic_range_gained_stops_mean: float | None
    dynamic_range_gained_stops_median: float | None
    clipped_fraction_p50: float | None
    clipped_fraction_p95: float | None
    started_at: datetime | None
    finished_at: datetime | None
    active_s: float
    megapixels_per_s: float | None
    infer_megapixels_per_s: float | None
    num_adopted: int
    num_retried: int
    num_oom_retries: int

    def to_json(self) -> dict[str, object]:
        """The same fields as values that `json.dumps` takes; times in ISO 8601."""
        values = asdict(self)
        for name in ("started_at", "finished_at"):
            values[name] = values[name].isoformat() if values[name] else None
        return values


def summarise(manifest: Manifest) -> ManifestSummary:
    """Summarise the current rows. The manifest needs the columns `SUMMARY_COLUMNS` only."""
    rows = manifest.current.select(SUMMARY_COLUMNS)
    ok = rows.filter(pc.equal(rows["status"], ConversionStatus.OK.value))
    adopted = pc.fill_null(ok["adopted"], fill_value=False)
    computed = ok.filter(pc.invert(adopted))
    computed_megapixels = _total(computed["megapixels"])
    infer_s = _total(computed["infer_ms"]) / 1e3
    active_s = active_seconds(rows["started_at"], rows["finished_at"])
    gained = pc.subtract(ok["output_dynamic_range_stops"], ok["input_dynamic_range_stops"])
    return ManifestSummary(
        num_images=rows.num_rows,
        num_by_status=_counts(rows["status"]),
        num_by_error_code=_counts(rows["error_code"]),
        num_by_warning=_counts(pc.list_flatten(rows["warnings"])),
        num_by_device=_counts(rows["device"]),
        num_by_precision=_counts(rows["precision"]),
        num_by_weights=_counts(rows["weights_name"]),
        megapixels=_total(ok["megapixels"]),
        output_bytes=int(_total(ok["output_bytes"])),
        stops_gained_clipped_mean=_mean(ok["stops_gained_clipped"]),
        stops_gained_clipped_median=_quantile(ok["stops_gained_clipped"], 0.5),
        dynamic_range_gained_stops_mean=_mean(gained),
        dynamic_range_gained_stops_median=_quantile(gained, 0.5),
        clipped_fraction_p50=_quantile(ok["clipped_fraction"], 0.5),
        clipped_fraction_p95=_quantile(ok["clipped_fraction"], 0.95),
        started_at=pc.min(rows["started_at"]).as_py(),
        finished_at=pc.max(rows["finished_at"]).as_py(),
        active_s=active_s,
        megapixels_per_s=_rate(computed_megapixels, active_s),
        infer_megapixels_per_s=_rate(computed_megapixels, infer_s),
        num_adopted=int(_total(adopted)),
        num_retried=int(_total(pc.greater(rows["attempt"], 1))),
        num_oom_retries=int(_total(rows["num_oom_retries"])),
    )


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    pairs = [(entry["values"], entry["counts"]) for entry in pc.value_counts(column.drop_null()).to_pylist()]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _total(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0)


def _finite(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values = np.asarray(column.drop_null().to_numpy(), dtype=np.float64)
    return values[np.isfinite(values)]


def _mean(column: pa.ChunkedArray) -> float | None:
    values = _finite(column)
    return float(values.mean()) if values.size else None


def _quantile(column: pa.ChunkedArray, fraction: float) -> float | None:
    values = _finite(column)
    return float(np.quantile(values, fraction)) if values.size else None


def _rate(amount: float, seconds: float) -> float | None:
    return amount / seconds if amount > 0 and seconds > 0 and math.isfinite(amount) else None


def active_seconds(started_at: pa.ChunkedArray, finished_at: pa.ChunkedArray) -> float:
    """Length of the union of the intervals [started_at, finished_at], in seconds."""
    starts = started_at.cast(pa.int64()).to_numpy()
    ends = finished_at.cast(pa.int64()).to_numpy()
    if not starts.size:
        return 0.0
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    # Each interval adds what reaches beyond the latest end so far; a clock that was set back adds nothing.
    latest = np.concatenate(([starts[0]], np.maximum.accumulate(ends)[:-1]))
    return float(np.maximum(ends - np.maximum(starts, latest), 0).sum()) / 1e6
