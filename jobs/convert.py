"""The conversion job: check everything, plan, run, summarise. The command line calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from jobs.outcome import ConversionOutcome, list_failures
from jobs.progress import Reporter, Watch, plural
from jobs.scaling_log import ScalingLog
from jobs.store_check import check_store
from jobs.weights import read_weights
from pipeline.config import ConversionConfig, DestinationConfig, ExecutionConfig, SourceConfig
from pipeline.driver_lease import DriverLease, acquire_lease
from pipeline.errors import (
    ConfigError,
    DestinationError,
    ObjectDeniedError,
    ObjectMissingError,
    SourceError,
    StorageError,
    SystemicError,
    TooManyFailuresError,
    UsageError,
)
from pipeline.execution.account import RunAccount, open_account
from pipeline.execution.address import check_address, ray_address
from pipeline.execution.base import Executor, Progress, RunSummary, WorkerSpec, WorkSize
from pipeline.faults import fault_point
from pipeline.job import Job, PlannedWork, confirm_job, open_job, read_job
from pipeline.manifest import SUMMARY_COLUMNS, open_manifest, summarise
from pipeline.sharding import SourceListing, SourceShape, is_on_web, open_source, require_short_prefix, source_shape
from pipeline.storage import open_store
from pipeline.storage.endpoints import may_overlap

if TYPE_CHECKING:
    from pipeline.inference.base import Engine
    from pipeline.models.checkpoint import LoadedWeights
    from pipeline.storage import ObjectStore
    from pipeline.store_verdict import StoreVerdict


__all__ = [
    "ConversionOutcome",
    "Extend",
    "check_inference",
    "opened_source",
    "own_destination",
    "require_few_failures",
    "run_conversion",
]

Extend = Callable[[Job, SourceListing], PlannedWork | None]
"""Decides what is planned once earlier plans are finished."""


def run_conversion(
    config: ConversionConfig,
    reporter: Reporter,
    *,
    extend: Extend = Job.extend,
    build_engine: Callable[[WorkerSpec], Engine] | None = None,
    opened: SourceListing | None = None,
) -> ConversionOutcome:
    """Convert SRC to DST, or carry on where an earlier run stopped.

    `build_engine` replaces the network, for example by a stand-in that costs nothing. `opened` is the source where it
    has been opened already (`opened_source`).

    Earlier plans are finished first; then `extend` makes the next one, by default of what is new or changed in SRC.
    The destination is owned meanwhile. Raises UsageError before any work starts, DestinationInUseError among them where
    another driver is at work, and SystemicError when the job has to stop; committed work is kept.
    """
    account, started = open_account(), monotonic()
    listing = opened or opened_source(config)
    if config.execution.executor == "ray":
        check_address(ray_address(config.execution))
    from pipeline.models.checkpoint import load_weights  # torch: seconds that a wrong path need not cost

    name, data = read_weights(config.model.weights)
    check_inference(config)
    with _nothing_started("destination", DestinationError):
        job = _open(config, load_weights(name, data), listing, reporter)
    reporter.job(job.record.job_id)
    with own_destination(job, config.execution, reporter) as lease:
        with _nothing_started("destination", DestinationError):
            job = _confirmed(job, reporter)
        atomic_create = None if job.record.has_conditional_create else False
        spec = WorkerSpec(
            *(_isolated(config, reporter) if lease.follows_deaths else config, name, data),
            atomic_create=atomic_create,
            epoch=lease.epoch,
            job_id=job.record.job_id,
            build_engine=build_engine,
        )
        run, num_planned = _run_all(job, _work(job, listing, extend), spec, lease, reporter, account)
        fault_point("job.finished")
    if run.num_workers_lost:
        again = plural(run.num_given_back, "shard")
        reporter.note(f"{plural(run.num_workers_lost, 'worker')} lost on the way; {again} leased again")
    if listing.num_ignored:
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in listing.ignored_by_extension.items())
        examples = ", ".join(listing.counts.ignored_examples)
        files = plural(listing.num_ignored, "file")
        reporter.note(f"left out {files} without the name of an image ({kinds}), for example {examples}")
    if listing.counts.num_unusable:
        images, examples = plural(listing.counts.num_unusable, "image"), ", ".join(listing.counts.unusable_examples)
        reporter.warn(f"left out {images} whose names cannot be used, for example {examples}; rename them")
    if listing.counts.num_special:
        examples = ", ".join(listing.counts.special_examples)
        reporter.note(
            f"not taken, as no file or folder of the source itself (a link to a folder or to nothing, a device): "
            f"{listing.counts.num_special:,}, for example {examples}"
        )
    if listing.counts.num_vanished:
        images, examples = plural(listing.counts.num_vanished, "image"), ", ".join(listing.counts.vanished_examples)
        reporter.note(f"no longer in the source: {images}, for example {examples}; their rows and outputs stay")
    manifest = open_manifest(job.store, columns=(*SUMMARY_COLUMNS, "error_message"))
    return ConversionOutcome(
        destination=job.store.url,
        job_id=job.record.job_id,
        did_work=run.num_shards > 0,
        num_planned=num_planned,
        num_ignored=listing.num_ignored,
        ignored_by_extension=listing.ignored_by_extension,
        ignored_examples=tuple(listing.counts.ignored_examples),
        num_unusable=listing.counts.num_unusable,
        unusable_examples=tuple(listing.counts.unusable_examples),
        num_special=listing.counts.num_special,
        special_examples=tuple(listing.counts.special_examples),
        num_vanished=listing.counts.num_vanished,
        vanished_examples=tuple(listing.counts.vanished_examples),
        seconds=monotonic() - started,
        run=run,
        manifest=summarise(manifest),
        failures=list_failures(manifest),
    )


def opened_source(config: ConversionConfig) -> SourceListing:
    """The source as it is to be listed. Raises SourceError, ConfigError for options that do not fit it."""
    with _nothing_started("source", SourceError):
        source, destination = config.source, config.destination
        apart = not may_overlap(source.url, source.storage, destination.url, destination.storage)
        listing = open_source(source, None if apart else destination.url)
    _check_source_options(source, listing)
    return listing


def _open(config: ConversionConfig, weights: LoadedWeights, listing: SourceListing, reporter: Reporter) -> Job:
    """Join the job at the destination, or create it once the source is known to hold an image."""
    destination = config.destination
    store = open_store(destination.url, destination.storage)
    record = read_job(store)
    if record is None:
        require_short_prefix(destination.url)  # an older job may have one, and short names only
        with _nothing_started("source", SourceError):
            _look_at_first(listing)
        verdict = check_store(store, None, reporter, is_declared_weak=destination.is_weak)
        store = _as_judged(store, verdict, destination)
    else:
        verdict = record.verdict
    job = open_job(
        store,
        config,
        source_root=listing.root_url,
        weights_name=weights.name,
        weights_sha256=weights.sha256,
        verdict=verdict,
    )
    if record is None:
        return job
    verdict = check_store(store, record, reporter, is_declared_weak=destination.is_weak)
    return Job(_as_judged(store, verdict, destination), job.record.judged(verdict))


def _as_judged(store: ObjectStore, verdict: StoreVerdict, destination: DestinationConfig) -> ObjectStore:
    """The store as it is to be written to: looked at before each write where it ignores the condition."""
    if verdict.has_conditional_create:
        return store
    return open_store(destination.url, destination.storage, atomic_create=False)


def _confirmed(job: Job, reporter: Reporter) -> Job:
    """The job that is there now that the destination is owned. Raises DestinationError where it is another one."""
    confirmed = confirm_job(job)
    if confirmed.record.job_id != job.record.job_id:
        reporter.job(confirmed.record.job_id)
    return confirmed


def _look_at_first(listing: SourceListing) -> None:
    """Raise SourceError when there is nothing to convert, or when what is listed may not be read."""
    first = next(listing.iterate())
    if is_on_web(first.key):
        return  # it says nothing about the others
    try:
        listing.store.stat(first.key)
    except ObjectDeniedError as error:
        raise SourceError(f"the source can be listed but not read: {error}") from error
    except ObjectMissingError:
        return  # a list may name what is not there; that costs a row


def _work(job: Job, listing: SourceListing, extend: Extend) -> Iterator[PlannedWork]:
    """First what is planned and unfinished, then the next plan."""
    yield from job.pending()
    work = extend(job, listing)
    if work is not None:
        yield work


def own_destination(job: Job, execution: ExecutionConfig, reporter: Reporter) -> DriverLease:
    """The driver's lease on the job's destination, to be entered. Raises DestinationInUseError, DestinationError."""
    with _nothing_started("destination", DestinationError):
        return acquire_lease(
            job.store,
            timeout_s=execution.lease_timeout_s,
            is_weak=job.record.store_weakness is not None,
            on_wait=reporter.note,
        )


def _isolated(config: ConversionConfig, reporter: Reporter) -> ConversionConfig:
    """Let no decoder take down this process, as one may have taken down two drivers before; workers of Ray's can go."""
    if config.execution.executor != "local" or config.decode.isolate:
        return config
    reporter.note("the last two runs died: every image is decoded in a process of its own, should one be why")
    return config.model_copy(update={"decode": config.decode.model_copy(update={"isolate": True})})


def _run_all(
    job: Job,
    planned: Iterable[PlannedWork],
    spec: WorkerSpec,
    lease: DriverLease,
    reporter: Reporter,
    account: RunAccount,
) -> tuple[RunSummary, int]:
    """Run every unfinished plan on one executor, which starts with the first work. Returns totals and images."""
    total, num_planned, counted = RunSummary(), 0, Progress()
    with ExitStack() as stack:
        executor: Executor | None = None
        for work in planned:
            num_images = sum(len(shard.tasks) for shard in job.shards(work)) if work.done else work.plan.num_images
            num_planned += num_images
            if spec.weights_data is None and executor is None:
                reporter.warn("identity weights: tones are linearised, but clipped highlights are not reconstructed")
            reporter.note(_announce(work, num_images))
            if executor is None:
                executor = stack.enter_context(_executor(spec, ScalingLog(job.store, reporter), reporter, account))
            with reporter.watch(num_images) as watch:
                latest = [counted]

                def on_progress(now: Progress, watch: Watch = watch, latest: list[Progress] = latest) -> None:
                    watch(now.since(latest[0]))
                    latest[1:] = [now]
                    lease.check()
                    require_few_failures(now, spec.config.execution)

                done = executor.run(
                    job.shards(work),
                    num_shards=work.num_shards,
                    resuming=work.resuming,
                    on_progress=on_progress,
                    size=WorkSize(num_images, work.megapixels),
                )
                total = total.plus(done)
                counted = latest[-1]
    return total, num_planned


def require_few_failures(progress: Progress, execution: ExecutionConfig) -> None:
    """Raise TooManyFailuresError when so large a share of the images failed that the job must be set up wrongly."""
    if progress.num_images < execution.min_images_for_rate:
        return
    share = progress.num_failed / progress.num_images
    if share > execution.max_failure_rate:
        code, count = max(progress.failed_by_code.items(), key=lambda item: item[1], default=("?", 0))
        raise TooManyFailuresError(
            f"{share:.0%} of {progress.num_images:,} images failed, more than --max-failure-rate "
            f"{execution.max_failure_rate:.0%}; {count:,} of them with {code}"
        )


@contextmanager
def _executor(spec: WorkerSpec, on_scaling: ScalingLog, reporter: Reporter, account: RunAccount) -> Iterator[Executor]:
    """Build the executor that the configuration asks for; Ray is loaded, and started if need be, only here."""
    execution = spec.config.execution
    if execution.executor == "local":
        from pipeline.execution.local import LocalExecutor
        from pipeline.execution.worker import Worker

        worker = Worker(spec, "local")
        with LocalExecutor(
            worker,
            num_leases=execution.leases_per_worker,
            max_attempts=execution.max_shard_attempts,
            shard_timeout_s=execution.shard_timeout_s,
        ) as local:
            yield local
    else:
        from pipeline.execution.head_watch import watching_head
        from pipeline.execution.ray_executor import RayExecutor
        from pipeline.execution.ray_session import head_address, plan_resources, ray_session

        with ray_session(execution), watching_head(head_address(), reporter.warn):
            resources = plan_resources(spec.config)
            if resources.why:
                hint = "" if resources.num_gpus else "; --device cuda waits for GPUs"
                reporter.note(f"each worker asks for {resources.describe()}: {resources.why}{hint}")
            with RayExecutor(spec, resources, on_scaling, account) as on_ray:
                yield on_ray


@contextmanager
def _nothing_started(what: str, wrap: type[UsageError]) -> Iterator[None]:
    """Before work starts, a store that cannot be used is bad usage (exit 2), not a job that died."""
    try:
        yield
    except (StorageError, SystemicError) as error:
        raise wrap(f"cannot use the {what}: {error}") from error


def _announce(work: PlannedWork, num_images: int) -> str:
    verb = "carrying on with" if work.done else "converting"
    return f"plan {work.plan.plan}: {verb} {plural(num_images, 'image')} in {plural(work.num_shards, 'shard')}"


def _check_source_options(source: SourceConfig, listing: SourceListing) -> None:
    """Raise ConfigError for options that do not fit the source; lists and inventories may name objects anywhere."""
    if source_shape(source.url) in {SourceShape.LIST, SourceShape.INVENTORY}:
        return
    try:
        source.storage.require_fitting(listing.root_url)
    except ValueError as error:
        raise ConfigError(f"--src-…: {error}") from error


def check_inference(config: ConversionConfig) -> None:
    """Raise ConfigError for a device, precision or budget that cannot work, where this machine does the work."""
    from pipeline.inference.engine import region_pixels_within
    from pipeline.inference.precision import resolve_device, resolve_precision

    if config.execution.executor == "local" or ray_address(config.execution) is None:
        device = resolve_device(config.inference.device)
        precision = resolve_precision(config.inference.precision, device)
        if config.inference.memory_budget_bytes is not None:
            region_pixels_within(config.inference, device.type, precision, config.inference.memory_budget_bytes)
