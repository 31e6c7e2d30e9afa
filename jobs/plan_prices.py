"""The table of machines that `hdrfleet plan` compares: what they cost and how fast they are taken to be."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from pipeline.config import FrozenModel, first_fault
from pipeline.errors import ConfigError
from pipeline.models.descriptor import macs_per_pixel

# Share of a card's peak that the network is taken to reach. On a processor 92 % of the GEMM peak was measured; layers
# of 64 channels at full resolution wait for memory on a card, so less is to be expected, and how much less is open.
PEAK_SHARE, LEAST_PEAK_SHARE, MOST_PEAK_SHARE = 0.3, 0.15, 0.5
_MAX_BYTES = 4 * 2**20
# A figure beyond this is a slip of the pen, and would make others infinite.
_MOST = 1e9


def tflop_per_megapixel(width: int) -> float:
    """What the network takes: two FLOP per multiply-accumulate, 355,136 of these per pixel at width 64."""
    return 2 * macs_per_pixel(width) * 1e6 / 1e12


class NodeType(FrozenModel):
    """One kind of machine. Speed is that of one worker's network, alone: either stated, or peak x share / FLOP.

    `gpus` is the number of workers on it, until `shared` says otherwise; 0 is one worker on its processor. Prices are
    per node and hour in `currency`.
    """

    name: str = Field(min_length=1)
    provider: str = ""
    accelerator: str = ""
    gpus: int = Field(ge=0, le=64)
    cpus: int = Field(ge=1, le=4096)
    network_gbit_per_s: float = Field(ge=0.001, le=100_000)
    price_per_h: float = Field(ge=0, le=_MOST)
    spot_price_per_h: float | None = Field(None, ge=0, le=_MOST)
    currency: str = "USD"
    megapixels_per_s: float | None = Field(None, ge=0.000_001, le=_MOST)
    peak_tflops: float | None = Field(None, ge=0.001, le=_MOST)
    source: Literal["estimated", "measured"]
    start_s: float = Field(240.0, ge=0, le=86_400)
    # Of a job and not of a machine: no key of the table.
    _workers_per_gpu: int = PrivateAttr(1)

    @model_validator(mode="after")
    def _one_speed(self) -> Self:
        if (self.megapixels_per_s is None) == (self.peak_tflops is None):
            msg = f"{self.name}: give one of megapixels_per_s and peak_tflops"
            raise ValueError(msg)
        if self.peak_tflops is not None and self.source == "measured":
            msg = f"{self.name}: a speed that follows from peak_tflops is estimated, not measured"
            raise ValueError(msg)
        return self

    @property
    def num_workers(self) -> int:
        """Workers on one node."""
        return max(1, self.gpus * self._workers_per_gpu)

    def shared(self, workers_per_gpu: int | None) -> Self:
        """This machine with so many workers on each of its cards, which part the card's speed; None is one."""
        copy = self.model_copy()
        copy._workers_per_gpu = workers_per_gpu or 1
        return copy

    def network_megapixels_per_s(self, width: int) -> tuple[float, float, float]:
        """The speed of a network of `width` channels in one worker: as taken, and the least and the most it may be."""
        if self.megapixels_per_s is not None:
            spread = 1.1 if self.source == "measured" else 2.0
            taken, least, most = (self.megapixels_per_s * factor for factor in (1.0, 1 / spread, spread))
        else:
            assert self.peak_tflops is not None
            full = self.peak_tflops / tflop_per_megapixel(width)
            taken, least, most = (full * share for share in (PEAK_SHARE, LEAST_PEAK_SHARE, MOST_PEAK_SHARE))
        sharing = self.num_workers / max(1, self.gpus)
        return taken / sharing, least / sharing, most / sharing


def load_node_types(path: Path | None) -> tuple[NodeType, ...]:
    """The table at `path`, or the one that comes with hdrfleet. Raises ConfigError in one line, naming the fault."""
    shown = "--prices" if path is None else f"--prices {path}"
    try:
        with (path or files("jobs") / "data" / "node_types.toml").open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{shown}: has more than {_MAX_BYTES >> 20} MiB; that is no price table")
        entries = tomllib.loads(data.decode()).get("node_type")
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{shown}: no TOML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{shown}: has no [[node_type]]; jobs/data/node_types.toml in the package is an example")
    types = []
    for number, entry in enumerate(entries, start=1):
        try:
            types.append(NodeType.model_validate(entry))
        except ValidationError as error:
            where, what = first_fault(error)
            raise ConfigError(f"{shown}: node_type {number}: {where + ': ' if where else ''}{what}") from error
    names = [node.name for node in types]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{shown}: {double} is there twice")
    if len(currencies := sorted({node.currency for node in types})) > 1:
        raise ConfigError(
            f"{shown}: prices in {' and '.join(currencies)} cannot be compared; give them in one currency"
        )
    return tuple(types)


def choose(types: tuple[NodeType, ...], name: str | None) -> tuple[NodeType, ...]:
    """The type of that name, or all. Raises ConfigError, naming those that there are."""
    if name is None:
        return types
    chosen = tuple(node for node in types if node.name == name)
    if not chosen:
        raise ConfigError(f"--node-type {name}: not in the table; there are: {', '.join(node.name for node in types)}")
    return chosen
