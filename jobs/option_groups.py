"""Options that belong together, written once: a command takes a group as one parameter, its user sees the options.

A group is a frozen dataclass whose fields are options. `grouped` replaces a command's parameter of such a type by the
group's options, and hands the command the group filled with what was given.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from jobs import options as opt
from pipeline.errors import ConfigError

_SRC = "Source storage"
_DST = "Destination storage"
_INFERENCE = "Inference"
_RUNNING = "Running"
_COST = "Cost"
_TIMEOUT_HELP = "Seconds of silence that end a request (by default 60)."
_ATTEMPTS_HELP = "Tries of a request that may succeed later (by default 6)."

_Command = TypeVar("_Command", bound=Callable[..., None])


def grouped(command: _Command) -> _Command:
    """Make of each parameter that is annotated with a group that group's options, in its place and by keyword."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    members = {name: get_type_hints(kind, include_extras=True) for name, kind in groups.items()}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
            continue
        parameters.extend(
            inspect.Parameter(
                field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=members[name][field.name]
            )
            for field in fields(groups[name])
        )

    @wraps(command)
    def expanded(**given: Any) -> None:
        filled = {name: kind(**{field: given.pop(field) for field in members[name]}) for name, kind in groups.items()}
        command(**given, **filled)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class SourceStorage:
    """How the source is reached; None where the user said nothing."""

    src_endpoint_url: Annotated[str | None, typer.Option(help="S3 endpoint of the source.", rich_help_panel=_SRC)] = (
        None
    )
    src_profile: Annotated[str | None, typer.Option(help="AWS profile.", rich_help_panel=_SRC)] = None
    src_region: Annotated[str | None, typer.Option(help="AWS region.", rich_help_panel=_SRC)] = None
    src_anonymous: Annotated[
        bool | None,
        typer.Option(
            "--src-anonymous/--no-src-anonymous",
            help="Read a public bucket without credentials.",
            rich_help_panel=_SRC,
        ),
    ] = None
    src_requester_pays: Annotated[
        bool | None,
        typer.Option(
            "--src-requester-pays/--no-src-requester-pays",
            help="Pay for requests to the source bucket.",
            rich_help_panel=_SRC,
        ),
    ] = None
    src_timeout: Annotated[float | None, typer.Option(help=_TIMEOUT_HELP, rich_help_panel=_SRC)] = None
    src_attempts: Annotated[int | None, typer.Option(help=_ATTEMPTS_HELP, rich_help_panel=_SRC)] = None

    def as_fields(self) -> dict[str, object]:
        """The fields of the source's StorageConfig that were given."""
        return opt.storage(
            self.src_endpoint_url,
            self.src_profile,
            self.src_region,
            anonymous=self.src_anonymous,
            requester_pays=self.src_requester_pays,
            timeout_s=self.src_timeout,
            max_attempts=self.src_attempts,
        )


@dataclass(frozen=True, slots=True)
class DestinationStorage:
    """How the destination is reached; None where the user said nothing."""

    dst_endpoint_url: Annotated[
        str | None, typer.Option(help="S3 endpoint of the destination.", rich_help_panel=_DST)
    ] = None
    dst_profile: Annotated[str | None, typer.Option(help="AWS profile.", rich_help_panel=_DST)] = None
    dst_region: Annotated[str | None, typer.Option(help="AWS region.", rich_help_panel=_DST)] = None
    dst_timeout: Annotated[float | None, typer.Option(help=_TIMEOUT_HELP, rich_help_panel=_DST)] = None
    dst_attempts: Annotated[int | None, typer.Option(help=_ATTEMPTS_HELP, rich_help_panel=_DST)] = None

    def as_fields(self) -> dict[str, object]:
        """The fields of the destination's StorageConfig that were given."""
        return opt.storage(
            self.dst_endpoint_url,
            self.dst_profile,
            self.dst_region,
            timeout_s=self.dst_timeout,
            max_attempts=self.dst_attempts,
        )


@dataclass(frozen=True, slots=True)
class CostOptions:
    """What a conversion may cost, and on which machine it is reckoned; see `hdrfleet plan`."""

    max_cost: Annotated[
        float | None, typer.Option(help="The most that it may cost, in the table's currency.", rich_help_panel=_COST)
    ] = None
    node_type: Annotated[
        str | None, typer.Option(help="The machine to reckon with, as the price table names it.", rich_help_panel=_COST)
    ] = None
    prices: Annotated[
        Path | None, typer.Option(help="Your own price table (TOML); --help of plan says more.", rich_help_panel=_COST)
    ] = None
    throughput_from: Annotated[
        str | None,
        typer.Option(
            metavar="DST", help="Reckon with what an earlier job measured, by its manifest.", rich_help_panel=_COST
        ),
    ] = None
    spot: Annotated[
        bool, typer.Option("--spot", help="Reckon with spot prices for --max-cost.", rich_help_panel=_COST)
    ] = False

    def require_sensible(self) -> None:
        """Raise ConfigError for options that cannot be meant."""
        if self.max_cost is not None and not 0 <= self.max_cost < math.inf:
            raise ConfigError(f"--max-cost: {self.max_cost:g} is no limit; give an amount from 0 on")

    def require_limit(self, *, has_budget: bool = False) -> None:
        """Raise ConfigError where a machine or prices were given and no limit, or a limit without a machine.

        `has_budget` where a budget is reckoned by them, too: one without a price of its own.
        """
        if self.max_cost is not None and self.node_type is None:
            raise ConfigError(
                "--max-cost needs --node-type, the machine whose price counts; `hdrfleet plan SRC` lists them"
            )
        prices = None if has_budget else self.node_type or self.prices or self.spot
        if self.max_cost is None and (prices or self.throughput_from):
            raise ConfigError(
                "--node-type, --prices, --throughput-from and --spot say what --max-cost is reckoned by; give it, too"
            )

    def price_per_worker_hour(self, workers_per_gpu: int | None) -> float | None:
        """That of the machine that was named, parted among its workers; None where none was. Raises ConfigError."""
        from jobs.plan_prices import choose, load_node_types

        if self.node_type is None:
            return None
        (node,) = choose(load_node_types(self.prices), self.node_type)
        price = node.spot_price_per_h if self.spot else node.price_per_h
        if price is None:
            raise ConfigError(f"--spot: {self.node_type} has no spot price; give one with --prices, or drop --spot")
        return price / node.shared(workers_per_gpu).num_workers


@dataclass(frozen=True, slots=True)
class RecordedOptions:
    """What a command may replace in the options that a job recorded; None keeps the recorded value."""

    weights: Annotated[str | None, typer.Option(help="Where the job's weights are now, if they moved.")] = None
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_INFERENCE)] = None
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.", rich_help_panel=_INFERENCE)] = None
    memory_budget: Annotated[
        str | None, typer.Option(help="Memory for the network per worker, such as 4G.", rich_help_panel=_INFERENCE)
    ] = None
    max_pixels: Annotated[
        int | None, typer.Option(help="Refuse images with more pixels, before decoding.", rich_help_panel=_INFERENCE)
    ] = None
    max_bytes: Annotated[
        str | None, typer.Option(help="Refuse files with more bytes, such as 4G.", rich_help_panel=_INFERENCE)
    ] = None
    decode_timeout: Annotated[
        float | None,
        typer.Option(
            help="Seconds after which a child process that decodes one image is ended, and 2 more per megapixel.",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    isolate_decode: Annotated[
        bool | None,
        typer.Option(
            "--isolate-decode/--no-isolate-decode",
            help="Decode JPEG and PNG in child processes too.",
            rich_help_panel=_RUNNING,
        ),
    ] = None
    image_timeout: opt.ImageTimeout = None
    shard_timeout: opt.ShardTimeout = None
    lease_timeout: opt.LeaseTimeout = None
    workers: Annotated[str | None, typer.Option(help="Number of workers, or auto.", rich_help_panel=_RUNNING)] = None
    max_workers: Annotated[
        int | None,
        typer.Option(help="Let workers come and go with the work, up to this many.", rich_help_panel=_RUNNING),
    ] = None
    executor: Annotated[str | None, typer.Option(help="ray or local.", rich_help_panel=_RUNNING)] = None
    address: Annotated[str | None, typer.Option(help="Ray cluster to use.", rich_help_panel=_RUNNING)] = None

    @property
    def asks_for_ray(self) -> bool:
        """Whether Ray was asked for, rather than recorded."""
        return self.executor == "ray" or self.address is not None

    def changes(self) -> dict[str, dict[str, object]]:
        """What was given, as fields by part of the configuration. Raises ConfigError for what cannot be meant."""
        budget = opt.parse_bytes(self.memory_budget, "--memory-budget")
        # A recorded request for GPUs contradicts this device.
        placement: dict[str, object] = {"placement": {}} if self.device == "cpu" else {}
        return {
            "model": opt.given(weights=self.weights),
            "inference": opt.given(device=self.device, precision=self.precision, memory_budget_bytes=budget),
            "decode": opt.given(
                max_pixels=self.max_pixels,
                max_bytes=opt.parse_bytes(self.max_bytes, "--max-bytes"),
                timeout_s=self.decode_timeout,
                isolate=self.isolate_decode,
            ),
            "execution": placement
            | opt.execution(
                self.executor,
                self.workers,
                self.address,
                image_timeout=self.image_timeout,
                shard_timeout=self.shard_timeout,
                lease_timeout=self.lease_timeout,
            )
            | self._elastic(),
        }

    def _elastic(self) -> dict[str, object]:
        if self.max_workers is None:
            return {}
        if self.workers or self.executor == "local":
            raise ConfigError("--max-workers needs Ray, and no --workers beside it; drop one of them")
        return {"num_workers": None, "scaling": {"max_workers": self.max_workers}}


def arguments_of(group: object) -> list[str]:
    """What a user would write for a filled group: the options that differ from their defaults, in order."""
    kind = type(group)
    hints = get_type_hints(kind, include_extras=True)
    arguments: list[str] = []
    for field in fields(kind):  # type: ignore[arg-type]  # a dataclass, by the contract
        value = getattr(group, field.name)
        if value is None or value == field.default:
            continue
        info = next(iter(hints[field.name].__metadata__))
        # Where a default has its place outside of Annotated, Typer keeps the first name in the default's.
        names = [name for name in (info.default, *info.param_decls) if isinstance(name, str) and name.startswith("--")]
        flag, _, opposite = (names[0] if names else f"--{field.name.replace('_', '-')}").partition("/")
        if isinstance(value, bool):
            arguments.append(flag if value else opposite)
        else:
            values = value if isinstance(value, list | tuple) else [value]
            arguments.extend(f"{flag}={item}" for item in values)
    return arguments
