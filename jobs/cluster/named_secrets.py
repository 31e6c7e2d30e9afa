"""Secrets that their names tell: a key, a variable or an option that says password, and beside it the value itself.

What refers to a value that is elsewhere (`$NAME`, `$(command)`, `{{resolve:...}}`, `valueFrom`) is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.cluster.documents import parse_documents
from jobs.cluster.findings import Finding, at, leaves, mapping, reach
from jobs.cluster.secrets import is_secret_name, secret
from pipeline.errors import ConfigError

_VALUE = r"[\"']?(?P<value>[^\s\"';&|]+)"
_ASSIGNMENT = re.compile(r"(?<![\w-])(?P<name>[A-Za-z_]\w*)=" + _VALUE)
_OPTION = re.compile(r"(?<![\w-])--?(?P<name>[a-z][\w-]*)(?:=|\s+)(?!-)" + _VALUE)
_LOGIN = re.compile(r"\b(?P<name>login)\b[^;&|\n]*?\s-p(?:=|\s*)" + _VALUE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PLAIN = re.compile(r"[\w.-]+")  # a path that ends in such a word is a place
# Keys of charts that hold the name of a secret, and a variable that holds the path of a file.
_OF_NAMES = re.compile(r"(?i)(?:existing|pull|tls)_secret$|application_credentials$")
_REFERENCES = ("$", "`", "{{", "<")
_SEEN_BY_SHAPE = "RAY_AUTH_TOKEN"  # its assignments are found in comments, too
_NAMING_KEYS = ("name", "key", "Name", "Key")
_VALUE_KEYS = ("value", "Value")
_YAML_WITHIN = "runtimeEnvYAML"  # of a RayJob


def find_named(documents: list[Any]) -> Iterator[Finding]:
    """Yield the values in the documents of a file whose key, variable or option says that they are secret."""
    for document in documents:
        if mapping(document).get("kind") == "Secret":  # which is refused as a whole
            continue
        yield from _find_pairs(document, "", place_of(document, documents))
        for place, text in leaves(document, ""):
            if isinstance(text, str):
                yield from _find_in_command(place_of(document, documents) + place, text)
            if place.endswith(_YAML_WITHIN):
                for inner in _documents_of(text):
                    yield from _find_pairs(inner, place, place_of(document, documents))


def _documents_of(text: Any) -> list[Any]:
    try:
        return parse_documents(str(text), Path(_YAML_WITHIN))
    except ConfigError:  # not for this check to say
        return []


def place_of(document: Any, documents: list[Any]) -> str:
    """What places in a document begin with: nothing where there is one, else its kind and name, or its number."""
    if len(documents) < 2:
        return ""
    kind, name = mapping(document).get("kind"), reach(document, "metadata", "name")
    number = next(index for index, each in enumerate(documents, 1) if each is document)
    return f"{kind}/{name}: " if isinstance(kind, str) and isinstance(name, str) else f"document {number}: "


def _find_pairs(value: Any, place: str, prefix: str) -> Iterator[Finding]:
    """A secret's name and its value, as key and value or as two keys of one mapping."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find_pairs(item, at(place, index), prefix)
    for key, item in mapping(value).items():
        where = at(place, str(key))
        if _is_secret(str(key)):
            for below, held in [((), item), *(((name,), mapping(item).get(name)) for name in _VALUE_KEYS)]:
                if _is_written_out(held):
                    yield secret(prefix + at(where, *below), f"the value of {key}")
        yield from _find_pairs(item, where, prefix)
    for name_key, value_key in ((name, value_key) for name in _NAMING_KEYS for value_key in _VALUE_KEYS):
        name = mapping(value).get(name_key)
        if isinstance(name, str) and _is_secret(name) and _is_written_out(mapping(value).get(value_key)):
            yield secret(prefix + at(place, value_key), f"the value of {name}")


def _find_in_command(place: str, text: str) -> Iterator[Finding]:
    for pattern in (_ASSIGNMENT, _OPTION, _LOGIN):
        for match in pattern.finditer(text):
            name = match["name"]
            is_found = pattern is _LOGIN or (_is_secret(name) and name != _SEEN_BY_SHAPE)
            if is_found and _is_written_out(match["value"]):
                yield secret(place, "the password of a login" if pattern is _LOGIN else f"the value of {name}")


def _is_secret(name: str) -> bool:
    words = _CAMEL.sub("_", name).replace("-", "_")
    return _PLAIN.fullmatch(name) is not None and is_secret_name(words) and not _OF_NAMES.search(words)


def _is_written_out(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return False
    return bool(value) and not str(value).startswith(_REFERENCES)
