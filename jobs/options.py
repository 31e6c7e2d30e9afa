"""Command-line options that several commands share, and how they become configuration."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config import EMPTY, ConversionConfig, ExecutionConfig, StorageConfig, build_config
from pipeline.errors import ConfigError
from pipeline.execution.scaling import budget_in_worker_s

_MAX_DURATION_S = 100 * 366 * 86_400


def named_path(text: str) -> Path:
    """A folder or file as it was typed; raises typer.BadParameter for none, which would mean the current folder."""
    if not text:
        raise typer.BadParameter("is empty; give one that is not")
    return Path(text)


Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on standard output.")]

MaxFailureRate = Annotated[
    str,
    typer.Option(
        "--max-failure-rate",
        help="Stop when a larger share of the images fails, after 200 of them; 100% never stops.",
        rich_help_panel="Running",
    ),
]
ImageTimeout = Annotated[
    float | None,
    typer.Option(
        "--image-timeout",
        help="Seconds that one image may spend in one stage, and 30 more for each megapixel (by default 600).",
        rich_help_panel="Running",
    ),
]
ShardTimeout = Annotated[
    float | None,
    typer.Option(
        "--shard-timeout", help="Seconds that a worker may hold one shard (by default 7200).", rich_help_panel="Running"
    ),
]

LeaseTimeout = Annotated[
    float | None,
    typer.Option(
        "--lease-timeout",
        help="Seconds of silence after which another hdrfleet may take over DST.",
        rich_help_panel="Running",
    ),
]

Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="S3 endpoint of DST.")]
Profile = Annotated[str | None, typer.Option("--profile", help="AWS profile for DST.")]
Region = Annotated[str | None, typer.Option("--region", help="AWS region of DST.")]


def parse_bytes(text: str | None, flag: str) -> int | None:
    """Read a size such as `1500000`, `512M`, `4G` or `1.5GiB` (binary multiples). Raises ConfigError, naming `flag`."""
    if text is None:
        return None
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:] in units else ""
    try:
        value = float(number.removesuffix(unit) if unit else number) * units[unit]
    except ValueError:
        value = -1.0
    if not 0 < value < 2**60:
        raise ConfigError(f"{flag}: {text!r} is not a size; write for example 512M or 4G")
    return int(value)


def parse_workers(text: str) -> int | None:
    """Read a number of workers; None for `auto`. Raises ConfigError."""
    if text == "auto":
        return None
    if not (text.isdecimal() and int(text) >= 1):
        raise ConfigError(f"--workers: {text!r} is neither auto nor a whole number of at least 1")
    return int(text)


def parse_share(text: str, flag: str = "--sample") -> float:
    """Read a percentage such as `1%`, or a share under 1 such as `0.01`. Raises ConfigError, naming `flag`."""
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 <= share <= 1 or (share == 1 and not percent):
        raise ConfigError(f"{flag}: {text!r} is no share; give for example 1% or 0.01")
    return share


def parse_duration(text: str, flag: str) -> timedelta:
    """Read a duration such as `90s`, `30m`, `1h`, `2d` or `0`. Raises ConfigError, naming `flag`."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = text.strip().lower(), "s"
    if number[-1:] in units:
        number, unit = number[:-1], number[-1]
    elif number != "0":
        number = ""
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_DURATION_S:
        raise ConfigError(f"{flag}: {text!r} is not a duration; write for example 30m, 1h or 2d")
    return timedelta(seconds=seconds)


def storage(
    endpoint_url: str | None = None,
    profile: str | None = None,
    region: str | None = None,
    *,
    anonymous: bool | None = None,
    requester_pays: bool | None = None,
    timeout_s: float | None = None,
    max_attempts: int | None = None,
) -> dict[str, object]:
    """The part of the configuration that reaches one store, left out where the user said nothing.

    `timeout_s` bounds the wait for a connection too, which by default is the shorter one.
    """
    values = given(
        endpoint_url=endpoint_url,
        profile=profile,
        region=region,
        anonymous=anonymous,
        requester_pays=requester_pays,
        max_attempts=max_attempts,
    )
    if timeout_s is not None:
        connect_s = StorageConfig().connect_timeout_s
        values |= {"read_timeout_s": timeout_s, "connect_timeout_s": min(timeout_s, connect_s)}
    return values


def given(**values: object) -> dict[str, object]:
    """The options that the user gave: those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def execution(
    executor: str | None,
    workers: str | None,
    address: str | None,
    *,
    image_timeout: float | None = None,
    shard_timeout: float | None = None,
    lease_timeout: float | None = None,
) -> dict[str, object]:
    """The options of where and how long to run that the user gave; `auto` workers count as given.

    The local executor has one worker and no address, and a given number of workers is kept, whatever was recorded.
    """
    values: dict[str, object] = {"scaling": None} if workers else {}
    if executor == "local":
        values = {"num_workers": None, "address": None, "scaling": None, "placement": {}}
    values |= given(
        executor=executor,
        address=address,
        image_timeout_s=image_timeout,
        shard_timeout_s=shard_timeout,
        lease_timeout_s=lease_timeout,
    )
    return values | ({"num_workers": parse_workers(workers)} if workers else {})


def scaling(
    max_workers: int | None,
    min_workers: int | None,
    deadline: str | None,
    *,
    budget: float | None = None,
    price_per_worker_hour: float | None = None,
) -> dict[str, object] | None:
    """How workers come and go; None for a fixed number. Raises ConfigError for options that lack --max-workers."""
    budget_s = _budget_s(budget, price_per_worker_hour)
    if max_workers is None:
        for flag, value in (("--min-workers", min_workers), ("--deadline", deadline), ("--budget", budget)):
            if value is not None:
                raise ConfigError(f"{flag} needs --max-workers, which says what the job may cost at most")
        return None
    seconds = parse_duration(deadline, "--deadline").total_seconds() if deadline is not None else None
    return given(max_workers=max_workers, min_workers=min_workers, deadline_s=seconds, budget_worker_s=budget_s)


def _budget_s(amount: float | None, price_per_worker_hour: float | None) -> float | None:
    """Seconds of one worker that a budget buys."""
    if amount is None:
        if price_per_worker_hour is not None:
            raise ConfigError("--price-per-worker-hour says what --budget buys; give that, too")
        return None
    if price_per_worker_hour is None:
        raise ConfigError("--budget needs a price; give --price-per-worker-hour or --node-type")
    is_usable = 0 < amount < math.inf and 0 < price_per_worker_hour < math.inf
    worker_s = budget_in_worker_s(amount, price_per_worker_hour) if is_usable else 0.0
    if not 0 < worker_s < math.inf:
        raise ConfigError(
            f"--budget {amount:g} at {price_per_worker_hour:g} per worker-hour buys nothing that can be reckoned with; "
            "give amounts above 0 that go together"
        )
    return worker_s


def labels(texts: list[str] | None, flag: str = "--label") -> dict[str, str]:
    """Read `KEY=VALUE` labels. Raises ConfigError for anything else, and for a key that is given twice."""
    values: dict[str, str] = {}
    for text in texts or []:
        key, separator, value = text.partition("=")
        if not separator or key in values:
            raise ConfigError(f"{flag}: {text!r} {'comes on top of another' if separator else 'is no KEY=VALUE'}")
        values[key] = value
    return values


def verify_execution(executor: str, address: str | None) -> ExecutionConfig | None:
    """Where outputs are verified: None in this process. Raises ConfigError for options that contradict each other."""
    if executor not in {"local", "ray"}:
        raise ConfigError("--executor must be local or ray")
    if executor == "local":
        if address:
            raise ConfigError("--address needs --executor ray; drop one of the two")
        return None
    return ExecutionConfig(executor="ray", address=address)


# How a user spells each option; messages about the configuration speak of its fields.
_FLAGS = {
    "source.url": "SRC",
    "source.limit": "--limit",
    "source.storage": "--src-…",
    "source.storage.endpoint_url": "--src-endpoint-url",
    "source.storage.connect_timeout_s": "--src-timeout",
    "source.storage.read_timeout_s": "--src-timeout",
    "source.storage.max_attempts": "--src-attempts",
    "destination.url": "DST",
    "destination.storage": "--dst-…",
    "destination.storage.endpoint_url": "--dst-endpoint-url",
    "destination.storage.connect_timeout_s": "--dst-timeout",
    "destination.storage.read_timeout_s": "--dst-timeout",
    "destination.storage.max_attempts": "--dst-attempts",
    "model.weights": "--weights",
    "inference.device": "--device",
    "inference.precision": "--precision",
    "inference.tile_px": "--tile-px",
    "inference.memory_budget_bytes": "--memory-budget",
    "decode.max_pixels": "--max-pixels",
    "decode.max_bytes": "--max-bytes",
    "decode.isolate": "--isolate-decode",
    "decode.timeout_s": "--decode-timeout",
    "encode.pixel_type": "--pixel-type",
    "encode.compression": "--compression",
    "encode.exposure_ev": "--exposure",
    "encode.verify": "--verify",
    "sharding.max_images": "--shard-images",
    "sharding.max_megapixels": "--shard-megapixels",
    "execution.executor": "--executor",
    "execution.num_workers": "--workers",
    "execution.address": "--address",
    "execution.image_timeout_s": "--image-timeout",
    "execution.shard_timeout_s": "--shard-timeout",
    "execution.max_failure_rate": "--max-failure-rate",
    "execution.lease_timeout_s": "--lease-timeout",
    "execution.scaling": "--min-workers, --max-workers",
    "execution.scaling.max_workers": "--max-workers",
    "execution.scaling.min_workers": "--min-workers",
    "execution.scaling.deadline_s": "--deadline",
    "execution.scaling.budget_worker_s": "--budget",
    "execution.placement.workers_per_gpu": "--workers-per-gpu",
    "execution.placement.accelerator_type": "--accelerator-type",
    "execution.placement": "--label, --fallback-label",
    "execution.placement.labels": "--label",
    "execution.placement.fallback_labels": "--fallback-label",
    "execution": "options",
}
_FIELD = re.compile(r"\b(?:decode|execution)\.[a-z_]+\b")


def build(**parts: object) -> ConversionConfig:
    """Build the configuration; a ConfigError names the option as the user spells it."""
    try:
        return build_config(**parts)
    except ConfigError as error:
        field, separator, text = str(error).partition(": ")
        name, text = _FLAGS.get(field, field), _FIELD.sub(lambda match: _FLAGS.get(match[0], match[0]), text)
        if text == EMPTY:
            raise ConfigError(f"{name} is empty; give one that is not") from error
        raise ConfigError(f"{name}{separator}{text}") from error


def absolute(url: str) -> str:
    """A local path as an absolute one with `~` expanded, so that every worker means the same folder; URLs as is.

    Nothing stays nothing, for a configuration to refuse: it is not the current folder.
    """
    return url if "://" in url or not url else str(Path(url).expanduser().absolute())
