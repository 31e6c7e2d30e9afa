"""The bucket that a template lets nodes write to: whether its own policy keeps objects from being overwritten.

Their roles say what nodes may do; that they create and never overwrite, only the bucket can say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, leaves, mapping, reach
from jobs.cluster.iam import statements
from jobs.cluster.node_roles import Right, allows, is_of, references, roles_of

_BY_ARN = re.compile(r":s3:::([^/*$]+)")
_WRITES = ("s3:putobject",)
_BUCKET, _POLICY = "AWS::S3::Bucket", "AWS::S3::BucketPolicy"


def check_written_buckets(template: dict[str, Any]) -> Iterator[Finding]:
    """Yield the buckets of a template that its roles may write to, and whose policies deny too little."""
    resources = {name: mapping(each) for name, each in mapping(template.get("Resources")).items()}
    policies = [mapping(each.get("Properties")) for each in resources.values() if each.get("Type") == _POLICY]
    rights = [mapping(each.get("Properties")) for each in resources.values() if each.get("Type") != _POLICY]
    roles = roles_of(template)
    for name, resource in resources.items():
        names = {name, *_names_in(reach(resource, "Properties", "BucketName"))}
        if resource.get("Type") != _BUCKET or not any(_may_write(each, names) for each in rights):
            continue
        own = [each for each in policies if names & _names_in(each.get("Bucket"))]
        denied = [each for policy in own for _, each in statements("", policy) if each.get("Effect") == "Deny"]
        place = at("Resources", name)
        if not any(_asks(each, "Bool", "aws:securetransport", "false") for each in denied):
            yield Finding(place, "open_bucket", "no policy of it denies what comes without TLS (aws:SecureTransport)")
        create_only = [
            each for each in denied if is_of(each, _WRITES) and _asks(each, "Null", "s3:if-none-match", "true")
        ]
        unbound = _unbound_writers(template, roles, names, create_only)
        if unbound or not create_only:
            yield Finding(
                place,
                "overwritable",
                f"{', '.join(unbound) or 'roles'} may write to it, and no policy of it denies them writes without "
                "If-None-Match (s3:if-none-match): whoever takes over a node can overwrite outputs",
            )


def _may_write(properties: dict[str, Any], names: set[str]) -> bool:
    return any(_is_write(statement, names) for _, statement in statements("", properties))


def _is_write(statement: dict[str, Any], names: set[str]) -> bool:
    return allows(statement, _WRITES) and bool(names & _names_in(statement.get("Resource")))


def _unbound_writers(
    template: dict[str, Any], roles: dict[str, list[Right]], names: set[str], denied: list[dict[str, Any]]
) -> list[str]:
    """The roles that may write to the bucket of these names, and that none of the statements is about."""
    unbound = []
    for name, rights in roles.items():
        own_name = reach(template, "Resources", name, "Properties", "RoleName")
        is_writer = any(_is_write(right.statement, names) for right in rights)
        if is_writer and not any(_is_about(each.get("Principal"), name, own_name) for each in denied):
            unbound.append(name)
    return unbound


def _is_about(principal: Any, role: str, own_name: Any) -> bool:
    """Whether a principal is this role of the template, by a reference or by an ARN, or everybody."""
    endings = tuple(f":role/{text}" for _, text in leaves(own_name) if isinstance(text, str))
    texts = [str(text) for _, text in leaves(principal)]
    return role in references(principal) or any(text == "*" or text.endswith(endings) for text in texts)


def _names_in(value: Any) -> set[str]:
    """Resources and parameters that a value refers to, and the names of buckets in it."""
    found = references(value)
    for place, text in leaves(value):
        if isinstance(text, str):
            found |= {*_BY_ARN.findall(text), *([] if place else [text])}
    return found


def _asks(statement: dict[str, Any], operator: str, key: str, value: str) -> bool:
    wanted = {
        str(name).lower(): str(each).lower() for name, each in mapping(reach(statement, "Condition", operator)).items()
    }
    return wanted.get(key) == value
