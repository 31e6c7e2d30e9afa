"""Which file is what, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.cluster.cloudformation import check_template, is_template
from jobs.cluster.crd import ObjectSchema
from jobs.cluster.dockerfile_rules import check_dockerfile
from jobs.cluster.documents import parse_documents, read_text
from jobs.cluster.findings import NOT_RECOGNISED, FileReport, Finding
from jobs.cluster.grafana import check_dashboard, is_dashboard, looks_like_dashboard
from jobs.cluster.kubernetes import check_kubernetes, is_kubernetes
from jobs.cluster.named_secrets import find_named
from jobs.cluster.prometheus import check_prometheus, is_prometheus
from jobs.cluster.prometheus_rules import check_rules, is_rule_file
from jobs.cluster.ray_yaml import check_ray_cluster, is_ray_cluster
from jobs.cluster.secrets import find_shapes
from jobs.cluster.stack_names import check_stack
from pipeline.errors import ConfigError

_YAML = frozenset({".yaml", ".yml"})
_CLUSTER, _TEMPLATE = "Ray cluster", "CloudFormation"
_KINDS = (
    "a Ray cluster file, Kubernetes manifests, a CloudFormation template, a Dockerfile, Prometheus' configuration or "
    "rules, or a Grafana dashboard"
)


def validate_files(files: Iterable[tuple[Path, bool]], schemas: list[ObjectSchema]) -> list[FileReport]:
    """Check the files that `find_files` found, each by itself, and cluster files together with the templates.

    Raises ConfigError as `validate_file` does.
    """
    reports = {path: validate_file(path, schemas, is_named=is_named) for path, is_named in files}
    templates = [_only_document(path) for path, report in reports.items() if report.kind == _TEMPLATE]
    for path, report in reports.items():
        if templates and report.kind == _CLUSTER:
            cluster = _only_document(path)
            more = [finding for template in templates for finding in check_stack(cluster, template)]
            reports[path] = _report(path, report.kind, [*report.findings, *more], report.notes)
    return list(reports.values())


def _only_document(path: Path) -> Any:
    (document,) = parse_documents(read_text(path), path)
    return document


def find_files(paths: Iterable[Path]) -> list[tuple[Path, bool]]:
    """The files to check, and whether each was named. Of a folder, all YAML files, Dockerfiles and dashboards.

    Raises ConfigError for a path that is not there, and for a folder without such a file.
    """
    found: dict[Path, bool] = {}
    for path in paths:
        if path.is_dir():
            below = sorted(each for each in path.rglob("*") if each.is_file() and _looks_right(each))
            if not below:
                raise ConfigError(f"{path} holds no YAML file and no Dockerfile")
            for each in below:
                found.setdefault(each, False)
        elif path.exists():
            found[path] = True
        else:
            raise ConfigError(f"{path} does not exist; give {_KINDS}, or a folder of them")
    return list(found.items())


def _looks_right(path: Path) -> bool:
    return path.suffix in _YAML or _is_dockerfile(path) or looks_like_dashboard(path)


def _is_dockerfile(path: Path) -> bool:
    return path.name == "Dockerfile" or (path.name.startswith("Dockerfile.") and path.suffix != ".dockerignore")


def validate_file(path: Path, schemas: list[ObjectSchema], *, is_named: bool = True) -> FileReport:
    """Check one file. In a folder a file of no kind that is known here is somebody else's: that is said of it.

    Raises ConfigError, naming the file, where it cannot be read, is no YAML, or was named and is of no kind known here.
    """
    text = read_text(path)
    if _is_dockerfile(path):
        return _report(path, "Dockerfile", [*check_dockerfile(text), *find_shapes(text, [])])
    documents = parse_documents(text, path)
    checked = _check_documents(documents, path, schemas)
    if checked is not None:
        kind, findings, notes = checked
        return _report(path, kind, [*findings, *_find_secrets(text, documents)], notes)
    if is_named:
        raise ConfigError(f"{path} is nothing that is known here; give {_KINDS}")
    return _report(
        path, NOT_RECOGNISED, _find_secrets(text, documents), [f"only secrets were looked for; it is not {_KINDS}"]
    )


def _check_documents(
    documents: list[Any], path: Path, schemas: list[ObjectSchema]
) -> tuple[str, list[Finding], list[str]] | None:
    if documents and all(map(is_kubernetes, documents)):
        return "Kubernetes", *check_kubernetes(documents, schemas, path.parent)
    if len(documents) != 1:
        return None
    (document,) = documents
    if is_ray_cluster(document):
        return _CLUSTER, *check_ray_cluster(document)
    if is_template(document):
        return _TEMPLATE, *check_template(document, path)
    return _check_observability(document, path)


def _check_observability(document: Any, path: Path) -> tuple[str, list[Finding], list[str]] | None:
    if is_dashboard(document, path):
        return "Grafana dashboard", list(check_dashboard(document, path.parent)), []
    if is_rule_file(document, path):
        return "Prometheus rules", list(check_rules(document, path.parent)), []
    if is_prometheus(document, path):
        return "Prometheus", list(check_prometheus(document, path.parent)), []
    return None


def _find_secrets(text: str, documents: list[Any]) -> list[Finding]:
    return [*find_shapes(text, documents), *find_named(documents)]


def _report(path: Path, kind: str, findings: list[Finding], notes: Iterable[str] = ()) -> FileReport:
    return FileReport(str(path), kind, tuple(dict.fromkeys(findings)), tuple(dict.fromkeys(notes)))
