"""A training run: check everything, train on the chosen executor, draw the curves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from jobs.assignments import assigned
from jobs.signals import noting_signals
from jobs.store_options import require_heeded
from jobs.train_progress import TrainingReporter
from jobs.weights import read_weights
from pipeline.config import ExecutionConfig, StorageConfig, first_fault
from pipeline.errors import (
    ConfigError,
    DestinationError,
    StorageError,
    SystemicError,
)
from pipeline.execution.address import check_address, ray_address
from pipeline.inference.memory import retain_freed_memory
from pipeline.models.builtin import DEFAULT
from pipeline.simulation.camera import CameraRanges
from pipeline.simulation.scenes import HdrScene
from pipeline.simulation.split import read_names
from pipeline.storage import ObjectStore, open_store
from pipeline.training.checkpoints import BEST_WEIGHTS, FINAL_WEIGHTS
from pipeline.training.config import TrainingConfig, build_training_config
from pipeline.training.loop import TrainingOutcome
from pipeline.training.losses import LOSS_PRESETS, LossConfig
from pipeline.training.metrics import require_tensorboard
from pipeline.training.record import open_record
from pipeline.training.run import SceneFiles, TrainingJob, list_scenes
from pipeline.training.start import BUILT_IN_STARTS, starting_network

_MAX_FAILURES = 3
# How a user spells each field of the configuration, where the flag is not the field with dashes.
_FLAGS = {
    "time_budget_s": "--time-budget",
    "learning_rate": "--lr",
    "final_learning_rate_share": "--final-lr-share",
    "grad_clip_norm": "--grad-clip",
    "num_validation_patches": "--validation-patches",
    "validate_every_steps": "--validate-every",
    "num_data_workers": "--data-workers",
    "checkpoint_every_steps": "--checkpoint-every",
    "log_every_steps": "--log-every",
}


@dataclass(frozen=True)
class TrainingRequest:
    """What the command line asks for; `config`, `camera` and `storage` are validated when the run is checked.

    `config["loss"]` changes fields of the preset.
    """

    data: Path
    out: str
    config: dict[str, object]
    loss_preset: str = "paper"
    camera: dict[str, object] = field(default_factory=dict)
    storage: dict[str, object] = field(default_factory=dict)
    holdout: Path | None = None
    executor: str = "local"
    num_workers: int = 1
    address: str | None = None
    max_failures: int | None = None
    tensorboard: bool = True
    plot: bool = True


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
    files = list_scenes(request.data, job.holdout)
    keep_scenes = request.executor == "local"
    scenes = read_scenes(files, reporter, keep=keep_scenes)
    with unusable_out():
        store = open_out(job)
        open_record(store, job.config, job.describe_data(files))
    with reporter.watch() as observe:
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


def check_request(request: TrainingRequest) -> TrainingJob:
    """Raise UsageError for what cannot work, before anything is read at length or written."""
    config = _config({**request.config, "loss": _loss(request)})
    if request.executor not in {"ray", "local"}:
        raise ConfigError(f"--executor must be ray or local, not {request.executor}")
    if request.executor == "local" and request.num_workers > 1:
        raise ConfigError("--workers: the local executor is one process; use the ray executor for more")
    if request.executor == "local" and request.address:
        raise ConfigError("--address needs the ray executor; drop one of the two")
    if request.executor == "local" and request.max_failures is not None:
        raise ConfigError("--max-failures: the local executor replaces no workers; drop it, or use the ray executor")
    if request.num_workers < 1 or (request.max_failures or 0) < 0:
        raise ConfigError("--workers must be at least 1, --max-failures at least 0")
    _check_divides(config, request.num_workers)
    if request.executor == "local" or ray_address(ExecutionConfig(address=request.address)) is None:
        _check_device(config)
    if request.executor == "ray":
        from jobs.train_ray import require_ray_train

        require_ray_train()
        check_address(ray_address(ExecutionConfig(address=request.address)))
    if request.tensorboard:
        require_tensorboard()
    if request.plot:
        from jobs.train_plot import require_matplotlib

        require_matplotlib()
    init_name, init_data = _read_start(config)
    return TrainingJob(
        config=config,
        data=str(request.data.absolute()),
        out=request.out,
        holdout=None if request.holdout is None else read_names(request.holdout, "--holdout"),
        camera=assigned(CameraRanges, CameraRanges(), request.camera, "--camera"),
        storage=_storage(request.storage, request.out),
        init_name=init_name,
        init_data=init_data,
        tensorboard=request.tensorboard,
    )


def _config(values: dict[str, object]) -> TrainingConfig:
    try:
        return build_training_config(**values)
    except ConfigError as error:
        name, separator, text = str(error).partition(": ")
        flag = _FLAGS.get(name, f"--{name.replace('_', '-')}") if separator else name
        raise ConfigError(f"{flag}{separator}{text}") from error


def _read_start(config: TrainingConfig) -> tuple[str, bytes | None]:
    if config.init in BUILT_IN_STARTS:
        return config.init, None
    name, data = read_weights(config.init, built_in=(DEFAULT, *BUILT_IN_STARTS))
    starting_network(name, data, width=config.width, seed=config.seed)
    return name, data


def _loss(request: TrainingRequest) -> LossConfig:
    if request.loss_preset not in LOSS_PRESETS:
        raise ConfigError(f"--loss-preset: there is no {request.loss_preset!r}; give {' or '.join(LOSS_PRESETS)}")
    changed = request.config.get("loss", {})
    assert isinstance(changed, dict)
    return assigned(LossConfig, LOSS_PRESETS[request.loss_preset], changed, "--loss")


def _storage(values: dict[str, object], url: str) -> StorageConfig:
    require_heeded(url, values)
    try:
        return StorageConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(first_fault(error)[1]) from error


def _check_divides(config: TrainingConfig, num_workers: int) -> None:
    from pipeline.training.batches import Share

    Share(0, num_workers).of(config.batch_size)


def _check_device(config: TrainingConfig) -> None:
    from pipeline.inference.precision import resolve_device
    from pipeline.training.precision import resolve_training_precision

    resolve_training_precision(config.precision, resolve_device(config.device))


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
