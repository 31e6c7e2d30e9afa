"""Secrets that stand beside a name that says so: found at their places, not repeated; references are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import AWS, GCP, KUBERAY, Break, appended, documents, found_in_copy, set_to

from jobs.cluster.named_secrets import find_named
from jobs.cluster.validate import validate_file

OPTIONS = ("docker", "run_options")
WORKER = ("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0)


def started_with(option: str) -> Break:
    """A break that gives `ray start` of the head one more option."""

    def apply(document: Any) -> None:
        document["head_start_ray_commands"][1] += f" {option}"

    return apply


@pytest.mark.parametrize("path", [AWS, GCP], ids=["aws", "gcp"])
@pytest.mark.parametrize(
    ("apply", "place"),
    [
        (appended("--env REDIS_PASSWORD=hunter2", *OPTIONS), "docker.run_options[7]"),
        (appended("--env=REDIS_PASSWORD=hunter2", *OPTIONS), "docker.run_options[7]"),
        (appended("-e HF_TOKEN='hunter2'", *OPTIONS), "docker.run_options[7]"),
        (appended("-eHF_TOKEN=hunter2", *OPTIONS), "docker.run_options[7]"),
        (started_with("--redis-password=hunter2"), "head_start_ray_commands[1]"),
        (started_with("--redis-password 'hunter2'"), "head_start_ray_commands[1]"),
        (
            appended("docker login -u me -p hunter2 r.example.com", "initialization_commands"),
            "initialization_commands[1]",
        ),
        (appended("docker login -phunter2 r.example.com", "initialization_commands"), "initialization_commands[1]"),
        (appended("docker login --password hunter2 r", "initialization_commands"), "initialization_commands[1]"),
        (appended("export DB_PASSWORD=hunter2; x", "setup_commands"), "setup_commands[0]"),
        (set_to({"startup": {"key": "API_KEY", "value": "hunter2"}}, "auth", "x"), "auth.x.startup.value"),
    ],
)
def test_secret_in_a_cluster_file_is_found(path: Path, apply: Break, place: str, tmp_path: Path) -> None:
    (document,) = documents(path)
    apply(document)
    found = [(each.place, each.code, each.message) for each in find_named([document])]
    assert [(where, code) for where, code, _ in found] == [(place, "secret")]
    assert all("hunter2" not in message for _, _, message in found)


@pytest.mark.parametrize(
    ("name", "apply", "place"),
    [
        (
            "gcs-fault-tolerance.yaml",
            set_to({"value": "hunter2"}, "spec", "gcsFaultToleranceOptions", "redisPassword"),
            "spec.gcsFaultToleranceOptions.redisPassword.value",
        ),
        (
            "gcs-fault-tolerance.yaml",
            set_to("redis://:hunter2@redis:6379", "spec", "gcsFaultToleranceOptions", "redisAddress"),
            "spec.gcsFaultToleranceOptions.redisAddress",
        ),
        (
            "raycluster.yaml",
            appended({"name": "REDIS_PASSWORD", "value": "hunter2"}, "spec", "autoscalerOptions", "env"),
            "spec.autoscalerOptions.env[2].value",
        ),
        (
            "raycluster.yaml",
            set_to("hunter2", "spec", "headGroupSpec", "rayStartParams", "redis-password"),
            "spec.headGroupSpec.rayStartParams.redis-password",
        ),
        (
            "raycluster.yaml",
            set_to(["sh", "-c", "login --token hunter2"], *WORKER, "command"),
            "spec.workerGroupSpecs[0].template.spec.containers[0].command[2]",
        ),
        (
            "rayjob.yaml",
            set_to("env_vars: {DB_PASSWORD: hunter2}", "spec", "runtimeEnvYAML"),
            "spec.runtimeEnvYAML.env_vars.DB_PASSWORD",
        ),
        (
            "rayjob.yaml",
            set_to("DB_PASSWORD=hunter2 hdrfleet convert a b --max-workers 1", "spec", "entrypoint"),
            "spec.entrypoint",
        ),
    ],
)
def test_secret_in_a_manifest_is_found(name: str, apply: Break, place: str, tmp_path: Path) -> None:
    (tmp_path / "raycluster.yaml").write_text((KUBERAY / "raycluster.yaml").read_text())
    assert (place, "secret") in found_in_copy(KUBERAY / name, tmp_path, apply)


@pytest.mark.parametrize(
    "value",
    [
        "docker login --password-stdin -u AWS r.example.com",
        "aws ecr get-login-password | docker login -u AWS -p $PASSWORD r",
        "DB_PASSWORD=$(cat /run/secrets/db) x",
        'export TOKEN="${TOKEN}"',
        "--env HF_TOKEN",
        "ray start --redis-password=$REDIS_PASSWORD",
        "x --token --quiet",
        {"password": {"Ref": "Parameter"}},
        {"password": {"valueFrom": {"secretKeyRef": {"name": "a", "key": "password"}}}},
        {"password": "{{resolve:secretsmanager:x}}"},
        {"automountServiceAccountToken": False, "password": "", "secretName": "x", "token_file": "/x"},
        [{"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
        {"runtimeEnvYAML": "a: b: c"},
        {"existingSecret": "redis", "imagePullSecret": "registry"},
        "--env GOOGLE_APPLICATION_CREDENTIALS=/var/run/google/key.json",
    ],
)
def test_what_refers_to_a_secret_is_none(value: object) -> None:
    assert list(find_named([{"x": value}])) == []


def test_place_in_a_file_of_several_documents_names_the_document(tmp_path: Path) -> None:
    pod = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"db_password": "hunter2"}}
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump_all([{**pod, "data": {}}, pod]))
    (finding,) = validate_file(path, []).findings
    assert finding.place == "ConfigMap/b: data.db_password"
    assert [each.place for each in find_named([{"a": 1}, {"token": "x"}])] == ["document 2: token"]
