"""Names in a Dockerfile that Docker looks up: flags of instructions, and stages that files are copied from."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from jobs.cluster.dockerfile import Dockerfile, Instruction, Stage, expand
from jobs.cluster.findings import Finding

# Source: Dockerfile reference (docker/dockerfile:1).
_FLAGS: dict[str, frozenset[str]] = {
    "ADD": frozenset({"checksum", "chmod", "chown", "exclude", "keep-git-dir", "link", "unpack"}),
    "COPY": frozenset({"chmod", "chown", "exclude", "from", "link", "parents"}),
    "HEALTHCHECK": frozenset({"interval", "retries", "start-interval", "start-period", "timeout"}),
    "RUN": frozenset({"device", "mount", "network", "security"}),
}
_FLAG = re.compile(r"--([\w-]+)(?:=(\S*))?\s*")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|us|ns|h|m|s))+|0")
_HEALTH = re.compile(r"(?:CMD\s+\S.*|NONE)", re.IGNORECASE | re.DOTALL)
_PINNED = re.compile(r".+@(?:sha256:[0-9a-f]{64}|\$.*)")
_MOUNT_FROM = re.compile(r"--mount=\S*?\bfrom=([^,\s]+)")


def check_names(parsed: Dockerfile) -> Iterator[Finding]:
    """Yield flags that an instruction does not have, and stages that are not there."""
    earlier: list[str] = []
    for stage in parsed.stages:
        for each in stage.instructions:
            yield from _check_flags(each)
            for source in _sources(each):
                yield from _check_source(each, expand(source, parsed.arguments | arguments_of(stage)), earlier)
        earlier.append(stage.name.lower())


def arguments_of(stage: Stage) -> dict[str, str | None]:
    """The defaults of a stage's own build arguments."""
    found: dict[str, str | None] = {}
    for each in stage.instructions:
        if each.name == "ARG":
            name, has_default, default = each.value.partition("=")
            if has_default:
                found[name.strip()] = default.strip().strip("\"'")
    return found


def flags_of(each: Instruction) -> tuple[dict[str, str | None], str]:
    """The flags before what an instruction is about, and that."""
    flags: dict[str, str | None] = {}
    rest = each.value
    while match := _FLAG.match(rest):
        flags[match[1]] = match[2]
        rest = rest[match.end() :]
    return flags, rest


def _check_flags(each: Instruction) -> Iterator[Finding]:
    if each.name not in _FLAGS:
        return
    place, known = f"line {each.line}: {each.name}", sorted(_FLAGS[each.name])
    flags, rest = flags_of(each)
    for name, value in flags.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean --{near[0]}?" if near else f"; it has --{', --'.join(known)}"
            yield Finding(place, "docker_syntax", f"there is no --{name}{hint}")
        elif each.name == "HEALTHCHECK":
            yield from _check_health_value(place, name, value or "")
    if each.name == "HEALTHCHECK" and not _HEALTH.fullmatch(rest):
        yield Finding(place, "docker_syntax", "says neither CMD and a command nor NONE")


def _check_health_value(place: str, name: str, value: str) -> Iterator[Finding]:
    if name == "retries" and not value.isdigit():
        yield Finding(place, "docker_syntax", f"--retries={value} is no number")
    if name != "retries" and not _DURATION.fullmatch(value):
        yield Finding(place, "docker_syntax", f"--{name}={value} is no duration; write one such as 30s")


def _sources(each: Instruction) -> list[str]:
    if each.name == "COPY":
        return [value for name, value in flags_of(each)[0].items() if name == "from" and value]
    return _MOUNT_FROM.findall(each.value) if each.name == "RUN" else []


def _check_source(each: Instruction, source: str, earlier: list[str]) -> Iterator[Finding]:
    """A stage above by name or number; another image only with its digest, as for FROM."""
    if source.lower() in earlier or (source.isdigit() and int(source) < len(earlier)) or _PINNED.fullmatch(source):
        return
    near = difflib.get_close_matches(source.lower(), [name for name in earlier if name], 1)
    hint = f"; did you mean {near[0]}?" if near else ", and as an image it is not pinned by a digest"
    yield Finding(f"line {each.line}: {each.name}", "docker_stage", f"there is no stage {source} above{hint}")
