"""A job at its destination: what it is (job.json), what is planned, and what is still to do."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

import pipeline
from pipeline.config import ConversionConfig
from pipeline.errors import (
    DestinationError,
    ManifestError,
    ObjectDeniedError,
    ObjectExistsError,
    OutputRefusedError,
    SourceChangedError,
    SourceDeniedError,
    SourceMissingError,
    SourceUnreadableError,
)
from pipeline.faults import fault_point
from pipeline.job_record import JOB_KEY, JOB_SCHEMA_VERSION, JobRecord, read_job, require_same, require_whole, to_record
from pipeline.manifest import committed_parts, open_manifest
from pipeline.records import ConversionStatus, ImageTask, Shard
from pipeline.sharding import (
    PlanSummary,
    SourceListing,
    changed_tasks,
    iter_shards,
    load_inventory,
    plan_shards,
    read_plan_summaries,
    write_plan,
)
from pipeline.sharding.plan import PLAN_PREFIX
from pipeline.storage import ObjectStore
from pipeline.store_verdict import StoreVerdict

__all__ = ["Job", "JobRecord", "PlannedWork", "confirm_job", "open_job", "read_job"]

# Failures that say nothing about the image itself: the next run takes such a source up again if it is listed.
_RETRIED = (SourceMissingError, SourceDeniedError, SourceChangedError, SourceUnreadableError, OutputRefusedError)
RETRIED_CODES = frozenset(error.code for error in _RETRIED)
_NO_ETAG = "\0"  # differs from every etag


@dataclass(frozen=True, slots=True)
class PlannedWork:
    """The uncommitted shards of one plan. `resuming` when an earlier driver may have left outputs behind."""

    plan: PlanSummary
    done: frozenset[int]
    resuming: bool

    @property
    def num_shards(self) -> int:
        """Shards that are left."""
        return self.plan.num_shards - len(self.done)

    @property
    def megapixels(self) -> float:
        """What is left of the plan's estimate, as if its shards were alike."""
        return self.plan.megapixels * self.num_shards / self.plan.num_shards


class Job:
    """Reads and extends what a destination records. Holds no state of its own: any driver can take over."""

    def __init__(self, store: ObjectStore, record: JobRecord) -> None:
        self.store = store
        self.record = record

    def pending(self) -> list[PlannedWork]:
        """Plans with uncommitted shards, oldest first. Raises DestinationError where a plan that has rows is gone."""
        work = []
        plans = read_plan_summaries(self.store)
        committed = committed_parts(self.store)
        if lost := sorted(committed.keys() - {plan.plan for plan in plans}):
            raise DestinationError(
                f"{self.store.url} holds rows of plan {lost[0]}, but not {PLAN_PREFIX}/{lost[0]}/plan.json; what is "
                "planned next would pass for done: restore it from a backup, or give another destination"
            )
        for plan in plans:
            done = frozenset(committed.get(plan.plan, set()).intersection(range(plan.num_shards)))
            if len(done) < plan.num_shards:
                work.append(PlannedWork(plan, done, resuming=True))
        return work

    def extend(self, listing: SourceListing) -> PlannedWork | None:
        """Plan what is new or changed in the source since the plans so far; None when nothing is.

        What failed for its store and not for its file (`RETRIED_CODES`) is planned again when it is listed. What is
        not listed any more is counted in the listing, and its rows and outputs left as they are. Raises
        SourceError when the source holds no image at all.
        """
        plans = read_plan_summaries(self.store)
        tasks: Iterator[ImageTask] = listing.iterate()
        if plans:
            known = self._known(plans)
            tasks = (
                # What is named outright and not there now keeps the row that it has, as what is listed no more does.
                task
                for task in changed_tasks(listing.noting_vanished(tasks, known), known)
                if task.is_there or task.source not in known
            )
        return self._plan(tasks, listing)

    def failures(self, codes: Collection[str] = ()) -> set[str]:
        """The sources whose current row is not `ok`; with `codes`, only those that failed with one of them."""
        current = open_manifest(self.store, columns=("source", "plan", "status", "error_code")).current
        failed = current.filter(pc.not_equal(current["status"], ConversionStatus.OK.value))
        if codes:
            failed = failed.filter(pc.is_in(failed["error_code"], pa.array(sorted(codes))))
        return set(failed["source"].to_pylist())

    def plan_again(self, listing: SourceListing, sources: Collection[str]) -> PlannedWork | None:
        """Plan those of `sources` that are listed once more, in the version that the source has now.

        They keep their revision, for what failed left no output that a row names. None when none of them is listed.
        """
        known = load_inventory(self.store, read_plan_summaries(self.store))
        tasks = (
            replace(task, revision=known[task.source][1])
            for task in listing.only(sources).iterate()
            if task.source in known
        )
        return self._plan(tasks, listing)

    def plan_replacements(self, listing: SourceListing, revisions: Mapping[str, int]) -> PlannedWork | None:
        """Plan the sources whose outputs up to these revisions are distrusted, where they are still listed.

        They get the next revision, and nothing earlier is adopted. None when none of them is listed.
        """
        known = load_inventory(self.store, read_plan_summaries(self.store))
        tasks = (
            replace(task, revision=max(known[task.source][1], revisions[task.source]) + 1)
            for task in listing.only(revisions).iterate()
            if task.source in known
        )
        return self._plan(tasks, listing, adopts_earlier=False)

    def _plan(
        self, tasks: Iterable[ImageTask], listing: SourceListing, *, adopts_earlier: bool = True
    ) -> PlannedWork | None:
        plans = read_plan_summaries(self.store)
        number = plans[-1].plan + 1 if plans else 1
        shards = plan_shards(tasks, number, self.record.config.sharding)
        plan = write_plan(self.store, number, shards, listing=listing, adopts_earlier=adopts_earlier)
        return PlannedWork(plan, frozenset(), resuming=False) if plan else None

    def _known(self, plans: list[PlanSummary]) -> dict[str, tuple[str, int]]:
        """Version and revision of what was planned; none that could come again where a failure lay outside the file."""
        known = load_inventory(self.store, plans)
        current = open_manifest(self.store, columns=("source", "plan", "error_code")).current
        failed = current.filter(pc.is_in(current["error_code"], pa.array(sorted(RETRIED_CODES))))
        for source in known.keys() & set(failed["source"].to_pylist()):
            known[source] = (_NO_ETAG, known[source][1] - 1)
        return known

    def shards(self, work: PlannedWork) -> Iterator[Shard]:
        """The shards of `work` that are not committed, streamed from the plan's files."""
        return iter_shards(self.store, work.plan, skip=work.done)


def open_job(
    store: ObjectStore,
    config: ConversionConfig,
    *,
    source_root: str,
    weights_name: str,
    weights_sha256: str,
    verdict: StoreVerdict | None = None,
) -> Job:
    """Create the job at its destination, or join the one that is there.

    `verdict`, what was seen of the store, is recorded for a new job, and holds for one that is joined as well.
    On a weak store the job may be replaced by one that is created at the same time: see `confirm_job`.
    Raises DestinationError when the one that is there contradicts itself, would give other pixels or reads another
    source, naming the fields that differ, and when the destination cannot be written.
    """
    verdict = verdict or StoreVerdict(place=None, weakness=None, has_conditional_create=True)
    record = JobRecord(
        schema_version=JOB_SCHEMA_VERSION,
        job_id=uuid4().hex,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        software_version=pipeline.__version__,
        source_root=source_root,
        weights_name=weights_name,
        weights_sha256=weights_sha256,
        has_conditional_create=verdict.has_conditional_create,
        store_weakness=verdict.weakness,
        store_place=verdict.place,
        pixel_fields=config.pixel_fields(),
        pixel_digest=config.pixel_digest(),
        config=to_record(config),
    )
    existing = read_job(store)
    if existing is None:
        _require_nothing_of_a_job(store)
        try:
            store.create(JOB_KEY, record.model_dump_json(indent=2).encode())
            fault_point("job.created")
            return Job(store, record.model_copy(update={"config": config}))
        except ObjectExistsError:
            existing = read_job(store)
        except ObjectDeniedError as error:
            raise DestinationError(f"cannot write to {store.url}: {error}") from error
    return _joined(existing, record.model_copy(update={"config": config}), store)


def _require_nothing_of_a_job(store: ObjectStore) -> None:
    """Raise DestinationError where a job has been whose job.json is gone: its rows would pass for a new one's."""
    there = next(iter(store.list(PLAN_PREFIX)), None)
    if there is None and not committed_parts(store):
        return
    if read_job(store) is not None:  # another driver's, created since
        return
    what = "plans" if there else "rows"
    raise DestinationError(
        f"{store.url} holds {what} of a job, but not its {JOB_KEY}: restore that from a backup, or give another "
        "destination"
    )


def confirm_job(job: Job) -> Job:
    """Look at job.json once more, now that the destination is owned: the job to go on with.

    Of two drivers that create job.json at once, a store that does not decide races lets the one win that is slower, and
    the other one can be first at the lease. Raises DestinationError where the job that is there is another one.
    """
    return _joined(read_job(job.store), job.record, job.store)


def _joined(existing: JobRecord | None, wanted: JobRecord, store: ObjectStore) -> Job:
    """The job that exists, with today's options. Raises DestinationError where it is not the one that is wanted."""
    if existing is None:
        raise ManifestError(f"{store.url}: {JOB_KEY} appeared and vanished; is something else deleting here?")
    require_whole(existing, store.url)
    require_same(existing, wanted, store.url)
    return Job(store, existing.judged(wanted.verdict).model_copy(update={"config": wanted.config}))
