"""What a Ray cluster opens to others: its dashboard, its ports, and whether it asks for a token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.docker_options import check_run_options
from jobs.cluster.findings import Finding, at, listing, mapping

_DASHBOARD_HOST = re.compile(r"--dashboard-host[= ]\s*['\"]?([^\s'\";]+)")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
_EVERYWHERE = re.compile(r"(?<![\d.])0\.0\.0\.0(?![\d.])|(?<![\w:])\[?::\]?(?![\w:])")
# An assignment, and what takes it back: `unset NAME`, `env -u NAME`, `env --unset=NAME`.
_AUTH_MODE = re.compile(
    r"(?:\b|-e)RAY_AUTH_MODE=['\"]?(\w*)|(?:\bunset\b[^;&|]*|-u\s*|--unset[=\s])\bRAY_AUTH_MODE\b(?!=)"
)
_START = re.compile(r"\bray\s+start\b")
_TOKEN_PATH = re.compile(r"\bRAY_AUTH_TOKEN_PATH=['\"]?([^\s'\";]+)")
_AUTOSCALER_V1 = re.compile(r"\bRAY_enable_autoscaler_v2=['\"]?(?:0|false)\b")
_DEFAULT_TOKEN = ".ray/auth_token"  # noqa: S105 - a path below the home folder, Ray's own


def check_exposure(prepared: dict[str, Any], config: dict[str, Any]) -> Iterator[Finding]:
    """Yield what of a prepared cluster file listens to others, or does without a token."""
    for part in ("head", "worker"):
        yield from _check_start_commands(f"{part}_start_ray_commands", prepared, config)
        yield from _check_token(part, prepared)
    yield from check_run_options(mapping(prepared.get("docker")))
    head_commands = " ".join(map(str, listing(prepared.get("head_start_ray_commands"))))
    if "--autoscaling-config" not in head_commands:
        yield Finding(
            "head_start_ray_commands",
            "no_autoscaler",
            "ray start has no --autoscaling-config, so no worker is ever started",
        )


def _check_start_commands(name: str, prepared: dict[str, Any], config: dict[str, Any]) -> Iterator[Finding]:
    hint = "" if name in config else f" (Ray's default, because the file has no {name})"
    for index, command in enumerate(map(str, listing(prepared.get(name)))):
        hosts = [host for host in _DASHBOARD_HOST.findall(command) if host not in _LOOPBACK]
        for host in hosts:
            yield Finding(
                at(name, index),
                "public_dashboard",
                f"the dashboard and the Jobs API listen on {host}; write --dashboard-host=127.0.0.1{hint}",
            )
        if not hosts and _EVERYWHERE.search(command):
            yield Finding(at(name, index), "public_port", f"something listens on every address of the node{hint}")
        if _AUTOSCALER_V1.search(command):
            yield Finding(at(name, index), "autoscaler_v1", "autoscaler v1 does not come down again; leave v2 on")


def _check_token(part: str, prepared: dict[str, Any]) -> Iterator[Finding]:
    """A token is asked for, and reaches the node: by a path in the environment, or at Ray's own place."""
    docker = mapping(prepared.get("docker"))
    options = [*listing(docker.get("run_options")), *listing(docker.get(f"{part}_run_options"))]
    said = [*options, *listing(prepared.get(f"{part}_start_ray_commands"))]
    if any("--env-file" in str(option) for option in options):  # which a command on the host writes before
        said += listing(prepared.get("initialization_commands"))
    text = " ".join(map(str, said))
    mode = _auth_mode(said, listing(prepared.get(f"{part}_start_ray_commands")))
    if mode != "token":
        place = "docker.run_options" if docker.get("image") else f"{part}_start_ray_commands"
        how = f"RAY_AUTH_MODE is {mode}" if mode else "RAY_AUTH_MODE is not set, or empty"
        yield Finding(
            place,
            "no_token",
            f"the {part} asks for no token: {how}, so whoever reaches a port runs code; set RAY_AUTH_MODE=token",
        )
        return
    mounts = [str(target) for target in mapping(prepared.get("file_mounts"))]
    paths = _TOKEN_PATH.findall(text)
    wanted = paths[-1] if paths else _DEFAULT_TOKEN
    if not any(wanted.startswith(f"{target}/") or wanted == target or target.endswith(wanted) for target in mounts):
        yield Finding(
            "file_mounts", "no_token", f"the {part} asks for a token, and nothing brings it to {wanted} on the nodes"
        )


def _auth_mode(said: list[Any], start_commands: list[Any]) -> str:
    """What RAY_AUTH_MODE is last set to where Ray is started; empty where it is not set, or taken back.

    A command that starts Ray has the last word, up to there: each runs in a shell of its own.
    """
    before = " ".join(str(each) for each in said if not _START.search(str(each)))
    found = ""
    for command in [each for each in map(str, start_commands) if _START.search(each)] or [""]:
        modes = _AUTH_MODE.findall(f"{before} {_START.split(command, maxsplit=1)[0]}")
        found = modes[-1] if modes else ""
        if found != "token":
            break
    return found
