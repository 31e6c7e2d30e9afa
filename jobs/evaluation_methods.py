"""The methods that evaluation compares: networks by their weights, and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from jobs.weights import read_weights
from pipeline.config import InferenceConfig, first_fault
from pipeline.errors import ConfigError
from pipeline.evaluation.baselines import BASELINES
from pipeline.models.builtin import BUILT_IN_WEIGHTS
from pipeline.models.origin import learnt_scenes

LdrArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Method:
    """A way from LDR codes, (H, W, 3) uint8 or uint16, to linear float32 (H, W, 3) with 1.0 = the clipping level.

    `details` say what it is, for records; baselines have none. `learnt_from` names scenes that it is known to have
    learnt from.
    """

    name: str
    run: Callable[[LdrArray], npt.NDArray[np.float32]]
    details: dict[str, object]
    learnt_from: frozenset[str] = frozenset()


def baseline_methods() -> list[Method]:
    """Return every baseline, in the order of tables."""
    return [Method(name, run, {}) for name, run in BASELINES.items()]


def network_methods(weights: Sequence[str], device: str, precision: str) -> list[Method]:
    """Load each of the weights into an engine of its own, as `hdrfleet convert` runs it.

    A file is named by its stem, or by its whole path where two share one, built-in weights by their name; `network:`
    stands before a name that a baseline has. Raises WeightsError for what cannot be loaded, ConfigError for weights
    given twice and for a bad device or precision.
    """
    if len(set(weights)) != len(weights):
        raise ConfigError("--weights names the same file twice")
    try:
        config = InferenceConfig.model_validate({"device": device, "precision": precision})
    except ValidationError as error:
        where, what = first_fault(error)
        raise ConfigError(f"--{where}: {what}") from error
    stems = [_stem(name) for name in weights]
    names = [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, weights, strict=True)]
    return [_network(name, source, config) for name, source in zip(names, weights, strict=True)]


def _stem(weights: str) -> str:
    stem = weights if weights in BUILT_IN_WEIGHTS else PurePosixPath(weights).stem
    return f"network:{stem}" if stem in BASELINES else stem


def _network(name: str, source: str, config: InferenceConfig) -> Method:
    from pipeline.inference.engine import InferenceEngine
    from pipeline.models.checkpoint import build_network, load_weights

    file, data = read_weights(source)
    loaded = load_weights(file, data)
    engine = InferenceEngine(build_network(loaded), config)
    details = {
        "weights": loaded.name,
        "sha256": loaded.sha256,
        "num_parameters": loaded.num_parameters,
        "device": engine.device,
        "precision": engine.precision,
    }
    return Method(name, lambda ldr: engine.infer(ldr).linear, details, learnt_scenes(data))
