"""CloudFormation templates: cfn-lint, where it is installed, and what is open to everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.cluster.bucket_policies import check_written_buckets
from jobs.cluster.findings import Finding, at, is_everybody, leaves, listing, mapping, reach
from jobs.cluster.iam import check_rights
from jobs.cluster.node_roles import check_node_roles

_BLOCKS = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
_CIDR_KEYS = ("CidrIp", "CidrIpv6")
_ALL_PROTOCOLS = "-1"
_WITHOUT_PORTS = frozenset({"icmp", "icmpv6", "1", "58"})


def is_template(document: Any) -> bool:
    """Whether a document is a CloudFormation template."""
    return "AWSTemplateFormatVersion" in mapping(document) or (
        isinstance(mapping(document).get("Resources"), dict)
        and any(str(mapping(each).get("Type", "")).startswith("AWS::") for each in document["Resources"].values())
    )


def check_template(template: dict[str, Any], path: Path) -> tuple[list[Finding], list[str]]:
    """Return what cfn-lint and our own checks find in the template at `path`, and whether cfn-lint was there."""
    notes = (
        [] if has_linter() else ["cfn-lint is not installed, so only what is open was looked for; pip install cfn-lint"]
    )
    return [*(_lint(path) if has_linter() else ()), *find_open(template)], notes


def find_open(template: dict[str, Any]) -> Iterator[Finding]:
    """Yield what a template opens to everybody, rights that are too wide, and buckets that keep unfinished uploads."""
    for name, parameter in mapping(template.get("Parameters")).items():
        if is_everybody(mapping(parameter).get("Default")):
            yield Finding(at("Parameters", name, "Default"), "open_security_group", "lets the whole world in")
    for name, resource in mapping(template.get("Resources")).items():
        yield from _check_resource(at("Resources", name, "Properties"), mapping(resource))
    yield from check_written_buckets(template)
    yield from check_node_roles(template)


def has_linter() -> bool:
    """Whether cfn-lint is installed."""
    from importlib.util import find_spec

    return find_spec("cfnlint") is not None


def _lint(path: Path) -> Iterator[Finding]:
    from cfnlint.api import lint_file

    for match in lint_file(path):
        keys = getattr(match, "path", None) or ()
        place = at("", *(key if isinstance(key, int) else str(key) for key in keys)) or f"line {match.linenumber}"
        yield Finding(place, f"cfn_{match.rule.id}", str(match.message))


def _check_resource(place: str, resource: dict[str, Any]) -> Iterator[Finding]:
    properties = mapping(resource.get("Properties"))
    for where, value in leaves(properties, place):
        if is_everybody(value) and where.rpartition(".")[2] in _CIDR_KEYS and "Egress" not in where:
            yield Finding(where, "open_security_group", "lets the whole world in; name your own network")
    yield from _check_ports(place, resource)
    if resource.get("Type") == "AWS::S3::Bucket":
        yield from _check_bucket(place, properties)
    yield from check_rights(place, properties)


def _check_ports(place: str, resource: dict[str, Any]) -> Iterator[Finding]:
    """A network gets in on one port at a time; on all of them only the group's own nodes do."""
    properties = mapping(resource.get("Properties"))
    rules = [(place, properties)] if resource.get("Type") == "AWS::EC2::SecurityGroupIngress" else []
    if resource.get("Type") == "AWS::EC2::SecurityGroup":
        listed = enumerate(map(mapping, listing(properties.get("SecurityGroupIngress"))))
        rules += [(at(place, "SecurityGroupIngress", index), each) for index, each in listed]
    for where, rule in rules:
        first, last, protocol = (rule.get(key) for key in ("FromPort", "ToPort", "IpProtocol"))
        if not any(key in rule for key in _CIDR_KEYS) or str(protocol) in _WITHOUT_PORTS:
            continue
        if str(protocol) == _ALL_PROTOCOLS or first is None or str(first) != str(last):
            said = "every port" if str(protocol) == _ALL_PROTOCOLS or first is None else "more than one port"
            yield Finding(
                at(where, "IpProtocol" if str(protocol) == _ALL_PROTOCOLS else "ToPort"),
                "open_security_group",
                f"opens {said} to a network; name the one port, and for nodes the group (SourceSecurityGroupId)",
            )


def _check_bucket(place: str, bucket: dict[str, Any]) -> Iterator[Finding]:
    for name in _BLOCKS:
        if reach(bucket, "PublicAccessBlockConfiguration", name) is not True:
            yield Finding(at(place, "PublicAccessBlockConfiguration", name), "open_bucket", "is not true")
    if not bucket.get("BucketEncryption"):
        yield Finding(at(place, "BucketEncryption"), "open_bucket", "is not set: say how objects are encrypted")
    rules = listing(reach(bucket, "LifecycleConfiguration", "Rules"))
    if not any("AbortIncompleteMultipartUpload" in mapping(rule) for rule in rules):
        yield Finding(
            at(place, "LifecycleConfiguration", "Rules"),
            "unfinished_uploads",
            "no rule has AbortIncompleteMultipartUpload: uploads of killed processes are paid for until somebody looks",
        )
