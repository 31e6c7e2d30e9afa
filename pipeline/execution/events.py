"""What happened to shards and workers, for a log: executors hand it to the job with their progress."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.execution.leases import Lease
from pipeline.records import ImageTask, ShardResult


@dataclass(frozen=True, slots=True)
class ExecutionEvent:
    """One event. `fields` are plain values by name: plan, shard, attempt, source, worker, and the event's own.

    `notice` is a line for the person who runs the job, where it does not go on as it was asked for.
    """

    name: str
    fields: Mapping[str, object] = field(default_factory=dict)
    is_warning: bool = False
    notice: str = ""


def shard_events(result: ShardResult, worker: str) -> list[ExecutionEvent]:
    """The end of one attempt, and each image of its shard that failed; of a probe or a part, that it is done."""
    where = {"plan": result.plan, "shard": result.shard, "attempt": result.attempt, "worker": worker}
    if result.is_probe:
        return [ExecutionEvent("probe_passed", where | {"num_ok": result.num_ok, "num_failed": result.num_failed})]
    if result.rows is not None:
        return [ExecutionEvent("part_done", where | {"num_ok": result.num_ok, "num_failed": result.num_failed})]
    counts = {
        "committed": result.committed,
        "num_ok": result.num_ok,
        "num_failed": result.num_failed,
        "megapixels": round(result.megapixels, 3),
    }
    failed = [
        ExecutionEvent(
            "image_failed", where | {"source": each.source, "code": each.code, "message": each.message}, is_warning=True
        )
        for each in result.failures
    ]
    return [*failed, ExecutionEvent("shard_completed", where | counts)]


def split_event(kept: Lease, parts: Sequence[Collection[ImageTask]]) -> ExecutionEvent:
    """A worker has ceded images of its shard to idle ones; `kept` is what it goes on with."""
    fields = {
        "plan": kept.shard.plan,
        "shard": kept.shard.shard,
        "attempt": kept.attempt,
        "worker": kept.holder,
        "num_parts": len(parts),
        "num_images": sum(map(len, parts)),
    }
    return ExecutionEvent("shard_split", fields)


def returned_event(lease: Lease, reason: str) -> ExecutionEvent:
    """A lease came back undone; its shard is tried again, or what is wrong with it looked for."""
    fields = {
        "plan": lease.shard.plan,
        "shard": lease.shard.shard,
        "attempt": lease.attempt,
        "worker": lease.holder,
        "message": reason,
    }
    return ExecutionEvent("lease_returned", fields, is_warning=True)


def worker_event(name: str, worker: str, message: str | None = None) -> ExecutionEvent:
    """A worker was asked for, is ready, or was lost; `message` says why, and makes it a warning."""
    fields = {"worker": worker} if message is None else {"worker": worker, "message": message}
    return ExecutionEvent(name, fields, is_warning=message is not None)


def wait_event(why: str, timeout_s: float) -> ExecutionEvent:
    """No worker can start at the moment; so long it may take."""
    notice = f"no worker can start yet: {why}; waiting for up to {timeout_s:.0f} s"
    return ExecutionEvent("workers_wait", {"message": why}, is_warning=True, notice=notice)


def node_event(node: str, address: str, reason: str) -> ExecutionEvent:
    """No worker is started on this node any more; those that are sound there go on."""
    notice = f"no more workers are started on node {address} ({node[:12]}): {reason}"
    return ExecutionEvent(
        "node_barred", {"node": node, "address": address, "message": reason}, is_warning=True, notice=notice
    )
