"""What a check has to say, and where: values that all checks share."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")
_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
_UNITS_S = (365 * 86400, 7 * 86400, 86400, 3600, 60, 1, 0.001)


NOT_RECOGNISED = "not recognised"  # the kind of a file that is of none


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: the path of keys to it (`docker.image`, `spec[0].from`; empty: all), a stable code, and words."""

    place: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """What was found in one file. `notes` say what could not be checked."""

    file: str
    kind: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_json(self) -> dict[str, object]:
        """The report as JSON values."""
        found = [{"place": each.place, "code": each.code, "message": each.message} for each in self.findings]
        return {"file": self.file, "kind": self.kind, "findings": found, "notes": list(self.notes)}


def at(place: str, *keys: str | int) -> str:
    """The place below `place` that `keys` lead to: `at("a", "b", 0)` is `a.b[0]`."""
    for key in keys:
        if isinstance(key, int):
            place += f"[{key}]"
        elif _PLAIN_KEY.fullmatch(key):
            place += f".{key}" if place else key
        else:
            place += f'["{key}"]'
    return place


def mapping(value: Any) -> dict[str, Any]:
    """`value` where it is a mapping, else an empty one: the shape itself is for a schema to judge."""
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """`value` where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def reach(value: Any, *keys: str) -> Any:
    """What `keys` lead to through mappings, or None."""
    for key in keys:
        value = mapping(value).get(key)
    return value


def is_everybody(cidr: Any) -> bool:
    """Whether a network is the whole world, or a part that nobody owns: above IPv4's /8, IPv6's /16."""
    try:
        network = ipaddress.ip_network(str(cidr), strict=False)
    except ValueError:
        return False
    return network.prefixlen < (8 if network.version == 4 else 16)


def holds(cidr: Any, address: str) -> bool:
    """Whether a network, written as text, holds an IP address; one that cannot be read holds none."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(str(cidr), strict=False)
    except ValueError:
        return False


def one_of(value: Any, names: frozenset[str]) -> bool:
    """Whether `value` is one of these names; it may be anything else, unhashable included."""
    return isinstance(value, str) and value in names


def number(value: Any, default: float = 0.0) -> float:
    """`value` as a number where it is one, or text that spells one; else `default`."""
    try:
        return default if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return default


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that is neither mapping nor list, with its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, at(place, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, at(place, index))
    else:
        yield place, value


def text_duration_s(value: Any) -> float | None:
    """A duration as Prometheus writes it (`1h30m`), in seconds; None where `value` is none."""
    text = "0s" if value == "0" or (value == 0 and not isinstance(value, bool)) else value
    match = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        return None
    return sum(float(number or 0) * unit_s for number, unit_s in zip(match.groups(), _UNITS_S, strict=True))
