"""What Ray does not look at in a cluster file for AWS: `provider`, and `node_config`, which goes to EC2 as it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from jobs.cluster.findings import Finding, at, is_everybody, listing, mapping, number, reach
from jobs.cluster.ray_yaml import unknown_keys

# What Ray 2.60 reads of `provider`, for every cloud and for AWS (ray/autoscaler/_private).
COMMON_PROVIDER_KEYS = (
    "type",
    "region",
    "availability_zone",
    "cache_stopped_nodes",
    "use_internal_ips",
    "disable_node_updaters",
    "disable_launch_config_check",
    "foreground_node_launch",
    "worker_liveness_check",
)
_AWS_PROVIDER_KEYS = (*COMMON_PROVIDER_KEYS, "security_group", "key_pair", "aws_credentials", "cloudwatch")
_OF_RAY_ITSELF = frozenset({"SubnetIds"})  # Ray picks one and hands EC2 its SubnetId
_SET_BY_RAY = frozenset({"MinCount", "MaxCount"})
_MAX_HOPS = 2
_TYPE_NAMES = {
    "structure": dict,
    "list": list,
    "map": dict,
    "string": str,
    "boolean": bool,
    "integer": int,
    "long": int,
}


def check_provider(prepared: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with provider and node_config of a prepared file, and what a launch template may hide."""
    provider = prepared["provider"]
    findings = [*unknown_keys("provider", provider, _AWS_PROVIDER_KEYS)]
    if "aws_credentials" in provider:
        findings.append(
            Finding("provider.aws_credentials", "secret", "keys stand in the file; use a profile, or the environment")
        )
    findings += _open_rules("provider.security_group", provider.get("security_group"))
    notes = []
    for name, node_type in prepared["available_node_types"].items():
        place = at("available_node_types", name, "node_config")
        node = node_type["node_config"]
        asked = {key: value for key, value in node.items() if key not in _OF_RAY_ITSELF}
        findings += check_shape(place, asked, _run_instances())
        if "LaunchTemplate" in node:
            notes.append(f"{place}: what its launch template adds is not checked")
            continue
        findings += _check_node(place, node)
    return findings, notes


@cache
def _run_instances() -> Any:
    """The input of EC2's RunInstances, from the service model that botocore carries."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    model = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")
    return model.operation_model("RunInstances").input_shape


def check_shape(place: str, value: Any, shape: Any) -> Iterator[Finding]:
    """Yield where `value` is not of a botocore `shape`: unknown and missing keys, types, unknown names.

    botocore's own validator knows no enumerations and puts the place into its sentence; otherwise the two agree.
    """
    wanted: Any = _TYPE_NAMES.get(shape.type_name, (int, float) if shape.type_name in {"float", "double"} else object)
    if not isinstance(value, wanted) or (isinstance(value, bool) and shape.type_name in {"integer", "long"}):
        yield Finding(place, "wrong_type", f"EC2 takes a {shape.type_name} here, not {type(value).__name__}")
    elif shape.type_name == "structure":
        yield from unknown_keys(place, value, shape.members)
        for key in shape.required_members:
            if key not in value and key not in _SET_BY_RAY:
                yield Finding(at(place, key), "missing_key", "EC2 needs it")
        for key, item in value.items():
            if key in shape.members:
                yield from check_shape(at(place, key), item, shape.members[key])
    elif shape.type_name == "list":
        for index, item in enumerate(value):
            yield from check_shape(at(place, index), item, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield Finding(place, "unknown_value", f"EC2 has no {value!r} here, as far as the installed botocore knows")


def _check_node(place: str, node: dict[str, Any]) -> Iterator[Finding]:
    if not isinstance(node.get("InstanceType"), str):
        yield Finding(at(place, "InstanceType"), "missing_key", "Ray needs it")
    interfaces = listing(node.get("NetworkInterfaces"))
    in_groups = node.get("SecurityGroupIds") or (interfaces and all(mapping(each).get("Groups") for each in interfaces))
    if not in_groups:
        yield Finding(
            at(place, "SecurityGroupIds"),
            "open_security_group",
            "is not set, so Ray makes a group that lets the whole world in by SSH; name one of yours",
        )
    if reach(node, "MetadataOptions", "HttpTokens") != "required":
        yield Finding(
            at(place, "MetadataOptions", "HttpTokens"),
            "imdsv2",
            "is not 'required': whatever can make the node fetch a URL gets its credentials",
        )
    if number(reach(node, "MetadataOptions", "HttpPutResponseHopLimit"), 1) > _MAX_HOPS:
        yield Finding(
            at(place, "MetadataOptions", "HttpPutResponseHopLimit"),
            "imdsv2",
            "1 is enough: Ray's containers use their host's network",
        )
    if reach(node, "MetadataOptions", "HttpEndpoint") == "disabled":
        yield Finding(
            at(place, "MetadataOptions", "HttpEndpoint"),
            "no_metadata",
            "is disabled: the node gets no credentials from its instance profile, and hears of no interruption",
        )
    yield from _check_spot(at(place, "InstanceMarketOptions", "SpotOptions"), node)
    if not node.get("IamInstanceProfile"):
        yield Finding(
            at(place, "IamInstanceProfile"),
            "broad_role",
            "is not set: Ray gives such a head full access to EC2 and S3, and such a worker reaches no bucket",
        )


def _check_spot(place: str, node: dict[str, Any]) -> Iterator[Finding]:
    """A node that comes back after Ray has replaced it: nobody counts it, and nobody ends it."""
    options = mapping(reach(node, "InstanceMarketOptions", "SpotOptions"))
    if options.get("SpotInstanceType") == "persistent":
        yield Finding(
            at(place, "SpotInstanceType"),
            "spot_returns",
            "is persistent: EC2 starts the machine again when Ray has ended it, and it costs until somebody sees it",
        )
    if options.get("InstanceInterruptionBehavior") in ["stop", "hibernate"]:  # no set: what stands there may be a list
        yield Finding(
            at(place, "InstanceInterruptionBehavior"),
            "spot_returns",
            "must be terminate: another node has taken the place of one that is stopped and comes back",
        )


def _open_rules(place: str, group: Any) -> Iterator[Finding]:
    for index, rule in enumerate(listing(mapping(group).get("IpPermissions"))):
        for ranges, key in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")):
            for number_of, each in enumerate(listing(mapping(rule).get(ranges))):
                if is_everybody(mapping(each).get(key)):
                    yield Finding(
                        at(place, "IpPermissions", index, ranges, number_of, key),
                        "open_security_group",
                        "lets the whole world in; name your own network",
                    )
