"""Options of the form NAME=VALUE that change fields of a validated value."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.config import first_fault
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def assigned(kind: type[T], start: T, changes: dict[str, object], flag: str) -> T:
    """Return `start`, a dataclass, with fields changed to what was given as text, pairs as a list of texts.

    Raises ConfigError, naming `flag` and the field, for unknown fields (with those that there are), values of another
    type, and what the dataclass itself refuses.
    """
    values = asdict(start)
    if unknown := sorted(set(changes) - set(values)):
        raise ConfigError(f"{flag} {unknown[0]}: no such field; there are {', '.join(sorted(values))}")
    for name, value in changes.items():
        is_pair = isinstance(values[name], tuple)
        if is_pair != (isinstance(value, list) and len(value) == 2):
            raise ConfigError(f"{flag} {name}: give {'LOW,HIGH' if is_pair else 'one number'}, not {_spelled(value)}")
    try:
        return TypeAdapter(kind).validate_python({**values, **changes})
    except ConfigError as error:
        raise ConfigError(f"{flag} {error}") from error
    except ValidationError as error:
        where, what = first_fault(error)
        raise ConfigError(f"{flag} {f'{name}: ' if (name := where.partition('.')[0]) else ''}{what}") from error


def _spelled(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
