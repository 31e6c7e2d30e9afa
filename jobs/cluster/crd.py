"""Kubernetes objects against the schema that a cluster serves for them, made strict.

The API server drops fields that a schema does not know, without a word, unless it is asked to say so. So every object
that names its properties is closed here, unless it keeps unknown fields by declaration; `metadata` is left free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cluster.documents import parse_documents, read_text
from jobs.cluster.findings import Finding, at, listing, mapping, reach
from jobs.cluster.ray_yaml import unknown_keys
from pipeline.errors import ConfigError

# What tells the bare schemas of KubeRay's kinds apart, which do not name their kind.
_KIND_BY_PROPERTY = {"rayClusterSpec": "RayJob", "headGroupSpec": "RayCluster", "serveConfigV2": "RayService"}
_MAX_MESSAGE_CHARS = 300


@dataclass(frozen=True, slots=True)
class ObjectSchema:
    """The strict JSON schema of one kind, for one version of it; an empty version stands for any."""

    kind: str
    version: str
    schema: dict[str, Any]


def load_schemas(path: Path) -> list[ObjectSchema]:
    """Read a CRD as `kubectl get crd NAME -o yaml` prints it, a list of them, or a bare openAPIV3Schema.

    Raises ConfigError, naming the file, for anything else.
    """
    found: list[ObjectSchema] = []
    for document in parse_documents(read_text(path), path):
        is_list = str(mapping(document).get("kind", "")).endswith("List")
        for each in listing(document.get("items")) if is_list else [document]:
            found += _schemas_of(each)
    if not found:
        raise ConfigError(f"{path} holds no schema; give what `kubectl get crd rayclusters.ray.io -o yaml` prints")
    return found


def check_object(value: dict[str, Any], schemas: list[ObjectSchema]) -> Iterator[Finding] | None:
    """Yield where an object breaks the schema of its kind and version; None where no schema is for it."""
    version = str(value.get("apiVersion", "")).rpartition("/")[2]
    for each in schemas:
        if each.kind == value.get("kind") and each.version in {"", version}:
            return _violations(value, each.schema)
    return None


def make_strict(schema: Any) -> Any:
    """Close every object of an openAPIV3Schema that names its properties; Kubernetes' extensions become JSON schema."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]} | {key: schema[key] for key in ("pattern",) if key in schema}
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {name: make_strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties", "not"):
        if key in strict:
            strict[key] = make_strict(strict[key])
    for key in ("allOf", "anyOf", "oneOf"):
        # These add conditions to an object that is described outside them, and name few of its properties.
        if key in strict:
            strict[key] = list(schema[key])
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        strict["type"] = [schema["type"], "null"]
    return strict


def _schemas_of(document: Any) -> Iterator[ObjectSchema]:
    kind = reach(document, "spec", "names", "kind")
    if mapping(document).get("kind") == "CustomResourceDefinition" and isinstance(kind, str):
        for version in listing(reach(document, "spec", "versions")):
            schema = reach(version, "schema", "openAPIV3Schema")
            if isinstance(schema, dict):
                yield ObjectSchema(kind, str(version.get("name", "")), _with_free_metadata(schema))
        return
    bare = reach(document, "openAPIV3Schema") or document
    for name, kind_of in _KIND_BY_PROPERTY.items():
        if name in mapping(reach(bare, "properties", "spec", "properties")):
            yield ObjectSchema(kind_of, "", _with_free_metadata(mapping(bare)))
            return


def _with_free_metadata(schema: dict[str, Any]) -> dict[str, Any]:
    strict: dict[str, Any] = make_strict(schema)
    strict["properties"] |= {
        "metadata": {"type": "object"},
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
    }
    return strict


def _violations(value: dict[str, Any], schema: dict[str, Any]) -> Iterator[Finding]:
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(schema).iter_errors(value)
    for error in sorted(errors, key=lambda error: list(map(str, error.absolute_path))):
        place = at("", *error.absolute_path)
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            yield from unknown_keys(place, error.instance, error.schema["properties"])
        elif error.validator == "type":
            wanted = error.validator_value
            names = " or ".join(wanted) if isinstance(wanted, list) else wanted
            yield Finding(place, "wrong_type", f"must be {names}, and is {_type_name(error.instance)}")
        else:
            yield Finding(place, "crd_schema", error.message[:_MAX_MESSAGE_CHARS])


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null")
