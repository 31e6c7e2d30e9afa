"""A training run whose data one worker's machine lacks, and which counts how often its workers begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.training.run import TrainingJob


class OneSidedJob(TrainingJob):
    """In the worker of rank 1, `data` is a folder that is not there; `out`/begun has a line for each look at it."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name != "data":
            return value
        from ray.train import get_context

        rank = get_context().get_world_rank()
        with Path(self.out, "begun").open("a", encoding="utf-8") as file:
            file.write(f"{rank}\n")
        return f"{value}/missing" if rank == 1 else value
