"""Objects against the schema that a cluster serves: a small one made here, and KubeRay's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import KUBERAY, Break, documents, found_in_copy, set_to

from jobs.cluster import kuberay_keys
from jobs.cluster.crd import ObjectSchema, check_object, load_schemas, make_strict
from pipeline.errors import ConfigError

SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1},
        "port": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {
            "type": "object",
            "properties": {"a": {"type": "string"}},
            "x-kubernetes-preserve-unknown-fields": True,
        },
        "maybe": {"type": "string", "nullable": True},
        "properties": {"type": "object", "properties": {"items": {"type": "string"}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
    },
}
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "spec": {
        "names": {"kind": "Thing"},
        "versions": [
            {"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": SPEC}}}},
            {
                "name": "v2",
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "string"}}}},
            },
        ],
    },
}


def found(spec: object, schemas: list[ObjectSchema], *, version: str = "v1") -> list[tuple[str, str]]:
    value = {"apiVersion": f"example.com/{version}", "kind": "Thing", "metadata": {"anything": 1}, "spec": spec}
    checked = check_object(value, schemas)
    assert checked is not None
    return [(each.place, each.code) for each in checked]


@pytest.fixture(params=["yaml", "list", "json"])
def schemas(request: pytest.FixtureRequest, tmp_path: Path) -> list[ObjectSchema]:
    path = tmp_path / "crd"
    if request.param == "yaml":
        path.write_text(yaml.safe_dump(CRD))
    elif request.param == "list":
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [CRD]}))
    else:
        path.write_text(json.dumps(CRD))
    return load_schemas(path)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"size": 1, "port": 80, "labels": {"x": "y"}, "free": {"b": 2}, "maybe": None}, []),
        ({"size": 1, "port": "http", "properties": {"items": "x"}, "list": [{"name": "a"}]}, []),
        ({}, [("spec", "crd_schema")]),
        ({"size": "1"}, [("spec.size", "wrong_type")]),
        ({"size": 0}, [("spec.size", "crd_schema")]),
        ({"size": 1, "sise": 1}, [("spec.sise", "unknown_key")]),
        ({"size": 1, "port": []}, [("spec.port", "wrong_type")]),
        ({"size": 1, "labels": {"x": 1}}, [("spec.labels.x", "wrong_type")]),
        ({"size": 1, "list": [{"name": "a"}, {"nam": "b"}]}, [("spec.list[1].nam", "unknown_key")]),
        ({"size": 1, "properties": {"item": "x"}}, [("spec.properties.item", "unknown_key")]),
        (7, [("spec", "wrong_type")]),
    ],
)
def test_strict_schema_finds_the_place(
    spec: object, expected: list[tuple[str, str]], schemas: list[ObjectSchema]
) -> None:
    assert found(spec, schemas) == expected


def test_version_of_the_object_chooses_the_schema(schemas: list[ObjectSchema]) -> None:
    assert found("x", schemas, version="v2") == []
    assert check_object({"apiVersion": "example.com/v3", "kind": "Thing"}, schemas) is None
    assert check_object({"apiVersion": "example.com/v1", "kind": "Other"}, schemas) is None


def test_a_schema_is_not_changed_by_making_it_strict() -> None:
    before = json.dumps(SPEC)
    make_strict(SPEC)
    assert json.dumps(SPEC) == before


def test_bare_schema_is_known_by_its_properties(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({"type": "object", "properties": {"spec": {"properties": {"headGroupSpec": {}}}}}))
    assert [(each.kind, each.version) for each in load_schemas(path)] == [("RayCluster", "")]


@pytest.mark.parametrize("text", ["{}", "[1, 2]", "kind: Deployment\n", ""])
def test_file_without_a_schema_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "nothing.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"nothing\.yaml holds no schema"):
        load_schemas(path)


@pytest.fixture(scope="module")
def kuberay_schemas(shared_folder: Path) -> list[ObjectSchema]:
    folder = shared_folder / "kuberay"
    if not folder.is_dir():
        pytest.skip(f"no schemas of KubeRay at {folder}; set HDRFLEET_TEST_DATA to a folder that holds kuberay/")
    return [schema for path in sorted(folder.glob("*.json")) for schema in load_schemas(path)]


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "gcs-fault-tolerance"])
def test_shipped_objects_are_what_kuberay_takes(name: str, kuberay_schemas: list[ObjectSchema]) -> None:
    for value in documents(KUBERAY / f"{name}.yaml"):
        checked = check_object({**value, "spec": value["spec"] | _rest(value)}, kuberay_schemas)
        assert checked is not None
        assert list(checked) == []


def _rest(value: dict[str, Any]) -> dict[str, Any]:
    """What a patch leaves to the manifest that it is for."""
    (cluster,) = documents(KUBERAY / "raycluster.yaml")
    return {} if value["spec"].keys() & {"entrypoint", "headGroupSpec"} else cluster["spec"] | value["spec"]


@pytest.mark.parametrize(
    ("name", "apply", "expected"),
    [
        (
            "raycluster",
            set_to("0", "spec", "workerGroupSpecs", 0, "replicas"),
            ("spec.workerGroupSpecs[0].replicas", "wrong_type"),
        ),
        ("raycluster", set_to(1, "spec", "workerGroupSpec"), ("spec.workerGroupSpec", "unknown_key")),
        ("raycluster", set_to("tokens", "spec", "authOptions", "mode"), ("spec.authOptions.mode", "crd_schema")),
        (
            "raycluster",
            set_to(True, "spec", "headGroupSpec", "template", "spec", "hostNetwrk"),
            ("spec.headGroupSpec.template.spec.hostNetwrk", "unknown_key"),
        ),
        ("rayjob", set_to("3", "spec", "backoffLimit"), ("spec.backoffLimit", "wrong_type")),
        (
            "rayjob",
            set_to("v3", "spec", "rayClusterSpec", "autoscalerOptions", "version"),
            ("spec.rayClusterSpec.autoscalerOptions.version", "crd_schema"),
        ),
    ],
    ids=["number as text", "wrong key", "wrong word", "wrong key of a pod", "number as text in a job", "wrong version"],
)
def test_broken_copies_are_refused_by_kuberays_schema(
    name: str, apply: Break, expected: tuple[str, str], kuberay_schemas: list[ObjectSchema], tmp_path: Path
) -> None:
    assert expected in found_in_copy(KUBERAY / f"{name}.yaml", tmp_path, apply, schemas=kuberay_schemas)


def test_the_names_that_are_known_without_a_schema_are_those_of_kuberays(shared_folder: Path) -> None:
    folder = shared_folder / "kuberay"
    if not folder.is_dir():
        pytest.skip(f"no schemas of KubeRay at {folder}; set HDRFLEET_TEST_DATA to a folder that holds kuberay/")

    def names(kind: str, *keys: str) -> set[str]:
        value = json.loads((folder / f"{kind}.v1.schema.json").read_text())
        for key in ("properties", "spec", "properties", *keys):
            value = value[key]
        return set(value)

    assert names("rayjobs") == set(kuberay_keys.JOB)
    assert names("rayclusters") == names("rayjobs", "rayClusterSpec", "properties") == set(kuberay_keys.CLUSTER)
    for field, known in kuberay_keys.BELOW_CLUSTER.items():
        assert names("rayclusters", field, "properties") == set(known)
    assert names("rayclusters", "workerGroupSpecs", "items", "properties") == set(kuberay_keys.WORKER_GROUP)
