"""The rights that a CloudFormation template gives: statements of policies, and policies of AWS that it attaches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, leaves, mapping

_POLICY_KEYS = ("PolicyDocument", "AssumeRolePolicyDocument")
_CHOICES = ("If", "Fn::If")
_READS = ("batchget", "describe", "get", "list")
_EVERY_BUCKET = re.compile(r"arn:[^:]*:s3:::\*.*")
# What follows the account: everything, or machines.
_EVERY_RESOURCE = re.compile(r"arn:[^:]*:ec2:[^:]*:[^:]*:\*(?:/\*)?")
_MACHINES = re.compile(r"arn:[^:]*:ec2:[^:]*:[^:]*:(?:\*|instance/).*|\*")
_FILLED_IN = re.compile(r"\$\{[^}]*\}")
_EVERY_ROLE = re.compile(r"arn:[^:]*:iam::[^:]*:(?:role/)?\*")
_AWS_POLICY = re.compile(r":policy/(?:[\w-]+/)*(AdministratorAccess|PowerUserAccess|\w*FullAccess)$")
_FORBIDS = re.compile(r"(?i)deny|forbid|creates?only|tlsonly")
_EXACT = frozenset({"StringEquals", "StringEqualsIgnoreCase", "StringLike"})
_NEEDLESS_RIGHTS = "name what hdrfleet needs, as infra/aws/storage-and-role.yaml does"


def check_rights(place: str, properties: dict[str, Any]) -> Iterator[Finding]:
    """Yield the rights in a resource's properties that are wider than what nodes of hdrfleet need."""
    for where, name in leaves(properties.get("ManagedPolicyArns"), at(place, "ManagedPolicyArns")):
        if found := _AWS_POLICY.search(str(name)):
            yield Finding(where, "broad_role", f"{found[1]} allows far more than a node needs; {_NEEDLESS_RIGHTS}")
    for where, statement in statements(place, properties):
        if statement.get("Effect") == "Allow":
            yield from _check_statement(where, statement)
            yield from _check_machines(where, statement)
            yield from _check_sense(where, statement)


def statements(place: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each statement of the policies anywhere below `value`, with its place."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from statements(at(place, index), item)
    for key, item in mapping(value).items():
        where = at(place, str(key))
        if key in _POLICY_KEYS:
            yield from _of_policy(at(where, "Statement"), mapping(item).get("Statement"))
        else:
            yield from statements(where, item)


def _of_policy(place: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """A policy holds one statement or a list, and CloudFormation chooses among them with If."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _of_policy(at(place, index), item)
    for name in _CHOICES:
        if name in mapping(value):
            yield from _of_policy(at(place, name), value[name])
    if "Effect" in mapping(value):
        yield place, value


def _check_statement(place: str, statement: dict[str, Any]) -> Iterator[Finding]:
    actions, resources = _texts(statement.get("Action")), _texts(statement.get("Resource"))
    wide = [each for each in actions if ("*" in each or "?" in each) and not _is_read(each)]
    if any(each == "*" or each.endswith(":*") for each in wide):
        yield Finding(at(place, "Action"), "broad_role", "allows every action of a service; name those that are needed")
    elif wide:
        yield Finding(at(place, "Action"), "broad_role", f"{', '.join(wide)} stands for more than one; name them")
    is_of_s3 = any(each.lower().startswith(("s3:", "*")) for each in actions)
    if "*" in resources and (is_of_s3 or not all(map(_is_read, actions))):
        yield Finding(at(place, "Resource"), "broad_role", f"{', '.join(actions)} on everything; name the resources")
    elif is_of_s3 and any(map(_EVERY_BUCKET.fullmatch, resources)):
        yield Finding(at(place, "Resource"), "broad_role", f"{', '.join(actions)} on every bucket; name yours")
    if "*" in _texts(statement.get("Principal")):
        yield Finding(at(place, "Principal"), "broad_role", "allows everybody")
    for name in ("NotAction", "NotResource", "NotPrincipal"):
        if name in statement:
            yield Finding(at(place, name), "broad_role", "allows all but what it names; name what is needed instead")
    passes_roles = any(each.lower() == "iam:passrole" for each in actions)
    if passes_roles and any(map(_EVERY_ROLE.fullmatch, resources)):
        yield Finding(
            at(place, "Resource"), "broad_role", "iam:PassRole of every role of the account; name the workers'"
        )
    if passes_roles and not _conditions(statement, "iam:passedtoservice"):
        yield Finding(
            at(place, "Condition"),
            "broad_role",
            "does not hold iam:PassedToService: the role may be handed to every service, and used from there",
        )


def _check_machines(place: str, statement: dict[str, Any]) -> Iterator[Finding]:
    """Machines are started with IMDSv2 alone, and only those of the cluster are ended."""
    actions = {each.lower() for each in _texts(statement.get("Action"))}
    resources = _texts(statement.get("Resource"))
    if not any(map(_MACHINES.fullmatch, resources)):
        return
    if "ec2:runinstances" in actions:
        if any(map(_EVERY_RESOURCE.fullmatch, resources)):
            yield Finding(at(place, "Resource"), "broad_role", "ec2:RunInstances with everything; name the resources")
        if _conditions(statement, "ec2:metadatahttptokens") != ["required"]:
            yield Finding(
                at(place, "Condition"),
                "imdsv2",
                "does not hold StringEquals ec2:MetadataHttpTokens: required, and so starts nodes without IMDSv2, too",
            )
    is_tied = _conditions(statement, "ec2:resourcetag/") or _conditions(statement, "aws:resourcetag/")
    if "ec2:createtags" in actions and not (is_tied or _conditions(statement, "ec2:createaction")):
        yield Finding(
            at(place, "Condition"),
            "broad_role",
            "holds neither ec2:CreateAction nor ec2:ResourceTag/...: every machine of the account may be given the tag "
            "of the cluster, and then be ended as one of its own",
        )
    ends = actions & {"ec2:terminateinstances", "ec2:stopinstances"}
    if ends and not is_tied:
        yield Finding(
            at(place, "Condition"),
            "broad_role",
            "does not hold ec2:ResourceTag/...: every machine of the account may be ended",
        )


def _check_sense(place: str, statement: dict[str, Any]) -> Iterator[Finding]:
    """A statement that is written to forbid, and allows."""
    nulls = mapping(mapping(statement.get("Condition")).get("Null"))
    allows_overwriting = any(key.lower() == "s3:if-none-match" and str(nulls[key]).lower() == "true" for key in nulls)
    if allows_overwriting or _FORBIDS.search(str(statement.get("Sid", ""))):
        what = "writes without If-None-Match, which overwrite" if allows_overwriting else "what its Sid says it forbids"
        yield Finding(at(place, "Effect"), "broad_role", f"allows {what}; write Deny")


def _is_read(action: str) -> bool:
    return action.partition(":")[2].lower().startswith(_READS)


def _conditions(statement: dict[str, Any], name: str) -> list[Any]:
    """What the keys of this name have to equal for the statement to count; a name that ends in / begins others."""
    keys = [mapping(each) for operator, each in mapping(statement.get("Condition")).items() if operator in _EXACT]
    pairs = [(str(key).lower(), value) for each in keys for key, value in each.items()]
    return [value for key, value in pairs if key == name or (name.endswith("/") and key.startswith(name))]


def _texts(value: Any) -> list[str]:
    """The text in a value, that of Sub and If included; a dollar sign stands for what Sub fills in."""
    return [_FILLED_IN.sub("$", each) for _, each in leaves(value) if isinstance(each, str)]
