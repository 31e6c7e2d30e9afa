"""A training run: check everything, train on the chosen executor, draw the curves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.signals import noting_signals
from jobs.train_progress import TrainingReporter
from jobs.train_request import TrainingRequest, check_request
from pipeline.config import ExecutionConfig
from pipeline.driver_lease import DriverLease, acquire_lease
from pipeline.errors import (
    DestinationError,
    StorageError,
    SystemicError,
)
from pipeline.inference.memory import retain_freed_memory
from pipeline.simulation.scenes import HdrScene
from pipeline.storage import ObjectStore, open_store
from pipeline.training.checkpoints import BEST_WEIGHTS, FINAL_WEIGHTS
from pipeline.training.config import TrainingConfig
from pipeline.training.events import Observer, TrainingEvent
from pipeline.training.loop import TrainingOutcome
from pipeline.training.record import as_recorded, check_record, open_record
from pipeline.training.run import SceneFiles, TrainingJob, list_scenes

_MAX_FAILURES = 3


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run did and where its results lie."""

    out: str
    training: TrainingOutcome

    def text(self) -> str:
        """One line for a person."""
        trained, place = self.training, f"{self.out}/{FINAL_WEIGHTS}"
        if not trained.num_steps_now:
            return f"nothing to do: trained {trained.step:,} steps before; give more --steps or --time-budget. {place}"
        best = trained.best
        score = f"; best validation {best.score:.4g} at step {best.step:,}: {self.out}/{BEST_WEIGHTS}" if best else ""
        return f"{trained.step:,} steps in {trained.elapsed_s:.0f} s to {place}{score}"

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes."""
        trained = self.training
        return {
            "out": self.out,
            "weights": f"{self.out}/{FINAL_WEIGHTS}",
            "step": trained.step,
            "num_steps_now": trained.num_steps_now,
            "elapsed_s": trained.elapsed_s,
            "num_skipped": trained.num_skipped,
            "best_score": trained.best.score if trained.best else None,
            "best_step": trained.best.step if trained.best else None,
        }


def run_training(request: TrainingRequest, reporter: TrainingReporter) -> RunOutcome:
    """Train, or carry on where an earlier start stopped.

    Raises UsageError before any work starts, SystemicError when the run has to stop; checkpoints are kept.
    """
    retain_freed_memory()
    job = check_request(request)
    note_short_run(job.config, reporter)
    files = list_scenes(request.data, job.holdout)
    keep_scenes = request.executor == "local"
    scenes = read_scenes(files, reporter, keep=keep_scenes)
    with unusable_out():
        store = open_out(job)
        data = job.describe_data(files)
        job = replace(job, config=as_recorded(store, job.config, data))
        check_record(store, job.config, data)
        lease = _own(store, reporter)
    with lease, reporter.watch() as watch:
        with unusable_out():
            open_record(store, job.config, data)
        observe = _while_owned(lease, watch)
        message = "stopping after this step, with a checkpoint, or before the first one; once more stops at once"
        if request.executor == "local":
            from pipeline.training.peers import Peers
            from pipeline.training.run import train

            with noting_signals(message) as should_stop:
                outcome = train(job, peers=Peers(), observe=observe, should_stop=should_stop, scenes=scenes)
        else:
            from jobs.train_ray import train_on_ray

            outcome = train_on_ray(
                job,
                num_workers=request.num_workers,
                address=request.address,
                max_failures=_MAX_FAILURES if request.max_failures is None else request.max_failures,
                observe=observe,
                stop_message=message,
            )
    if request.plot:
        from jobs.train_plot import draw_curves

        draw_curves(store)
    return RunOutcome(store.url, outcome)


def note_short_run(config: TrainingConfig, reporter: TrainingReporter) -> None:
    """Say where the learning rate never gets to what was asked for."""
    if config.warmup_steps >= config.steps:
        reporter.note(
            f"the learning rate rises for {config.warmup_steps:,} steps, and training ends after {config.steps:,}: "
            "give fewer --warmup-steps, or more --steps"
        )


def _own(store: ObjectStore, reporter: TrainingReporter) -> DriverLease:
    """The right to train at OUT, as a conversion has it for its destination. Raises DestinationInUseError."""
    return acquire_lease(
        store,
        timeout_s=ExecutionConfig().lease_timeout_s,
        is_weak="://" in store.url,  # not every store decides races: one look more costs seconds
        on_wait=reporter.note,
    )


def _while_owned(lease: DriverLease, observe: Observer) -> Observer:
    """`observe`, and stop with LeaseLostError once another start has taken over, because this one slept."""

    def checked(event: TrainingEvent) -> None:
        lease.check()
        observe(event)

    return checked


def read_scenes(files: SceneFiles, reporter: TrainingReporter, *, keep: bool) -> dict[str, HdrScene]:
    """Read every scene once, so that a bad one is refused by name before work starts; return them if `keep`."""
    reporter.note(f"reading {len(files.train)} scenes to learn from and {len(files.holdout)} held out")
    scenes = {}
    for name in (*files.train, *files.holdout):
        scene = files.load([name])[0]
        if keep:
            scenes[name] = scene
    return scenes


def open_out(job: TrainingJob) -> ObjectStore:
    """Return the store at OUT, not contacted yet. Raises DestinationError where it is DATA."""
    if "://" not in job.out and Path(job.out).resolve() == Path(job.data).resolve():
        raise DestinationError(f"OUT and DATA are the same folder, {job.out}")
    return open_store(job.out, job.storage)


@contextmanager
def unusable_out() -> Iterator[None]:
    """Before work starts, a store that cannot be used is bad usage (DestinationError), not a run that died."""
    try:
        yield
    except (StorageError, SystemicError) as error:
        raise DestinationError(f"cannot use OUT: {error}") from error
