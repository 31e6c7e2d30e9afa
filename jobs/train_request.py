"""What `hdrfleet train` was asked for, checked before anything is read at length or written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from jobs.assignments import assigned
from jobs.store_options import require_heeded
from jobs.weights import read_weights
from pipeline.config import ExecutionConfig, StorageConfig, first_fault
from pipeline.errors import ConfigError
from pipeline.execution.address import check_address, ray_address
from pipeline.models.builtin import DEFAULT
from pipeline.simulation.camera import CameraRanges
from pipeline.simulation.split import read_names
from pipeline.training.config import TrainingConfig, build_training_config
from pipeline.training.loss_config import HEEDED_BY, LOSS_PRESETS, LossConfig
from pipeline.training.metrics import require_tensorboard
from pipeline.training.run import TrainingJob
from pipeline.training.start import BUILT_IN_STARTS, starting_network

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
        if name == "options":  # what two of them do not allow together says which
            raise ConfigError(text) from error
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
    loss = assigned(LossConfig, LOSS_PRESETS[request.loss_preset], changed, "--loss")
    for name in changed:
        terms = HEEDED_BY.get(name, ())
        if terms and not any(getattr(loss, term) for term in terms):
            raise ConfigError(f"--loss {name}: nothing heeds it; give {' or '.join(terms)} as well, or --loss-preset")
    return loss


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
