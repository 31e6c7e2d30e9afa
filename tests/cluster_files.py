"""The files that come with hdrfleet for a cluster, and broken copies of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from jobs.cluster.crd import ObjectSchema
from jobs.cluster.documents import parse_documents
from jobs.cluster.validate import validate_file

ROOT = Path(__file__).resolve().parent.parent
AWS = ROOT / "ray_cluster.yaml"
GCP = ROOT / "infra" / "gcp" / "ray_cluster.yaml"
KUBERAY = ROOT / "infra" / "kuberay"
TEMPLATE = ROOT / "infra" / "aws" / "storage-and-role.yaml"
OBSERVABILITY = ROOT / "infra" / "observability"
DOCKERFILE = ROOT / "infra" / "Dockerfile"

Break = Callable[[Any], None]


def documents(path: Path) -> list[Any]:
    """The documents of a file, each value a copy of its own: what YAML's aliases share is not shared here."""
    return [_unshared(each) for each in parse_documents(path.read_text(), path)]


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else copy.copy(value)


def reach(value: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value


def set_to(new: Any, *keys: Any) -> Break:
    """A break that sets what `keys` lead to."""

    def apply(document: Any) -> None:
        reach(document, keys[:-1])[keys[-1]] = new

    return apply


def without(*keys: Any) -> Break:
    """A break that takes away what `keys` lead to."""

    def apply(document: Any) -> None:
        del reach(document, keys[:-1])[keys[-1]]

    return apply


def appended(new: Any, *keys: Any) -> Break:
    """A break that appends to the list that `keys` lead to."""
    return lambda document: reach(document, keys).append(new)


def found_in_copy(
    path: Path, tmp_path: Path, *breaks: Break, index: int = 0, schemas: list[ObjectSchema] | None = None
) -> list[tuple[str, str]]:
    """Break a copy of a file's document `index`; return (place, code) of what is then found."""
    copied = broken_copy(path, tmp_path, *breaks, index=index)
    return [(each.place, each.code) for each in validate_file(copied, schemas or []).findings]


def broken_copy(path: Path, tmp_path: Path, *breaks: Break, index: int = 0) -> Path:
    """A copy of a file with its document `index` broken."""
    values = documents(path)
    for apply in breaks:
        apply(values[index])
    copied = tmp_path / path.name
    is_json = path.suffix == ".json"
    copied.write_text(json.dumps(values[0]) if is_json else yaml.safe_dump_all(values, sort_keys=False))
    return copied


def found_in_text(path: Path, tmp_path: Path, old: str, new: str) -> list[tuple[str, str]]:
    """Replace text in a copy of a file; return (place, code) of what is then found."""
    text = path.read_text()
    assert old in text, f"{old!r} is no longer in {path.name}"
    copied = tmp_path / path.name
    copied.write_text(text.replace(old, new))
    return [(each.place, each.code) for each in validate_file(copied, []).findings]
