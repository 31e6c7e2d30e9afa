"""`hdrfleet repair`: what verification distrusts is made anew; nothing that a row names is ever overwritten."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jobs.convert import run_conversion
from jobs.progress import Reporter, plural
from jobs.verify import run_verify
from pipeline.config import ConversionConfig
from pipeline.errors import ManifestError
from pipeline.job import Job, JobRecord, PlannedWork
from pipeline.manifest import open_manifest
from pipeline.sharding import SourceListing
from pipeline.storage import ObjectStore
from pipeline.verification import Finding, VerifyReport

_DAMAGED_PLAN = frozenset({"plan_missing", "plan_damaged"})
_DAMAGED_PART = frozenset({"part_damaged", "row_missing", "row_twice", "row_unplanned", "row_contradictory"})
_DAMAGED_OUTPUT = frozenset(
    f"output_{fault}" for fault in ("missing", "size", "sha256", "undecodable", "dimensions", "identity")
)
_LEFTOVERS = frozenset({"orphan", "unfinished_write"})


@dataclass(frozen=True, slots=True)
class RepairOutcome:
    """What was found, what was done about it, and what verification says afterwards."""

    before: VerifyReport
    num_parts_removed: int
    num_replaced: int
    num_deleted: int
    after: VerifyReport

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes."""
        counts = {name: getattr(self, name) for name in ("num_parts_removed", "num_replaced", "num_deleted")}
        return {**counts, "before": self.before.to_json(), "after": self.after.to_json()}


def run_repair(
    store: ObjectStore,
    record: JobRecord,
    config: ConversionConfig,
    reporter: Reporter,
    *,
    share: float,
    delete_orphans: bool,
    quiet: bool,
) -> RepairOutcome:
    """Verify, make anew what is not as it should be, and verify again.

    Damaged parts are removed, and their shards committed again: stored outputs are adopted. Damaged or missing outputs
    become the next revision of their source. Raises ManifestError for a damaged plan, which cannot be made anew, and
    as `run_conversion` does.
    """
    before = run_verify(store, record, share, quiet=quiet)
    if damaged := _chosen(before, _DAMAGED_PLAN):
        raise ManifestError(f"{damaged[0].key}: {damaged[0].message}; restore it from a backup, then repair")
    parts = {finding.part for finding in _chosen(before, _DAMAGED_PART) if finding.part}
    sources = {finding.source for finding in _chosen(before, _DAMAGED_OUTPUT) if finding.source}
    for part in sorted(parts):
        store.delete(part)
    if parts:
        reporter.note(f"{plural(len(parts), 'damaged manifest part')} removed; their shards are committed again")
    num_replaced = 0
    if parts or sources or _chosen(before, {"shard_uncommitted"}):
        num_replaced = _make_anew(config, sources, reporter)
    leftovers = _leftovers(store, record, quiet=quiet) if delete_orphans else []
    for finding in leftovers:
        remove = store.delete if finding.code == "orphan" else store.discard_unfinished
        remove(finding.key)
    changed = bool(parts or sources or leftovers or num_replaced or _chosen(before, {"shard_uncommitted"}))
    after = run_verify(store, record, share, quiet=quiet) if changed else before
    return RepairOutcome(before, len(parts), num_replaced, len(leftovers), after)


def _make_anew(config: ConversionConfig, sources: Collection[str], reporter: Reporter) -> int:
    """Finish what is not committed, then replace the outputs of `sources`; return how many were planned."""
    planned: list[PlannedWork] = []

    def extend(job: Job, listing: SourceListing) -> PlannedWork | None:
        if not sources:
            return None
        history = open_manifest(job.store, columns=("source", "plan", "revision")).history
        revisions: dict[str, int] = {}
        for row in history.select(["source", "revision"]).to_pylist():
            if row["source"] in sources:
                revisions[row["source"]] = max(revisions.get(row["source"], 0), row["revision"])
        work = job.plan_replacements(listing, revisions)
        if work is not None:
            planned.append(work)
        num_gone = len(sources) - sum(work.plan.num_images for work in planned)
        if num_gone:
            reporter.warn(f"{plural(num_gone, 'image')} cannot be made anew: no longer in the source")
        return work

    run_conversion(config, reporter, extend=extend)
    return sum(work.plan.num_images for work in planned)


def _leftovers(store: ObjectStore, record: JobRecord, *, quiet: bool) -> Sequence[Finding]:
    """Orphans and unfinished writes that are left once everything is committed."""
    report = run_verify(store, record, 0.0, quiet=quiet)
    if _chosen(report, {"shard_uncommitted"}):
        return []  # their outputs look like orphans until they are adopted
    return _chosen(report, _LEFTOVERS)


def _chosen(report: VerifyReport, codes: Collection[str]) -> list[Finding]:
    return [finding for finding in report.findings if finding.code in codes]


def hint(report: VerifyReport) -> str:
    """What a person can do about what is left; empty when nothing is."""
    left = set(report.num_by_code())
    if not left:
        return ""
    if left <= _LEFTOVERS:
        return "only leftovers of interrupted writes; --delete-orphans removes them when no job runs"
    return "not everything could be repaired; docs/operations.md says what each code asks for"
