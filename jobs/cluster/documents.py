"""Reading the files: YAML documents as values, without executing tags, and with an eye on keys that occur twice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError

_MAX_BYTES = 16 * 2**20  # a CRD has one or two
_MAX_VALUES = 2_000_000
PATCH_OF = "hdrfleet/patch-of"  # the annotation by which a manifest is a patch, and of which file


# libyaml's parser is ten times as fast, and in every wheel of PyYAML.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML's plain types; CloudFormation's tags (`!Ref`) become {"Ref": ...}. Keys are text, and occur once."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is no text: quote it", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    values: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return values


def _construct_tag(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {suffix: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {suffix: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {suffix: loader.construct_mapping(node, deep=True)}


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_multi_constructor("!", _construct_tag)


def read_text(path: Path) -> str:
    """The text of a file. Raises ConfigError, naming it, where it cannot be read, is no text or is far too large."""
    try:
        with path.open("rb") as file:  # no size is asked for: a device has none, and no end
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES >> 20} MiB; that is no cluster file")
        return data.decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text file") from error


def documents_in(folder: Path) -> Iterator[tuple[Path, Any]]:
    """The documents of the YAML files of a folder, as far as they can be read; the rest is said where it is checked."""
    for path in sorted(folder.glob("*.y*ml")):
        with contextlib.suppress(ConfigError):
            yield from ((path, each) for each in parse_documents(read_text(path), path))


def parse_documents(text: str, path: Path) -> list[Any]:
    """The documents of a YAML or JSON file, without empty ones. Raises ConfigError with the line of a fault."""
    if path.suffix == ".json":  # of which YAML takes more than others do: a comma before a bracket, say
        return [_parse_json(text, path)]
    try:
        documents = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise ConfigError(f"{path}{where}: {' '.join(problem.split())}; this is no YAML") from error
    if not _is_finite(documents):
        raise ConfigError(f"{path} refers to itself, or to so much so often that it cannot be checked")
    return documents


def _parse_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_with_keys_once)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}; this is no JSON") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; this is no JSON that can be checked") from error


def _with_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} occurs twice")
        values[key] = value
    return values


def _is_finite(documents: list[Any]) -> bool:
    """Whether the values, counted as often as they are referred to, are of a number that checks can walk through."""
    waiting, count = list(documents), 0
    while waiting and count <= _MAX_VALUES:
        value = waiting.pop()
        count += 1
        if isinstance(value, dict | list):
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return not waiting
