"""`hdrfleet repair`: what verification distrusts is made anew; nothing that a row names is ever overwritten."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from jobs.convert import ConversionOutcome, check_inference, opened_source, own_destination, run_conversion
from jobs.option_groups import RecordedOptions
from jobs.progress import Reporter, plural
from jobs.reporting import report_findings
from jobs.retry import where_gone
from jobs.verify import run_verify
from jobs.weights import read_weights
from pipeline.config import ConversionConfig
from pipeline.errors import StorageError, TransientStorageError
from pipeline.job import Job, JobRecord, PlannedWork
from pipeline.job_record import require_same
from pipeline.manifest import open_manifest
from pipeline.manifest.distrusted import record_distrust
from pipeline.sharding import SourceListing
from pipeline.storage import ObjectStore, RemovesStrays
from pipeline.storage.keys import shown
from pipeline.verification import Finding, VerifyReport
from pipeline.verification.findings import FINDING_CODES
from pipeline.verification.strays import find_strays

# What cannot be read here may be whole: it is never distrusted.
_UNREAD = frozenset({"output_denied", "output_unreadable"})
_OUTPUT_FAULTS = frozenset(code for code in FINDING_CODES if code.startswith("output_")) - _UNREAD
_LEFTOVERS = frozenset({"orphan", "orphan_unusable", "unfinished_write"})
# Says nothing about what lies there: it keeps nobody from deleting what was found.
_UNSEEN = frozenset({"unfinished_denied"})


@dataclass(frozen=True, slots=True)
class RepairOutcome:
    """What was found, what was done about it, and what verification says afterwards.

    `num_replaced` images were planned as new revisions; `run` is None where nothing had to be converted.
    """

    before: VerifyReport
    num_replaced: int
    num_deleted: int
    run: ConversionOutcome | None
    after: VerifyReport

    def summary(self) -> str:
        """One line for a person."""
        done = [f"{plural(self.num_replaced, 'output')} made anew", f"{plural(self.num_deleted, 'leftover')} deleted"]
        return f"{plural(len(self.before.findings), 'finding')} before; {', '.join(done)}"

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes."""
        counts = {"num_replaced": self.num_replaced, "num_deleted": self.num_deleted}
        run = self.run.to_json() if self.run else None
        return {**counts, "before": self.before.to_json(), "after": self.after.to_json(), "run": run}


def require_usable(config: ConversionConfig, record: JobRecord, given: RecordedOptions, url: str) -> None:
    """Look at what was `given` for computing images anew, which no verification needs, before one starts.

    Raises WeightsError, DestinationError for weights of another job, and ConfigError for a device that is not here.
    """
    if given.weights is not None:
        from pipeline.models.checkpoint import load_weights

        name, data = read_weights(config.model.weights)
        weights = load_weights(name, data)
        wanted = record.model_copy(update={"weights_name": name, "weights_sha256": weights.sha256})
        require_same(record, wanted, url)
    if given.device or given.precision or given.memory_budget:
        check_inference(config)


def run_repair(
    store: ObjectStore,
    record: JobRecord,
    config: ConversionConfig,
    reporter: Reporter,
    *,
    share: float,
    delete_orphans: bool,
    quiet: bool,
    verifies_on_ray: bool = False,
) -> RepairOutcome:
    """Verify, make anew what can be, and verify again; outputs are read here, or by tasks on the Ray of `config`.

    What is damaged or missing is first recorded as distrusted, for good; what the store did not let us read is not.
    Outputs of current rows become the next
    revision of their source, and uncommitted shards are finished. Parts and plans are never touched: what is wrong with
    them is for a person to decide. With `delete_orphans`, leftovers are deleted when nothing else is found any more.
    Raises as `run_conversion` does, with nothing recorded where the source cannot be opened, and
    TransientStorageError, with nothing recorded, where the store is unavailable.
    """
    on_ray = config.execution if verifies_on_ray else None
    verify = partial(run_verify, store, record, quiet=quiet, on_ray=on_ray, storage=config.destination.storage)
    with ExitStack() as stack:
        if on_ray is not None:
            from pipeline.execution.ray_session import ray_session

            stack.enter_context(ray_session(on_ray))  # one for all that follows
        before = verify(share)
        report_findings(reporter, before)
        damaged = {finding.key for finding in before.findings if finding.code in _OUTPUT_FAULTS}
        run, num_replaced = None, 0
        if damaged or "shard_uncommitted" in before.num_by_code():
            listing = opened_source(config)  # where nothing can be made anew, nothing is recorded
            if damaged:
                # Before anything else: whatever runs next, this repair or another, must not adopt them.
                record_distrust(store, damaged)
            run, num_replaced = _make_anew(config, listing, damaged, reporter)
        after, num_deleted = verify(share) if run else before, 0
        if delete_orphans and _may_delete(after):
            with own_destination(Job(store, record), config.execution, reporter):
                # Looked at again now that no other driver can adopt what is about to be deleted.
                after = verify(0.0)
                if _may_delete(after):
                    num_deleted = _delete(store, after.findings, reporter)
            after = verify(0.0)
        if after is not before:
            counts = {"num_replaced": num_replaced, "num_deleted": num_deleted}
            reporter.event("info", "repaired", counts)
            report_findings(reporter, after)
    return RepairOutcome(before, num_replaced, num_deleted, run, after)


def _make_anew(
    config: ConversionConfig, opened: SourceListing, damaged: Collection[str], reporter: Reporter
) -> tuple[ConversionOutcome, int]:
    """Finish what is not committed, then replace those `damaged` outputs that current rows name."""
    planned: list[PlannedWork] = []

    def extend(job: Job, listing: SourceListing) -> PlannedWork | None:
        current = open_manifest(job.store, columns=("source", "plan", "output", "revision")).current
        rows = current.filter(pc.is_in(current["output"], pa.array(sorted(damaged), pa.string())))
        revisions = dict(zip(rows["source"].to_pylist(), rows["revision"].to_pylist(), strict=True))
        work = job.plan_replacements(listing, revisions) if revisions else None
        if work is not None:
            planned.append(work)
        num_gone = len(revisions) - (work.plan.num_images if work else 0)
        if num_gone > 0:
            reporter.warn(f"{plural(num_gone, 'image')} cannot be made anew: {where_gone(listing)}")
        return work

    run = run_conversion(config, reporter, extend=extend, opened=opened)
    return run, sum(work.plan.num_images for work in planned)


def _may_delete(report: VerifyReport) -> bool:
    codes = set(report.num_by_code())
    return bool(codes & _LEFTOVERS) and codes <= _LEFTOVERS | _UNSEEN


def _delete(store: ObjectStore, findings: Collection[Finding], reporter: Reporter) -> int:
    keys = {code: [finding.key for finding in findings if finding.code == code] for code in _LEFTOVERS}
    for key in keys["orphan"]:
        store.delete(key)
    for key in keys["unfinished_write"]:
        store.discard_unfinished(key)
    return (
        len(keys["orphan"]) + len(keys["unfinished_write"]) + _remove_strays(store, keys["orphan_unusable"], reporter)
    )


def _remove_strays(store: ObjectStore, keys: Collection[str], reporter: Reporter) -> int:
    """Remove what can be; verification names what is left, and says that it is for a person to remove."""
    if not keys or not isinstance(store, RemovesStrays):
        return 0
    num_removed = 0
    for name in find_strays(store, keys):
        try:
            store.remove_stray(name)
        except TransientStorageError:
            raise
        except StorageError as error:
            reporter.warn(f"{shown(name)} has to be removed by hand: {shown(str(error))}")
        else:
            num_removed += 1
    return num_removed


def hint(report: VerifyReport) -> str:
    """What a person can do about what is left; empty when nothing is."""
    left = set(report.num_by_code())
    if not left:
        return ""
    if left <= _LEFTOVERS:
        by_hand = ", or names what has to be removed by hand" if "orphan_unusable" in left else ""
        return f"only leftovers of interrupted writes; --delete-orphans removes them when no job runs{by_hand}"
    return "not everything could be repaired; docs/operations.md says what each code asks for"
