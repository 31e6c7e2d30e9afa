"""A file of Kubernetes manifests, document by document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.cluster.accounts import check_accounts
from jobs.cluster.crd import ObjectSchema, check_object
from jobs.cluster.documents import PATCH_OF, parse_documents, read_text
from jobs.cluster.findings import Finding, mapping, one_of, reach
from jobs.cluster.kuberay import check_ray_object, notes_on_ray_object
from jobs.cluster.kuberay_keys import check_free_names, check_names
from jobs.cluster.network_reach import check_reach, manifests_beside
from jobs.cluster.plain_kinds import check_plain_object
from jobs.cluster.pod_keys import check_metadata, check_pod_names, check_tolerations
from jobs.cluster.ray_traffic import check_traffic

_RAY_KINDS = frozenset({"RayCluster", "RayJob"})


def is_kubernetes(document: Any) -> bool:
    """Whether a document is a Kubernetes object."""
    return all(isinstance(mapping(document).get(key), str) for key in ("apiVersion", "kind"))


def check_kubernetes(
    documents: list[dict[str, Any]], schemas: list[ObjectSchema], folder: Path
) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with the objects of one file, and what was not checked.

    `folder` is where a patch finds the manifest that it is for. Where there are several objects, places begin with kind
    and name. Raises ConfigError for a patch of a file that cannot be read.
    """
    findings: list[Finding] = []
    notes: list[str] = []
    beside = manifests_beside(documents, folder)
    for value in documents:
        kind, name = str(value["kind"]), str(reach(value, "metadata", "name"))
        prefix = f"{kind}/{name}: " if len(documents) > 1 else ""
        whole = _patched(value, folder)
        found, note = _check(whole, schemas)
        found += [*check_reach(whole, beside), *check_traffic(whole, beside), *check_accounts(whole, beside)]
        findings += [Finding(f"{prefix}{each.place}", each.code, each.message) for each in found]
        if not name or name == "None":
            findings.append(Finding(f"{prefix}metadata.name", "missing_key", "an object needs a name"))
        notes += [f"{kind}/{name}: {each}" for each in note]
    return findings, notes


def _check(value: dict[str, Any], schemas: list[ObjectSchema]) -> tuple[list[Finding], list[str]]:
    notes: list[str] = []
    findings = [*check_metadata("metadata", value.get("metadata"))]
    by_schema = check_object(value, schemas)
    if by_schema is not None:
        findings += by_schema
    if one_of(value["kind"], _RAY_KINDS):
        if by_schema is None:
            findings += [*check_names(value), *check_pod_names(value)]
            notes.append(
                "of the structure, only KubeRay's and pods' names were checked; give the cluster's schema with --crd"
            )
        findings += [*check_free_names(value), *check_tolerations(value)]
        return findings + list(check_ray_object(value)), [*notes, *notes_on_ray_object(value)]
    checked: Iterator[Finding] | None = check_plain_object(value)
    if checked is None:
        return findings, [*notes, "nothing is known here of this kind; only secrets were looked for"]
    return findings + list(checked), notes


def _patched(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An object as it is, or a patch merged into the manifest that its annotation `hdrfleet/patch-of` names."""
    base_name = mapping(reach(value, "metadata", "annotations")).get(PATCH_OF)
    if not isinstance(base_name, str):
        return value
    path = folder / base_name
    for base in parse_documents(read_text(path), path):
        if mapping(base).get("kind") == value["kind"] and reach(base, "metadata", "name") == reach(
            value, "metadata", "name"
        ):
            merged: dict[str, Any] = merge(base, value)
            return merged
    return value


def merge(base: Any, patch: Any) -> Any:
    """RFC 7386: mappings are merged, null takes away, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(mapping(base))
    for key, item in patch.items():
        if item is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), item)
    return merged
