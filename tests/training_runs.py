"""Small training runs: a narrow network, patches that depend on their number alone, and scenes in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.config import StorageConfig
from pipeline.storage import ObjectStore, open_store
from pipeline.training.batches import LoadedBatches, Share
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.config import TrainingConfig, build_training_config
from pipeline.training.events import TrainingEvent
from pipeline.training.learner import Learner, LossFunction
from pipeline.training.loop import Trainer, Validator
from pipeline.training.losses import training_loss
from pipeline.training.peers import Peers
from pipeline.training.start import starting_network

HELD_OUT = "garden_02"
SCENES = ("desk", "garden_01", HELD_OUT, "harbour")


class NumberedPatches(Dataset[tuple[Tensor, Tensor]]):
    """Patch n is random colours drawn from n, and the same ones half as bright again where they are bright."""

    def __init__(self, patch_px: int = 16) -> None:
        self.patch_px = patch_px
        self.taken: list[int] = []

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        self.taken.append(number)
        ldr = np.random.default_rng(number).integers(0, 256, (3, self.patch_px, self.patch_px), dtype=np.uint8)
        encoded = ldr.astype(np.float32) / 255
        return torch.from_numpy(ldr), torch.from_numpy(np.where(encoded > 0.8, encoded * 1.5, encoded))


def tiny_config(**values: object) -> TrainingConfig:
    small: dict[str, object] = {
        "steps": 8,
        "batch_size": 2,
        "patch_px": 16,
        "view_px": 0,
        "width": 8,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "checkpoint_every_steps": 4,
        "validate_every_steps": 0,
        "precision": "fp32",
        "device": "cpu",
        "loss": {"log_weight": 0.25},
    }
    return build_training_config(**{**small, **values})


def memory_store(name: str) -> ObjectStore:
    return open_store(f"memory://{name}", StorageConfig())


def tiny_trainer(
    config: TrainingConfig,
    store: ObjectStore,
    *,
    patches: NumberedPatches | None = None,
    loss: LossFunction = training_loss,
    validate: Validator | None = None,
    observe: Callable[[TrainingEvent], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trainer:
    peers, device = Peers(), torch.device("cpu")
    network = starting_network(config.init, None, width=config.width, seed=config.seed)
    return Trainer(
        config,
        Learner(config, network, device=device, precision="fp32", peers=peers, loss=loss),
        LoadedBatches(
            patches or NumberedPatches(config.patch_px),
            batch_size=config.batch_size,
            share=Share(),
            num_data_workers=0,
            pin_memory=False,
        ),
        Checkpoints(store, config_digest=config.digest(), keep=config.keep_checkpoints),
        peers=peers,
        validate=validate,
        observe=observe,
        should_stop=should_stop,
    )


def write_scenes(folder: Path) -> Path:
    """Four HDR scenes with lamps of up to 12 stops over their surroundings, and the file that names one held out."""
    import OpenEXR

    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(SCENES):
        rng = np.random.default_rng(seed)
        height, width = (64, 128) if seed % 2 else (96, 80)
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        ground = 0.05 + 0.4 * (1 + np.sin(rows / 9 + seed)) * (1 + np.cos(columns / 7)) / 4
        lamp = 200 * np.exp(-((rows - height / 3) ** 2 + (columns - width / 2) ** 2) / 8)
        colour = rng.uniform(0.5, 1, (1, 1, 3)).astype(np.float32)
        pixels = (ground + lamp)[..., None] * colour * rng.uniform(0.9, 1.1, (height, width, 3))
        header: dict[str, Any] = {"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION}
        image = np.ascontiguousarray(pixels, dtype=np.float32)
        OpenEXR.File(header, {"RGB": image}).write(str(folder / f"{name}.exr"))
    (folder / "holdout.txt").write_text(f"# kept to choose by\n{HELD_OUT}\n")
    return folder
