"""The real network, in an engine whose process writes down which GPU Ray gave it, and where."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import ray
from counted_engine import CountedEngine

from pipeline.execution.base import WorkerSpec
from pipeline.inference.engine import InferenceEngine
from pipeline.models.checkpoint import build_network, load_weights


def card_engine(spec: WorkerSpec) -> CountedEngine:
    """The network as workers build it; its first image waits until `start_together` was called."""
    context = ray.get_runtime_context()
    destination = Path(spec.config.destination.url)
    folder = _cards(destination)
    folder.mkdir(exist_ok=True)
    said = [context.get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), *map(str, ray.get_gpu_ids())]
    (folder / str(os.getpid())).write_text("\n".join([*said, str(context.get_assigned_resources()["GPU"])]))
    network = InferenceEngine(build_network(load_weights(spec.weights_name, spec.weights_data)), spec.config.inference)
    return CountedEngine(network, destination.with_name("computed"), least_s=0.1)


def cards(destination: Path) -> Iterable[tuple[str, ...]]:
    """What each process wrote: its node, what CUDA sees there, Ray's numbers of its GPUs, its share of them."""
    return [tuple(each.read_text().split("\n")) for each in _cards(destination).iterdir()]


def _cards(destination: Path) -> Path:
    return destination.with_name("cards")
