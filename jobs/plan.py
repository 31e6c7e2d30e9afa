"""`hdrfleet plan`: what a conversion would take, from a listing, a sample of headers and a table of machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.plan_measured import Measured
from jobs.plan_prices import NodeType, choose, load_node_types
from jobs.plan_source import SourceEstimate, estimate_source
from jobs.plan_speed import (
    OUTPUT_MB_PER_MEGAPIXEL,
    Prediction,
    WorkerSpeed,
    Workload,
    believed_on,
    measured_compression,
    measured_speed,
    node_speed,
    predict,
    workload,
)
from jobs.units import money_apart
from jobs.weights import read_weights
from pipeline.config import ConversionConfig
from pipeline.errors import ConfigError, SourceError, StorageError, SystemicError
from pipeline.sharding import open_source

DEFAULT_HEADERS = 200


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to reckon with. `measured` stands for the speed of `node_type`, or for a machine without a price."""

    num_headers: int = DEFAULT_HEADERS
    seed: int = 0
    prices: Path | None = None
    node_type: str | None = None
    measured: Measured | None = None
    num_workers: tuple[int, ...] = (1, 4, 16, 64)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of the plan, how fast a worker on it is taken to be, and the job on 1..N of them."""

    node: NodeType | None
    speed: WorkerSpeed
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """Everything that `hdrfleet plan` prints. `output_bytes` has an estimate for each compression."""

    source: SourceEstimate
    work: Workload
    compression: str
    output_bytes: dict[str, float]
    measured: Measured | None
    machines: tuple[Machine, ...]

    def cheapest(self, *, on_spot: bool) -> Prediction | None:
        """The prediction that costs least; None where nothing has such a price."""
        all_of_them = [prediction for machine in self.machines for prediction in machine.predictions]
        priced = [(cost_of(prediction, on_spot=on_spot), prediction) for prediction in all_of_them]
        return min(
            ((cost, prediction) for cost, prediction in priced if cost is not None), default=(0, None), key=_cost
        )[1]

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes."""
        return {
            "source": asdict(self.source),
            "compression": self.compression,
            "output_bytes": self.output_bytes,
            "measured": asdict(self.measured) if self.measured else None,
            "machines": [
                {
                    "node_type": machine.node.model_dump() if machine.node else None,
                    "speed": asdict(machine.speed)
                    | {"megapixels_per_s": self.work.megapixels / max(1e-9, machine.speed.worker_s)},
                    "predictions": [asdict(prediction) for prediction in machine.predictions],
                }
                for machine in self.machines
            ],
        }


def _cost(pair: tuple[float, Prediction | None]) -> float:
    return pair[0]


def cost_of(prediction: Prediction, *, on_spot: bool) -> float | None:
    """On-demand or spot cost in the prediction's currency; None where there is no such price."""
    return prediction.spot_cost if on_spot else prediction.cost


def make_plan(config: ConversionConfig, request: PlanRequest) -> ConversionPlan:
    """List the source, sample it and reckon. Changes nothing anywhere. Raises SourceError and ConfigError."""
    types = _for_placement(choose(load_node_types(request.prices), request.node_type), config)
    try:
        listing = open_source(config.source)
    except (StorageError, SystemicError) as error:
        raise SourceError(f"cannot use the source: {error}") from error
    source = estimate_source(listing, config.sharding, num_headers=request.num_headers, seed=request.seed)
    measured = request.measured
    work = workload(source, config, measured)
    per_sample = {"half": 1e6, "float": 2e6}[config.encode.pixel_type]
    sizes = {name: size * per_sample * source.megapixels for name, size in OUTPUT_MB_PER_MEGAPIXEL.items()}
    sizes[measured_compression(config.encode)] = work.output_bytes
    width = _width(config.model.weights) if any(node.peak_tflops for node in types) else 64
    machines: list[Machine] = []
    if measured and request.node_type is None:
        machines.append(
            _machine(work, None, measured_speed(work, measured, measured.start_s or 0.0), request.num_workers)
        )
    for node in types:
        is_measured = measured is not None and request.node_type is not None
        speed = (
            measured_speed(work, measured, node.start_s, believed_megapixels_per_s=believed_on(node, config))
            if measured and is_measured
            else node_speed(work, node, config, width=width)
        )
        machines.append(_machine(work, node, speed, request.num_workers))
    return ConversionPlan(source, work, config.encode.compression, sizes, measured, tuple(machines))


def _for_placement(types: Sequence[NodeType], config: ConversionConfig) -> tuple[NodeType, ...]:
    """Those that the job could run on, with the workers on a card that it wants. Raises ConfigError for none."""
    sharing = config.execution.placement.workers_per_gpu
    if sharing is None:
        return tuple(types)
    fit = tuple(node.shared(sharing) for node in types if node.gpus)
    if not fit:
        names = ", ".join(node.name for node in types)
        raise ConfigError(f"--workers-per-gpu {sharing}: {names} has no GPU; drop it, or name a machine with one")
    return fit


def _width(weights: str) -> int:
    """The network's width, which decides its FLOPs. Raises WeightsError."""
    from pipeline.models.checkpoint import load_weights

    return load_weights(*read_weights(weights)).width


def _machine(work: Workload, node: NodeType | None, speed: WorkerSpeed, counts: Sequence[int]) -> Machine:
    predictions = {(found := predict(work, speed, node, count)).num_workers: found for count in counts}
    return Machine(node, speed, tuple(predictions.values()))


def require_affordable(config: ConversionConfig, request: PlanRequest, max_cost: float, *, on_spot: bool) -> Prediction:
    """Raise ConfigError where the conversion would cost more than `max_cost` on the node type that was named.

    Reckons with the whole source, what is converted already included, and the workers that the configuration asks for.
    """
    if request.node_type is None:
        raise ConfigError(
            "--max-cost needs --node-type, the machine whose price counts; `hdrfleet plan SRC` lists them"
        )
    plan = make_plan(config, request)
    prediction = plan.machines[-1].predictions[0]
    cost = cost_of(prediction, on_spot=on_spot)
    if cost is None:
        raise ConfigError(f"--spot: {request.node_type} has no spot price; give one with --prices, or drop --spot")
    if cost > max_cost:
        amount, limit = money_apart(cost, max_cost)
        raise ConfigError(
            f"--max-cost: about {amount} {prediction.currency} on {prediction.num_workers} workers of "
            f"{request.node_type} are above the limit of {limit}; nothing was started"
        )
    return prediction
