"""Whether a KubeRay cluster asks for a token everywhere: what it says, and what its containers say against that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping, reach

_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"


def check_token(place: str, spec: dict[str, Any]) -> Iterator[Finding]:
    """Yield where the RayCluster spec at `place`, or a container of it, does without the token."""
    if reach(spec, "authOptions", "mode") != "token":
        yield Finding(
            at(place, "authOptions", "mode"),
            "no_token",
            "is not 'token': whoever reaches a port of the cluster runs code in it",
        )
    yield from _check_env(at(place, "autoscalerOptions", "env"), reach(spec, "autoscalerOptions", "env"))
    where = at(place, "headGroupSpec", "template", "spec")
    yield from check_token_in_pod(where, mapping(reach(spec, "headGroupSpec", "template", "spec")))
    for index, group in enumerate(listing(spec.get("workerGroupSpecs"))):
        where = at(place, "workerGroupSpecs", index, "template", "spec")
        yield from check_token_in_pod(where, mapping(reach(group, "template", "spec")))


def check_redis(place: str, spec: dict[str, Any]) -> Iterator[Finding]:
    """Yield where the RayCluster spec at `place` keeps the control plane's state in a Redis without a password."""
    options, head = mapping(spec.get("gcsFaultToleranceOptions")), mapping(spec.get("headGroupSpec"))
    containers = listing(reach(head, "template", "spec", "containers"))
    variables = [mapping(each).get("name") for container in containers for each in listing(reach(container, "env"))]
    is_given = reach(head, "rayStartParams", "redis-password") or "REDIS_PASSWORD" in variables
    if options.get("redisAddress") and not options.get("redisPassword") and not is_given:
        yield Finding(
            at(place, "gcsFaultToleranceOptions", "redisPassword"),
            "no_token",
            "is not set: whoever reaches that Redis writes the control plane's state, and so runs code in the cluster",
        )


def check_token_in_pod(place: str, pod: dict[str, Any]) -> Iterator[Finding]:
    """Yield the variables by which a container of the pod at `place` does without the token."""
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(listing(pod.get(kind))):
            yield from _check_env(at(place, kind, index, "env"), mapping(container).get("env"))


def _check_env(place: str, env: Any) -> Iterator[Finding]:
    """KubeRay sets these variables from authOptions, but for those that are there: they stay as the file has them."""
    for index, variable in enumerate(map(mapping, listing(env))):
        name, value = variable.get("name"), variable.get("value")
        if name == _MODE and value != "token":
            said = "comes from elsewhere" if "valueFrom" in variable else f"is {value or ''!r}"
            yield Finding(at(place, index), "no_token", f"{_MODE} {said}, and KubeRay does not replace it; take it out")
        if name == _TOKEN and "valueFrom" not in variable:
            yield Finding(
                at(place, index),
                "no_token",
                f"{_TOKEN} is written out, and KubeRay does not put the secret's in its place; take it out",
            )
