"""One process of a training run, put together: scenes, patches, network, loop. Executors call `train`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from pipeline.config import StorageConfig
from pipeline.errors import InterruptedJobError
from pipeline.inference.precision import resolve_device
from pipeline.models.origin import learnt_scenes
from pipeline.simulation.camera import CameraRanges
from pipeline.simulation.scenes import HdrScene, find_scenes, load_scene
from pipeline.simulation.split import split_names
from pipeline.storage import open_store
from pipeline.training.batches import Batches, LoadedBatches, Share
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.config import TrainingConfig
from pipeline.training.events import Observer, TrainingEvent, ViewsTaken
from pipeline.training.learner import Learner
from pipeline.training.loop import Trainer, TrainingOutcome
from pipeline.training.metrics import MetricsWriter
from pipeline.training.patches import PatchDataset
from pipeline.training.peers import Peers
from pipeline.training.pool import PooledBatches, photograph_pool
from pipeline.training.precision import resolve_training_precision
from pipeline.training.start import IDENTITY, starting_network
from pipeline.training.validation import HeldOutLoss

# Held-out patches are the same for every seed, so that runs compare.
_VALIDATION_SEED = 1
_ENDLESS = 2**62
_MAX_DATA_WORKERS = 16


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """The scenes under `folder`, by name, divided into what is learnt from and what is kept to choose by."""

    folder: Path
    paths: dict[str, Path]
    train: list[str]
    holdout: list[str]

    def load(self, names: list[str]) -> list[HdrScene]:
        """Read these scenes into memory. Raises SceneError at the first bad one, by name."""
        return [load_scene(self.paths[name], name) for name in names]

    def describe(self) -> dict[str, object]:
        """What the record of a run holds of its scenes: their names, and the bytes of their files."""
        names = "\n".join([*self.train, "", *self.holdout])
        files = hashlib.sha256()
        for name in (*self.train, *self.holdout):
            with self.paths[name].open("rb") as file:
                files.update(hashlib.file_digest(file, "sha256").digest())
        return {
            "num_train_scenes": len(self.train),
            "num_holdout_scenes": len(self.holdout),
            "names_sha256": hashlib.sha256(names.encode()).hexdigest(),
            "scenes_sha256": files.hexdigest(),
        }


def list_scenes(folder: Path, holdout: tuple[str, ...] | None) -> SceneFiles:
    """Find and divide the scenes under a folder; see `split_names`. Raises SceneError."""
    paths = find_scenes(folder)
    split = split_names(paths, holdout)
    return SceneFiles(folder, paths, split["train"], split["holdout"])


@dataclass(frozen=True)
class TrainingJob:
    """All that a process needs to take part in a run, on any machine that sees `data`, a folder of HDR scenes.

    `init_data` holds the bytes of the weights to start from, None for built-in ones.
    """

    config: TrainingConfig
    data: str
    out: str
    holdout: tuple[str, ...] | None = None
    camera: CameraRanges = field(default_factory=CameraRanges)
    storage: StorageConfig = field(default_factory=StorageConfig)
    atomic_create: bool | None = None
    init_name: str = "identity"
    init_data: bytes | None = None
    tensorboard: bool = True

    def describe_data(self, scenes: SceneFiles) -> dict[str, object]:
        """What the record of the run holds of its data and first weights."""
        init = hashlib.sha256(self.init_data).hexdigest() if self.init_data is not None else self.init_name
        return {
            **scenes.describe(),
            **{f"camera.{name}": value for name, value in asdict(self.camera).items()},
            "init_sha256": init,
        }


def train(
    job: TrainingJob,
    *,
    peers: Peers,
    observe: Observer,
    should_stop: Callable[[], bool],
    scenes: dict[str, HdrScene] | None = None,
) -> TrainingOutcome:
    """Take part in the run until its end; see `Trainer.run` for what is raised.

    `scenes` are those that are in memory already, by name; the others are read.
    """
    config = job.config
    device = resolve_device(config.device)
    precision = resolve_training_precision(config.precision, device)
    files = list_scenes(Path(job.data), job.holdout)
    loaded = scenes or {}

    def dataset(names: list[str], num_patches: int, seed: int) -> PatchDataset:
        chosen = [loaded.get(name) or load_scene(files.paths[name], name) for name in names]
        return PatchDataset(
            chosen,
            config.patch_px,
            num_patches,
            seed,
            job.camera,
            view_px=config.view_px,
            crops_per_view=config.crops_per_view,
        )

    def views_taken(num_views: int) -> None:
        if peers.is_first:
            observe(ViewsTaken(num_views, config.pool_views))
        if peers.agree(0.0, should_stop())[1]:
            raise InterruptedJobError(
                f"stopped after {num_views:,} of the pool's {config.pool_views:,} photographs, which are not kept, "
                "before the first step"
            )

    def batches() -> Batches:
        workers = num_data_workers(config, device, peers.share)
        if not config.pool_views:
            return LoadedBatches(
                dataset(files.train, _ENDLESS, config.seed),
                batch_size=config.batch_size,
                share=peers.share,
                num_data_workers=workers,
                pin_memory=device.type == "cuda",
            )
        pool = photograph_pool(
            [loaded.get(name) or load_scene(files.paths[name], name) for name in files.train],
            num_views=config.pool_views,
            view_px=config.view_px,
            seed=config.seed,
            ranges=job.camera,
            num_processes=workers,
            device=device,
            on_views=views_taken,
        )
        return PooledBatches(
            pool, patch_px=config.patch_px, batch_size=config.batch_size, share=peers.share, seed=config.seed
        )

    store = open_store(job.out, job.storage, atomic_create=job.atomic_create)
    checkpoints = Checkpoints(
        store,
        config_digest=config.digest(),
        keep=config.keep_checkpoints,
        scenes={*files.train, *learnt_scenes(job.init_data)},
    )
    init = (IDENTITY, None) if checkpoints.steps() else (job.init_name, job.init_data)
    network = starting_network(*init, width=config.width, seed=config.seed)
    with ExitStack() as stack:
        validate = None
        if peers.is_first:
            metrics = stack.enter_context(
                MetricsWriter(store, log_every_steps=config.log_every_steps, tensorboard=job.tensorboard)
            )
            observe = _both(metrics, observe)
            validate = HeldOutLoss(
                dataset(files.holdout, config.num_validation_patches, _VALIDATION_SEED),
                num_patches=config.num_validation_patches,
                batch_size=config.batch_size,
                loss=config.loss,
                device=device,
                precision=precision,
            )
        trainer = Trainer(
            config,
            Learner(config, network, device=device, precision=precision, peers=peers),
            batches(),
            checkpoints,
            peers=peers,
            validate=validate,
            observe=observe,
            should_stop=should_stop,
        )
        return trainer.run()


def num_data_workers(config: TrainingConfig, device: torch.device, share: Share) -> int:
    """Return how many processes prepare patches for one worker.

    By default those cores that the network leaves idle: none on a CPU, all but one beside a GPU (shared by the
    workers of this node, for which the number of all workers stands in).
    """
    if config.num_data_workers is not None:
        return config.num_data_workers
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) // share.world_size
    return min(_MAX_DATA_WORKERS, max(1, cores - 1))


def _both(first: Observer, second: Observer) -> Observer:
    def observe(event: TrainingEvent) -> None:
        first(event)
        second(event)

    return observe
