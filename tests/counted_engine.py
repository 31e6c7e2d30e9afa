"""The real network, in an engine that writes down which image it computes in which process, and can take its time."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from commands import wait_until
from fakes import FakeEngine

from pipeline.execution.base import WorkerSpec
from pipeline.inference.base import Engine, Inference, LdrPixels
from pipeline.inference.engine import InferenceEngine
from pipeline.models.checkpoint import build_network, load_weights


@dataclass
class CountedEngine:
    """Passes on to `inner`. Each image leaves a line with its pixels' digest in `folder`, in a file of the process.

    With `least_s`, or `s_per_megapixel`, an image takes so long at least, and the first ones wait until
    `start_together` was called.
    """

    inner: Engine
    folder: Path
    least_s: float = 0.0
    s_per_megapixel: float = 0.0

    def __post_init__(self) -> None:
        self.device, self.precision = self.inner.device, self.inner.precision
        self.folder.mkdir(exist_ok=True)

    def infer(self, pixels: LdrPixels) -> Inference:
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        with (self.folder / str(os.getpid())).open("a") as file:
            file.write(f"{digest}\n")
        least_s = self.least_s + self.s_per_megapixel * pixels.shape[0] * pixels.shape[1] / 1e6
        if least_s:
            wait_until(_gate(self.folder).exists, "all workers are there")
        done_at = time.monotonic() + least_s
        result = self.inner.infer(pixels)
        time.sleep(max(0.0, done_at - time.monotonic()))
        return result


def start_together(destination: Path) -> None:
    """Let engines of `slow_engine` begin."""
    _gate(destination.with_name("computed")).touch()


def _gate(folder: Path) -> Path:
    return folder.with_name("all-are-there")


def _folder(spec: WorkerSpec) -> Path:
    return Path(spec.config.destination.url).with_name("computed")


def network_engine(spec: WorkerSpec) -> CountedEngine:
    """The network, as workers build it."""
    weights = load_weights(spec.weights_name, spec.weights_data)
    return CountedEngine(InferenceEngine(build_network(weights), spec.config.inference), _folder(spec))


def slow_engine(spec: WorkerSpec) -> CountedEngine:
    """Half a second for each image, and no network: for schedules, where the processor is shared."""
    return CountedEngine(FakeEngine(), _folder(spec), least_s=0.5)


def slow_by_size_engine(spec: WorkerSpec) -> CountedEngine:
    """Three seconds for each megapixel, and no network."""
    return CountedEngine(FakeEngine(), _folder(spec), s_per_megapixel=3.0)


def computed(destination: Path) -> tuple[Counter[str], int]:
    """How often each image was computed, and by how many processes."""
    logs = list(destination.with_name("computed").iterdir())
    return Counter(line for log in logs for line in log.read_text().split()), len(logs)
