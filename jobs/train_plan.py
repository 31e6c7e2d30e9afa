"""`hdrfleet train --dry-run`: all that a run checks, and what it would do. Nothing is written, nothing trained."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.progress import plural
from jobs.train_progress import TrainingReporter
from jobs.train_request import TrainingRequest, check_request
from jobs.train_run import note_short_run, open_out, read_scenes, unusable_out
from pipeline.config import ExecutionConfig
from pipeline.errors import DestinationError
from pipeline.execution.address import ray_address
from pipeline.simulation.scenes import HdrScene
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.config import TrainingConfig
from pipeline.training.memory import TrainingMemory, estimate_memory
from pipeline.training.record import as_recorded, check_record
from pipeline.training.run import list_scenes

_GB = 1e9


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a run would do from here on. `step` is where its newest checkpoint stands, 0 for a new run.

    `num_patches` and `num_photographs` are those of the steps that are left; a time budget may end them earlier.
    `device` and `precision` are what they were given as where a cluster decides, and memory is that of float32 there.
    """

    out: str
    init: str
    step: int
    config: TrainingConfig
    num_workers: int
    num_train_scenes: int
    num_holdout_scenes: int
    num_panoramas: int
    num_scene_px: int
    num_patches: int
    num_photographs: int
    num_parameters: int
    device: str
    precision: str
    memory: TrainingMemory

    def text(self) -> str:
        """What a person wants to know, a line each."""
        config, memory = self.config, self.memory
        budget = f", at most {config.time_budget_s:,.0f} s" if config.time_budget_s else ""
        resumed = f", of which {self.step:,} are done" if self.step else ""
        photographs = "kept on the device" if config.pool_views else f"{config.crops_per_view} patches from each"
        lines = (
            f"would train into {self.out}, from {self.init}; nothing was written",
            f"scenes       {self.num_train_scenes} to learn from and {self.num_holdout_scenes} held out: "
            f"{plural(self.num_panoramas, 'panorama')}, {self.num_scene_px / 1e6:.1f} MP in all",
            f"steps        {config.steps:,}{resumed}{budget}",
            f"patches      {self.num_patches:,} of {config.patch_px} px, {config.batch_size} a step",
            f"photographs  {self.num_photographs:,} of {config.view_px or config.patch_px} px, {photographs}",
            f"network      width {config.width}, {self.num_parameters:,} parameters",
            f"runs on      {self.device}, {self.precision}, {plural(self.num_workers, 'worker')}",
            f"memory       about {memory.device_bytes / _GB:.1f} GB for network and patches on the device, "
            f"{memory.host_bytes / _GB:.1f} GB for scenes and photographs, per worker",
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes."""
        return {**asdict(self), "config": self.config.model_dump(mode="json"), "memory": asdict(self.memory)}


def plan_training(request: TrainingRequest, reporter: TrainingReporter) -> TrainingPlan:
    """Check a run as `run_training` does, reading every scene, and say what it would do.

    OUT is read, not written: whether a bucket lets itself be written shows when the run starts. Raises UsageError.
    """
    job = check_request(request)
    config = job.config
    note_short_run(config, reporter)
    files = list_scenes(request.data, job.holdout)
    scenes = read_scenes(files, reporter, keep=True).values()
    step = 0
    with unusable_out():
        store = open_out(job)
        _require_writable(store.url)
        data = job.describe_data(files)
        config = as_recorded(store, config, data)
        if check_record(store, config, data):
            steps = Checkpoints(store, config_digest=config.digest(), keep=config.keep_checkpoints).steps()
            step = steps[-1] if steps else 0
    num_parameters = _count_parameters(config)
    device, precision, num_processes = _resolve(request, config)
    num_scene_px = sum(_num_px(scene) for scene in scenes)
    num_patches = max(0, config.steps - step) * config.batch_size
    return TrainingPlan(
        out=store.url,
        init=job.init_name,
        step=step,
        config=config,
        num_workers=request.num_workers,
        num_train_scenes=len(files.train),
        num_holdout_scenes=len(files.holdout),
        num_panoramas=sum(scene.is_panorama for scene in scenes),
        num_scene_px=num_scene_px,
        num_patches=num_patches,
        num_photographs=_num_photographs(config, num_patches),
        num_parameters=num_parameters,
        device=device,
        precision=precision,
        memory=estimate_memory(
            config,
            precision="fp32" if precision == "auto" else precision,
            num_parameters=num_parameters,
            num_patches=config.batch_size // request.num_workers,
            num_scene_px=num_scene_px,
            num_data_processes=num_processes,
        ),
    )


def _require_writable(out: str) -> None:
    """Raise DestinationError where a folder of this machine could not be created or written."""
    if "://" in out:
        return
    nearest = next(path for path in (Path(out), *Path(out).parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise DestinationError(f"cannot use OUT: {nearest} is no folder that can be written to")


def _num_photographs(config: TrainingConfig, num_patches: int) -> int:
    return config.pool_views or -(-num_patches // config.crops_per_view)


def _num_px(scene: HdrScene) -> int:
    return int(scene.pixels[..., 0].size)


def _count_parameters(config: TrainingConfig) -> int:
    import torch

    from pipeline.models.hdrunet import HDRUNet

    with torch.device("meta"):
        network = HDRUNet(nf=config.width)
    return sum(parameter.numel() for parameter in network.parameters())


def _resolve(request: TrainingRequest, config: TrainingConfig) -> tuple[str, str, int]:
    """Return device, precision and processes per worker: as they were given where a cluster elsewhere decides."""
    from pipeline.inference.precision import resolve_device
    from pipeline.training.batches import Share
    from pipeline.training.precision import resolve_training_precision
    from pipeline.training.run import num_data_workers

    if request.executor == "ray" and ray_address(ExecutionConfig(address=request.address)) is not None:
        return config.device, config.precision, config.num_data_workers or 0
    device = resolve_device(config.device)
    share = Share(0, request.num_workers)
    return str(device), resolve_training_precision(config.precision, device), num_data_workers(config, device, share)
