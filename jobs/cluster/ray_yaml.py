"""A cluster file of Ray's launcher (`ray up`): Ray's own schema and preparation, then what Ray does not look at."""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping
from jobs.cluster.images import check_image, check_versions_in_command
from jobs.cluster.packages import check_pinned_packages

_COMMANDS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
_START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")
_NUM_ALTERNATIVES = 3
_TELLING_KEYS = frozenset({"cluster_name", "provider", "available_node_types"})


def is_ray_cluster(document: Any) -> bool:
    """Whether a document is a cluster file, by its keys, of which one may be missing; no Kubernetes object is."""
    keys = mapping(document).keys()
    return len(keys & _TELLING_KEYS) >= len(_TELLING_KEYS) - 1 and "apiVersion" not in keys


def check_ray_cluster(config: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with a cluster file, and notes on what was not checked."""
    from jobs.cluster.docker_options import check_gpus_in_container
    from jobs.cluster.launcher_machines import check_machines
    from jobs.cluster.market import check_launcher_markets
    from jobs.cluster.market_order import check_launcher_order
    from jobs.cluster.preemption import check_launcher
    from jobs.cluster.ray_accelerators import check_accelerators
    from jobs.cluster.ray_exposure import check_exposure
    from jobs.cluster.ray_nodes import check_nodes
    from jobs.cluster.ray_start import check_starts
    from jobs.cluster.synced_files import check_synced_files

    findings = list(check_schema(config))
    if findings:
        return findings, ["the rest was not checked: Ray refuses the file as it is"]
    try:
        prepared = _prepare(config)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises is its refusal, and there is no list of what it raises
        return [Finding("", "ray_refuses", _first_line(error))], []
    findings += check_commands(prepared, config)
    findings += check_images(prepared)
    findings += check_exposure(prepared, config)
    findings += check_gpus_in_container(prepared)
    findings += check_synced_files(prepared)
    findings += check_starts(prepared)
    findings += check_launcher_markets(prepared)
    findings += check_launcher_order(prepared)
    findings += check_launcher(prepared)
    nodes, notes = check_nodes(prepared)
    machines, notes_on_machines = check_machines(prepared)
    findings += [*nodes, *machines, *check_accelerators(prepared)]
    provider, more_notes = _check_provider(prepared)
    return findings + provider, notes + notes_on_machines + more_notes


def check_schema(config: dict[str, Any]) -> Iterator[Finding]:
    """Yield where the file breaks Ray's own schema, `ray-schema.json` of the Ray that is installed."""
    import ray.autoscaler
    from jsonschema import Draft7Validator

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    for error in sorted(Draft7Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.path))):
        place = at("", *error.absolute_path)
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            known = error.schema.get("properties", {})
            yield from unknown_keys(place, error.instance, known)
        else:
            yield Finding(place, "ray_schema", error.message)


def unknown_keys(place: str, value: dict[str, Any], known: Iterable[str]) -> Iterator[Finding]:
    """Yield the keys of `value` that are not known, with those that they may have been meant to be."""
    names = list(known)
    for key in value:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, _NUM_ALTERNATIVES)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            yield Finding(at(place, str(key)), "unknown_key", f"is not known here{hint}")


def _prepare(config: dict[str, Any]) -> dict[str, Any]:
    """The file as Ray uses it, with Ray's defaults filled in. Raises whatever Ray raises."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    return prepared


def check_commands(prepared: dict[str, Any], config: dict[str, Any]) -> Iterator[Finding]:
    """Yield versions in set-up commands that differ from those here, or are open.

    Ray merges `setup_commands` into the next two.
    """
    for name in _COMMANDS:
        # What the file does not say, Ray fills with commands of its own, which install a nightly build.
        commands = config[name] if name in config else mapping(_defaults(prepared)).get(name)
        for index, command in enumerate(listing(commands)):
            hint = "" if name in config else f" (Ray's default, because the file does not say; write {name}: [])"
            place = at(name, index)
            for finding in (*check_versions_in_command(place, command), *check_pinned_packages(place, command)):
                yield Finding(finding.place, finding.code, finding.message + hint)
    for name in _START_COMMANDS:
        for index, command in enumerate(listing(config.get(name))):
            yield from check_pinned_packages(at(name, index), command)


def _defaults(prepared: dict[str, Any]) -> Any:
    from ray.autoscaler._private.providers import _get_default_config

    return _get_default_config(prepared["provider"])


def check_images(prepared: dict[str, Any]) -> Iterator[Finding]:
    """Yield images that are not pinned, or of another version."""
    docker = mapping(prepared.get("docker"))
    for name in ("image", "head_image", "worker_image"):
        if name in docker:
            yield from check_image(at("docker", name), docker[name])
    for name, node_type in mapping(prepared.get("available_node_types")).items():
        own = mapping(mapping(node_type).get("docker"))
        if "worker_image" in own:
            yield from check_image(at("available_node_types", name, "docker", "worker_image"), own["worker_image"])


def _check_provider(prepared: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    from jobs.cluster import aws_nodes, gcp_nodes

    kind = prepared["provider"]["type"]
    if kind == "aws":
        return aws_nodes.check_provider(prepared)
    if kind == "gcp":
        return gcp_nodes.check_provider(prepared)
    return [], [f"provider {kind!r} is not known here; nothing below provider and node_config was checked"]


def _first_line(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return str(message).strip().splitlines()[0]
