"""How fast an earlier job was, from its manifest: the figures for `--throughput-from`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError, ManifestError
from pipeline.job import JobRecord
from pipeline.lease_record import newest_epoch, read_epoch
from pipeline.manifest import open_manifest
from pipeline.manifest.summary import active_seconds
from pipeline.records import ConversionStatus
from pipeline.storage import ObjectStore

_COLUMNS = ("source", "plan", "status", "adopted", "megapixels", "output_bytes", "device", "precision", "worker")
_TIMES = ("started_at", "finished_at", "fetch_ms", "decode_ms", "infer_ms", "encode_ms", "put_ms")
_FEW = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """One worker of an earlier job, in seconds of that worker's time.

    An image of m megapixels takes `overhead` x (`image_s` + `megapixel_s` x m): the line is fitted to what the network
    took, and `overhead` is the time that workers were at work over the time that their networks were, so that stages
    which did not overlap, and whatever else the machine did, are in it. `error` is half the line's 95 % interval, as a
    share. `start_s` lies between the start of the run that made the first image and that image; None where that is
    not known. `output_bytes_per_megapixel` is of its compression.
    """

    where: str
    device: str
    precision: str
    num_images: int
    megapixels: float
    overhead: float
    image_s: float
    megapixel_s: float
    error: float
    start_s: float | None
    compression: str
    pixel_type: str
    output_bytes_per_megapixel: float

    def worker_s(self, num_images: int, megapixels: float) -> float:
        """Worker-seconds that so many images of so many megapixels together take."""
        return self.overhead * (self.image_s * num_images + self.megapixel_s * megapixels)


def measure_job(store: ObjectStore, record: JobRecord) -> Measured:
    """Read the current rows that were computed rather than adopted. Raises ConfigError where there are too few."""
    rows = _computed_rows(store)
    megapixels, infer_s = _numbers(rows["megapixels"]), _numbers(rows["infer_ms"]) / 1e3
    workers = rows["worker"].unique().to_pylist()
    at_work = [rows.filter(pc.equal(rows["worker"], worker)) for worker in workers]
    work_s = sum(active_seconds(mine["started_at"], mine["finished_at"]) for mine in at_work)
    image_s, megapixel_s = fit_line(megapixels, infer_s)
    fitted = image_s * len(megapixels) + megapixel_s * float(megapixels.sum())
    residual = infer_s - (image_s + megapixel_s * megapixels)
    error = 1.96 * float(residual.std()) / math.sqrt(len(residual)) / max(1e-9, float(infer_s.mean()))
    return Measured(
        where=store.url,
        device=min(rows["device"].to_pylist()),
        precision=", ".join(sorted(set(rows["precision"].to_pylist()))),
        num_images=rows.num_rows,
        megapixels=float(megapixels.sum()),
        overhead=work_s / max(1e-9, fitted),
        image_s=image_s,
        megapixel_s=megapixel_s,
        error=error,
        start_s=_start_s(store, rows["started_at"].to_pylist()),
        compression=record.config.encode.compression,
        pixel_type=record.config.encode.pixel_type,
        output_bytes_per_megapixel=float(_numbers(rows["output_bytes"]).sum() / megapixels.sum()),
    )


def _computed_rows(store: ObjectStore) -> pa.Table:
    """The current rows of images that were converted, on one kind of device."""
    rows = open_manifest(store, columns=(*_COLUMNS, *_TIMES)).current
    computed = pc.and_(
        pc.equal(rows["status"], ConversionStatus.OK.value),
        pc.invert(pc.fill_null(rows["adopted"], fill_value=False)),
    )
    rows = rows.filter(computed)
    if rows.num_rows < _FEW:
        raise ConfigError(
            f"--throughput-from: {store.url} has {rows.num_rows} converted images; at least {_FEW} are needed"
        )
    kinds = sorted({device.partition(":")[0] for device in rows["device"].to_pylist()})
    if len(kinds) > 1:
        raise ConfigError(
            f"--throughput-from: {store.url} was computed on {' and '.join(kinds)}; give a job of one kind"
        )
    return rows


def fit_line(megapixels: NDArray[np.float64], seconds: NDArray[np.float64]) -> tuple[float, float]:
    """Least squares of seconds = a + b megapixels with a, b >= 0; one of the two is 0 where that fits best."""
    spread = megapixels - megapixels.mean()
    squares = float(spread @ spread)
    slope = float(spread @ seconds) / squares if squares > 0 else 0.0
    base = float(seconds.mean() - slope * megapixels.mean())
    if slope > 0 and base >= 0:
        return base, slope
    if squares > 0 and slope <= 0:
        return float(seconds.mean()), 0.0
    return 0.0, float(seconds @ megapixels) / float(megapixels @ megapixels)


def _numbers(column: object) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(), dtype=np.float64)  # type: ignore[attr-defined]


def _start_s(store: ObjectStore, started: Sequence[datetime]) -> float | None:
    """From the lease of the run that converted the first image to that image; None where no lease tells it.

    A job goes on in several runs, with any time between them.
    """
    first = min(started)
    try:
        for epoch in range(newest_epoch(store), 0, -1):
            lease = read_epoch(store, epoch)
            acquired = datetime.fromisoformat(lease.acquired_at) if lease else None
            if acquired is not None and acquired <= first:
                return (first - acquired).total_seconds()
    except (ManifestError, ValueError):
        return None
    return None
