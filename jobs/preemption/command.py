"""`hdrfleet node-agent`: watches over one node of a cluster, and drains it when its machine is taken away."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options as opt
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from jobs.json_log import JsonReporter
    from jobs.preemption.metadata import NoticeSource

_CLOUDS = ("auto", "aws", "gcp", "none")
_INTERVAL = "5s"
_METADATA_URL = "http://169.254.169.254"


class _ToldToLeaveError(Exception):
    """SIGTERM came."""


def node_agent(
    cloud: Annotated[
        str | None, typer.Option(help="Whose notices to ask for: auto (the default), aws, gcp or none.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Ray's head; by default the cluster that this machine has joined."),
    ] = None,
    node_ip: Annotated[
        str | None,
        typer.Option(
            metavar="IP", help="The address under which the node joined; by default every address of this machine."
        ),
    ] = None,
    interval: Annotated[str | None, typer.Option(help="How often to ask (by default 5s).")] = None,
    grace: Annotated[
        str, typer.Option(help="On SIGTERM and with --now, how long the node may take to finish, such as 25s.")
    ] = "25s",
    now: Annotated[
        bool, typer.Option("--now", help="Drain at once, wait until the node is gone or --grace is over, and end.")
    ] = False,
    rebalance: Annotated[
        bool, typer.Option("--rebalance", help="On AWS, heed recommendations to rebalance as well.")
    ] = False,
    metadata_url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"The metadata server, where it is not {_METADATA_URL}.")
    ] = None,
) -> None:
    """Drain the Ray node of this machine when its cloud, or Kubernetes, takes it away.

    Its workers get nothing new, finish what they hold or give it back. Runs until SIGTERM, which drains as well. It
    listens nowhere, needs no rights beyond the cluster's token, and logs one JSON object per line to standard error.
    Exit codes: 0 told to leave, 2 bad usage.
    """
    from jobs.preemption.metadata import MetadataServer

    if now:
        asked = {"cloud": cloud, "interval": interval, "metadata-url": metadata_url, "rebalance": rebalance or None}
        for flag in (flag for flag, value in asked.items() if value is not None):
            raise ConfigError(f"--{flag} is about notices, for which --now does not ask; drop one of the two")
    cloud = "auto" if cloud is None else cloud
    url = _METADATA_URL if metadata_url is None else metadata_url
    if cloud not in _CLOUDS:
        raise ConfigError(f"--cloud must be one of {', '.join(_CLOUDS)}, not {cloud!r}")
    if rebalance and cloud not in {"auto", "aws"}:
        raise ConfigError(f"--rebalance is about AWS, --cloud {cloud} is not; drop one of the two")
    if metadata_url is not None and cloud == "none":
        raise ConfigError("--metadata-url: --cloud none asks nobody; drop one of the two")
    MetadataServer(url)  # a bad URL is said at once
    interval_s, grace_s = (
        _seconds(_INTERVAL if interval is None else interval, "--interval"),
        _seconds(grace, "--grace"),
    )
    _require_address(address, node_ip)
    _run(
        cloud,
        url,
        address=address,
        node_ip=node_ip,
        interval_s=interval_s,
        grace_s=grace_s,
        now=now,
        rebalance=rebalance,
    )


def _run(
    cloud: str,
    metadata_url: str,
    *,
    address: str | None,
    node_ip: str | None,
    interval_s: float,
    grace_s: float,
    now: bool,
    rebalance: bool,
) -> None:
    from jobs.json_log import json_log
    from jobs.preemption.agent import NodeAgent

    with json_log() as log, _leaving_on_sigterm() as leaving:
        agent: NodeAgent | None = None
        source: NoticeSource | None = None
        try:
            if not now:
                source = _source(cloud, metadata_url, log, rebalance=rebalance)
                log.event("info", "watching", {"cloud": cloud})
            agent = NodeAgent(source, log, address=address, node_ip=node_ip, interval_s=interval_s)
            if not now:
                agent.watch()
        except _ToldToLeaveError:
            pass
        except KeyboardInterrupt:
            log.event("info", "stopped")
            if agent is not None:
                agent.close()
            return
        leaving.append(True)
        agent = agent or NodeAgent(None, log, address=address, node_ip=node_ip, interval_s=interval_s)
        agent.leave(grace_s, "now" if now else "SIGTERM")
        log.event("info", "finished", {"exit_code": 0})


def _source(cloud: str, metadata_url: str, log: JsonReporter, *, rebalance: bool) -> NoticeSource | None:
    from jobs.preemption.metadata import DetectedNotices, notices_of

    if cloud != "auto":
        return notices_of(cloud, metadata_url, rebalance=rebalance)

    def say(found: str) -> None:
        log.event("info", "cloud_detected", {"cloud": found})

    return DetectedNotices(metadata_url, rebalance=rebalance, on_detected=say)


@contextlib.contextmanager
def _leaving_on_sigterm() -> Iterator[list[bool]]:
    """The first SIGTERM raises _ToldToLeaveError wherever the agent is; none does once the list holds something."""
    leaving: list[bool] = []

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if not leaving:
            leaving.append(True)
            raise _ToldToLeaveError

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield leaving
    finally:
        signal.signal(signal.SIGTERM, before)


def _seconds(text: str, flag: str) -> float:
    seconds = opt.parse_duration(text, flag).total_seconds()
    if not 0 < seconds <= 3600:
        raise ConfigError(f"{flag}: {text!r} must be more than 0 and at most 1h")
    return seconds


def _require_address(address: str | None, node_ip: str | None) -> None:
    host, _, port = (address or "host:1").rpartition(":")
    if address not in {None, "auto"} and not (host and port.isdecimal() and 0 < int(port) < 65_536):
        raise ConfigError(f"--address: {address!r} is no Ray head; write HOST:PORT, or leave it out")
    try:
        ipaddress.ip_address(node_ip or "127.0.0.1")
    except ValueError as error:
        raise ConfigError(f"--node-ip: {error}") from error
