"""How far a job is, read from its destination alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from pipeline.job import JobRecord
from pipeline.lease_record import LeaseRecord, read_lease
from pipeline.manifest import committed_parts, open_manifest
from pipeline.records import ConversionStatus
from pipeline.scaling_record import ScalingEvent, read_events
from pipeline.sharding import read_plan_summaries
from pipeline.storage import ObjectStore


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """One plan: what it holds and how many of its shards are committed."""

    plan: int
    created_at: str
    num_images: int
    num_shards: int
    num_shards_done: int


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What the destination records about its job. `state` is `incomplete` or `complete`.

    `driver` names the process that last ran the job, `driver_state` is `running`, `ended`, `silent` (it did not release
    the destination and gives no sign of life) or `none`, and `driver_seen_at` is when it last gave one. `scaling` are
    decisions about the number of workers, the latest one last.
    """

    destination: str
    job_id: str
    created_at: str
    source_root: str
    weights_name: str
    state: str
    num_ok: int
    num_failed: int
    num_quarantined: int
    driver: str | None
    driver_state: str
    driver_seen_at: str | None
    plans: tuple[PlanStatus, ...]
    scaling: tuple[ScalingEvent, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The same fields as values that `json.dumps` takes."""
        return asdict(self) | {"scaling": [event.model_dump() for event in self.scaling]}


def job_status(store: ObjectStore, record: JobRecord, *, last_decisions: int | None = None) -> JobStatus:
    """Read the plans and the manifest of the job that `record`, the destination's job.json, describes.

    Each decision about workers is an object of its own: `last_decisions` bounds how many are read.
    """
    summaries = read_plan_summaries(store)
    committed = committed_parts(store)
    plans = tuple(
        PlanStatus(plan.plan, plan.created_at, plan.num_images, plan.num_shards, len(committed.get(plan.plan, ())))
        for plan in summaries
    )
    current = open_manifest(store, columns=("source", "plan", "status")).current
    counts = {entry["values"]: entry["counts"] for entry in current["status"].value_counts().to_pylist()}
    done = all(plan.num_shards_done >= plan.num_shards for plan in plans)
    lease = read_lease(store)
    return JobStatus(
        destination=store.url,
        job_id=record.job_id,
        created_at=record.created_at,
        source_root=record.source_root,
        weights_name=record.weights_name,
        state="complete" if plans and done else "incomplete",
        num_ok=counts.get(ConversionStatus.OK.value, 0),
        num_failed=counts.get(ConversionStatus.FAILED.value, 0),
        num_quarantined=counts.get(ConversionStatus.QUARANTINED.value, 0),
        driver=lease.describe() if lease else None,
        driver_state=_driver_state(lease),
        driver_seen_at=lease.renewed_at if lease else None,
        plans=plans,
        scaling=tuple(read_events(store, last=last_decisions)),
    )


def _driver_state(lease: LeaseRecord | None) -> str:
    if lease is None:
        return "none"
    if lease.released:
        return "ended"
    return "silent" if lease.is_gone or lease.age_s > lease.timeout_s else "running"


def print_status(status: JobStatus) -> None:
    """Print the status for a person."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{status.destination}: {status.state}", markup=False, style="bold")
    console.print(
        f"job {status.job_id}, created {status.created_at}, from {status.source_root}, weights {status.weights_name}",
        markup=False,
    )
    console.print(
        f"{status.num_ok:,} ok, {status.num_failed:,} failed, {status.num_quarantined:,} quarantined", markup=False
    )
    if status.driver:
        console.print(f"driver {status.driver_state}: {status.driver}, last seen {status.driver_seen_at}", markup=False)
    for event in status.scaling[-1:]:
        console.print(
            f"workers {event.delta:+d}, then {event.num_workers}, at {event.at}: {event.reason}", markup=False
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("plan", "created", "images", "shards", "committed"):
        table.add_column(name, justify="left" if name == "created" else "right")
    for plan in status.plans:
        table.add_row(
            str(plan.plan), plan.created_at, f"{plan.num_images:,}", f"{plan.num_shards:,}", f"{plan.num_shards_done:,}"
        )
    console.print(table)
