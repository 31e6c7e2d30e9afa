"""A cluster file for AWS and the CloudFormation template that is checked with it: whether they are of one cluster.

A stack names its profiles after the cluster (`${ClusterName}-head`), and lets the head start and end the machines alone
that bear the cluster's name as a tag. The name of a stack is chosen when it is deployed, so it is read from the
profiles that the cluster file names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from jobs.cluster.findings import Finding, at, leaves, mapping, reach
from jobs.cluster.iam import statements

_PROFILE = "AWS::IAM::InstanceProfile"
_FILLED_IN = re.compile(r"\$\{(\w+)\}")
_ENDS = "AWS lets the head neither start nor end them"
_TAG = "/ray-cluster-name"


def check_stack(cluster: dict[str, Any], template: dict[str, Any]) -> Iterator[Finding]:
    """Yield where the names in a cluster file are not those of the stack that the template makes."""
    name, named = cluster.get("cluster_name"), dict(_clusters_of_profiles(cluster, template))
    if not named or not isinstance(name, str):
        return
    if len(set(named.values())) == 1:
        named = {"cluster_name": next(iter(named.values()))}
    for place, each in named.items():
        if each != name:
            yield Finding(
                place, "other_cluster", f"{name} is the cluster's name, and its profiles are of {each}: {_ENDS}"
            )
    for each in sorted({each for each in _tags(template) if not fnmatchcase(name, each)}):
        said = f"is {name}, and the role of its head is for machines with the tag ray-cluster-name={each}: {_ENDS}"
        yield Finding("cluster_name", "other_cluster", said)


def _clusters_of_profiles(cluster: dict[str, Any], template: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where the cluster file names a profile of the template, and the cluster that it is then of."""
    patterns = list(_profiles(template))
    for kind, node_type in mapping(cluster.get("available_node_types")).items():
        profile = reach(node_type, "node_config", "IamInstanceProfile", "Name")
        for pattern in patterns:
            if isinstance(profile, str) and (found := pattern.fullmatch(profile)):
                yield at("available_node_types", kind, "node_config", "IamInstanceProfile", "Name"), found[1]


def _profiles(template: dict[str, Any]) -> Iterator[re.Pattern[str]]:
    for resource in map(mapping, mapping(template.get("Resources")).values()):
        name = reach(resource, "Properties", "InstanceProfileName")
        if resource.get("Type") != _PROFILE:
            continue
        for _, text in leaves(name):
            before, *others = _FILLED_IN.split(str(text))
            if len(others) == 2:
                yield re.compile(f"{re.escape(before)}(.+){re.escape(others[1])}")


def _tags(template: dict[str, Any]) -> Iterator[str]:
    """The names that the template's roles ask for in the tag of a machine, as far as they are written out."""
    for _, statement in statements("", template.get("Resources")):
        for keys in map(mapping, mapping(statement.get("Condition")).values()):
            yield from (value for key, value in keys.items() if key.endswith(_TAG) and isinstance(value, str))
