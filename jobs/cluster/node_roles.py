"""The roles that a CloudFormation template gives its machines: what their policies let them do, attached ones too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from jobs.cluster.findings import Finding, at, leaves, listing, mapping, one_of, reach
from jobs.cluster.iam import statements

_ROLE = "AWS::IAM::Role"
_POLICIES = frozenset({"AWS::IAM::ManagedPolicy", "AWS::IAM::Policy"})
_MACHINES = re.compile(r"ec2\.amazonaws\.com")
_DELETES = ("s3:deleteobject", "s3:deleteobjectversion")
# What a job deletes itself, the objects with which it probed the store.
_PROBES = re.compile(r".*_hdrfleet/probe/\*")
_FILLED_IN = re.compile(r"\$\{(\w+)")
_REFERENCE = re.compile(r'(?<![A-Za-z])(?:Ref|GetAtt)(?:"\])?(?:\[0\])?$')  # how a place ends


@dataclass(frozen=True, slots=True)
class Right:
    """A statement that a role has, and by which place: where it stands, or where its policy is attached."""

    place: str
    statement: dict[str, Any]


def roles_of(template: dict[str, Any]) -> dict[str, list[Right]]:
    """The roles of a template by their names there, with their rights."""
    resources = {name: mapping(each) for name, each in mapping(template.get("Resources")).items()}
    policies = {name: each for name, each in resources.items() if one_of(each.get("Type"), _POLICIES)}
    found: dict[str, list[Right]] = {}
    for name, role in resources.items():
        if role.get("Type") == _ROLE:
            place, properties = at("Resources", name, "Properties"), mapping(role.get("Properties"))
            found[name] = [Right(*each) for each in statements(at(place, "Policies"), properties.get("Policies"))]
            found[name] += _attached(place, properties, policies)
            for policy, each in policies.items():
                if name in references(reach(each, "Properties", "Roles")):
                    found[name] += _rights(at("Resources", policy, "Properties", "Roles"), each)
    return found


def check_node_roles(template: dict[str, Any]) -> Iterator[Finding]:
    """Yield where machines may delete objects beside their own probes: a job needs none of it."""
    for name, rights in roles_of(template).items():
        if not _is_for_machines(reach(template, "Resources", name)):
            continue
        for place in dict.fromkeys(right.place for right in rights if _deletes(right.statement)):
            yield Finding(
                place,
                "broad_role",
                f"lets the machines of {name} delete objects (s3:DeleteObject): whoever takes one over can delete "
                "outputs; allow it below _hdrfleet/probe/ alone, and give the rest to whoever cleans up",
            )


def allows(statement: dict[str, Any], actions: tuple[str, ...]) -> bool:
    """Whether a statement allows one of these actions (in small letters), by name or by pattern."""
    return statement.get("Effect") == "Allow" and is_of(statement, actions)


def is_of(statement: dict[str, Any], actions: tuple[str, ...]) -> bool:
    """Whether a statement is about one of these actions (in small letters), by name or by pattern."""
    said = [str(text).lower() for _, text in leaves(statement.get("Action"))]
    return any(fnmatchcase(each, text) for each in actions for text in said)


def references(value: Any) -> set[str]:
    """The resources and parameters that a value refers to: Ref, GetAtt, and `${Name}` in a text."""
    found: set[str] = set()
    for place, text in leaves(value):
        if isinstance(text, str):
            found |= {*_FILLED_IN.findall(text)}
            if _REFERENCE.search(place):
                found.add(text.partition(".")[0])
    return found - {"AWS"}  # of ${AWS::Partition} and the like


def _attached(place: str, role: dict[str, Any], policies: dict[str, dict[str, Any]]) -> Iterator[Right]:
    for index, each in enumerate(listing(role.get("ManagedPolicyArns"))):
        for policy in policies.keys() & references(each):
            yield from _rights(at(place, "ManagedPolicyArns", index), policies[policy])


def _rights(place: str, policy: dict[str, Any]) -> list[Right]:
    return [Right(place, statement) for _, statement in statements("", policy.get("Properties"))]


def _is_for_machines(role: Any) -> bool:
    return any(_MACHINES.match(str(text)) for _, text in leaves(reach(role, "Properties", "AssumeRolePolicyDocument")))


def _deletes(statement: dict[str, Any]) -> bool:
    resources = [str(text) for _, text in leaves(statement.get("Resource"))]
    return allows(statement, _DELETES) and not (resources and all(map(_PROBES.fullmatch, resources)))
