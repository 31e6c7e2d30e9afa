"""A Dockerfile, read into stages of instructions: enough of its syntax to judge it by."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

INSTRUCTIONS = frozenset(
    [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)
_ARGUMENT = re.compile(r"\$\{?(\w+)\}?")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, continuation lines joined by a space; `line` counts from 1."""

    line: int
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Stage:
    """What stands between one FROM and the next."""

    base: str
    name: str
    line: int
    instructions: list[Instruction] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The stages of a file, the arguments before them (None without a default), and what is no instruction."""

    stages: list[Stage]
    arguments: dict[str, str | None]
    unknown: list[Instruction]


def parse_dockerfile(text: str) -> Dockerfile:
    """Read a Dockerfile. Heredocs are not understood: their lines come out as unknown instructions."""
    parsed = Dockerfile([], {}, [])
    for each in _instructions(text):
        if each.name not in INSTRUCTIONS:
            parsed.unknown.append(each)
        elif each.name == "FROM":
            base, _, name = _without_flags(each.value).partition(" ")
            parsed.stages.append(Stage(base, re.sub(r"(?i)^as\s+", "", name.strip()), each.line))
        elif parsed.stages:
            parsed.stages[-1].instructions.append(each)
        elif each.name == "ARG":
            name, has_default, default = each.value.partition("=")
            parsed.arguments[name.strip()] = default.strip().strip("\"'") if has_default else None
        else:
            parsed.unknown.append(each)
    return parsed


def expand(text: str, arguments: dict[str, str | None]) -> str:
    """Put the defaults of build arguments into `text`; one without a default stays as it is."""

    def value_of(match: re.Match[str]) -> str:
        value = arguments.get(match[1])
        return match[0] if value is None else value

    return _ARGUMENT.sub(value_of, text)


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        # Comments are left out between the lines of an instruction as well, and so are empty lines.
        if not stripped or stripped.startswith("#"):
            continue
        first = first if parts else number
        parts.append(stripped.removesuffix("\\").strip())
        if not stripped.endswith("\\"):
            name, _, value = " ".join(parts).partition(" ")
            found.append(Instruction(first, name.upper(), value.strip()))
            parts = []
    if parts:
        name, _, value = " ".join(parts).partition(" ")
        found.append(Instruction(first, name.upper(), value.strip()))
    return found


def _without_flags(value: str) -> str:
    return re.sub(r"^(?:--\w+=\S+\s+)+", "", value)
