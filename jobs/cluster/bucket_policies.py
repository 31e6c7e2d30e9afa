"""The bucket that a template lets nodes write to: whether its own policy keeps objects from being overwritten.

Their roles say what nodes may do; that they create and never overwrite, only the bucket can say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from jobs.cluster.findings import Finding, at, leaves, mapping, reach
from jobs.cluster.iam import statements

_FILLED_IN = re.compile(r"\$\{(\w+)")
_REFERENCE = re.compile(r'(?<![A-Za-z])(?:Ref|GetAtt)(?:"\])?(?:\[0\])?$')  # how a place ends
_BY_ARN = re.compile(r":s3:::([^/*$]+)")
_WRITES = "s3:putobject"
_BUCKET, _POLICY = "AWS::S3::Bucket", "AWS::S3::BucketPolicy"


def check_written_buckets(template: dict[str, Any]) -> Iterator[Finding]:
    """Yield the buckets of a template that its roles may write to, and whose policies deny too little."""
    resources = {name: mapping(each) for name, each in mapping(template.get("Resources")).items()}
    policies = [mapping(each.get("Properties")) for each in resources.values() if each.get("Type") == _POLICY]
    rights = [mapping(each.get("Properties")) for each in resources.values() if each.get("Type") != _POLICY]
    for name, resource in resources.items():
        names = {name, *_names_in(reach(resource, "Properties", "BucketName"))}
        if resource.get("Type") != _BUCKET or not any(_may_write(each, names) for each in rights):
            continue
        own = [each for each in policies if names & _names_in(each.get("Bucket"))]
        denied = [each for policy in own for _, each in statements("", policy) if each.get("Effect") == "Deny"]
        place = at("Resources", name)
        if not any(_asks(each, "Bool", "aws:securetransport", "false") for each in denied):
            yield Finding(place, "open_bucket", "no policy of it denies what comes without TLS (aws:SecureTransport)")
        if not any(_asks(each, "Null", "s3:if-none-match", "true") for each in denied):
            yield Finding(
                place,
                "overwritable",
                "roles may write to it, and no policy of it denies writes without If-None-Match (s3:if-none-match): "
                "whoever takes over a node can overwrite outputs",
            )


def _may_write(properties: dict[str, Any], names: set[str]) -> bool:
    for _, statement in statements("", properties):
        actions = [str(text).lower() for _, text in leaves(statement.get("Action"))]
        is_write = any(fnmatchcase(_WRITES, action) for action in actions)
        if statement.get("Effect") == "Allow" and is_write and names & _names_in(statement.get("Resource")):
            return True
    return False


def _names_in(value: Any) -> set[str]:
    """Resources and parameters that a value refers to, and the names of buckets in it."""
    found: set[str] = set()
    for place, text in leaves(value):
        if not isinstance(text, str):
            continue
        found |= {*_FILLED_IN.findall(text), *_BY_ARN.findall(text)}
        if _REFERENCE.search(place):
            found.add(text.partition(".")[0])
        elif not place:
            found.add(text)
    return found - {"AWS"}  # of ${AWS::Partition} and the like


def _asks(statement: dict[str, Any], operator: str, key: str, value: str) -> bool:
    wanted = {
        str(name).lower(): str(each).lower() for name, each in mapping(reach(statement, "Condition", operator)).items()
    }
    return wanted.get(key) == value
