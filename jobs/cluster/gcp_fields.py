"""The fields of a Compute Engine instance that `node_config` may hold, as far down as hdrfleet's files go.

Source: Compute Engine API v1, instances.insert. Google's client is in an extra of the image alone, so its
description of the API is not read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at
from jobs.cluster.ray_yaml import unknown_keys

# What a field holds: a type, several, one of these words (frozenset), a list of something ([...]), an object ({...}),
# or anything (object), where that is too far from what hdrfleet needs.
Shape = Any

_LARGE = (int, str)  # int64, which JSON writes as text
_DISK_SOURCE: dict[str, Shape] = {
    **dict.fromkeys(("description", "diskName", "diskType", "sourceImage", "sourceSnapshot", "storagePool"), str),
    **dict.fromkeys(("diskSizeGb", "provisionedIops", "provisionedThroughput"), _LARGE),
    **dict.fromkeys(("sourceImageEncryptionKey", "sourceSnapshotEncryptionKey", "guestOsFeatures"), object),
    "architecture": frozenset({"ARM64", "X86_64"}),
    "enableConfidentialCompute": bool,
    "labels": dict,
    "licenses": [str],
    "onUpdateAction": frozenset({"RECREATE_DISK", "RECREATE_DISK_IF_SOURCE_CHANGED", "USE_EXISTING_DISK"}),
    "replicaZones": [str],
    "resourceManagerTags": dict,
    "resourcePolicies": [str],
}
_DISK: dict[str, Shape] = {
    **dict.fromkeys(("autoDelete", "boot", "forceAttach"), bool),
    **dict.fromkeys(("deviceName", "kind", "source"), str),
    **dict.fromkeys(("diskEncryptionKey", "guestOsFeatures", "savedState", "shieldedInstanceInitialState"), object),
    "architecture": frozenset({"ARM64", "X86_64"}),
    "diskSizeGb": _LARGE,
    "index": int,
    "initializeParams": _DISK_SOURCE,
    "interface": frozenset({"NVME", "SCSI"}),
    "licenses": [str],
    "mode": frozenset({"READ_ONLY", "READ_WRITE"}),
    "type": frozenset({"PERSISTENT", "SCRATCH"}),
}
_ACCESS: dict[str, Shape] = {
    **dict.fromkeys(("externalIpv6", "ipCollection", "kind", "name", "natIP", "publicPtrDomainName"), str),
    "externalIpv6PrefixLength": int,
    "networkTier": frozenset({"FIXED_STANDARD", "PREMIUM", "STANDARD", "STANDARD_OVERRIDES_FIXED_STANDARD"}),
    "securityPolicy": str,
    "setPublicPtr": bool,
    "type": frozenset({"DIRECT_IPV6", "ONE_TO_ONE_NAT"}),
}
_INTERFACE: dict[str, Shape] = {
    **dict.fromkeys(("fingerprint", "ipv6Address", "kind", "name", "network", "networkAttachment", "networkIP"), str),
    **dict.fromkeys(("parentNicName", "serviceClassId", "subnetwork", "igmpQuery", "nicType"), str),
    **dict.fromkeys(("internalIpv6PrefixLength", "queueCount", "vlan"), int),
    "accessConfigs": [_ACCESS],
    "aliasIpRanges": [{"ipCidrRange": str, "subnetworkRangeName": str}],
    "aliasIpv6Ranges": object,
    "enableVpcScopedDns": bool,
    "ipv6AccessConfigs": [_ACCESS],
    "ipv6AccessType": frozenset({"EXTERNAL", "INTERNAL"}),
    "stackType": frozenset({"IPV4_IPV6", "IPV4_ONLY", "IPV6_ONLY"}),
}
_SCHEDULING: dict[str, Shape] = {
    **dict.fromkeys(("automaticRestart", "exposeHostTopology", "preemptible", "skipGuestOsShutdown"), bool),
    **dict.fromkeys(("availabilityDomain", "hostErrorTimeoutSeconds", "minNodeCpus"), int),
    **dict.fromkeys(("gracefulShutdown", "localSsdRecoveryTimeout", "maxRunDuration", "nodeAffinities"), object),
    **dict.fromkeys(("onInstanceStopAction", "preemptionNoticeDuration", "protectionTier"), object),
    "instanceTerminationAction": frozenset({"DELETE", "STOP"}),
    "locationHint": str,
    "onHostMaintenance": frozenset({"MIGRATE", "TERMINATE"}),
    "provisioningModel": frozenset({"FLEX_START", "RESERVATION_BOUND", "SPOT", "STANDARD"}),
    "terminationTime": str,
}
# Beside the fields of the API the one that Ray takes out itself.
INSTANCE: dict[str, Shape] = {
    **dict.fromkeys(("advancedMachineFeatures", "confidentialInstanceConfig", "displayDevice", "params"), object),
    **dict.fromkeys(("instanceEncryptionKey", "networkPerformanceConfig", "reservationAffinity"), object),
    **dict.fromkeys(("shieldedInstanceIntegrityPolicy", "sourceMachineImageEncryptionKey"), object),
    **dict.fromkeys(("localSsdEncryptionMode", "workloadIdentityConfig"), object),
    **dict.fromkeys(("description", "hostname", "keyRevocationActionType", "machineType", "minCpuPlatform"), str),
    **dict.fromkeys(("name", "privateIpv6GoogleAccess", "sourceInstanceTemplate", "sourceMachineImage"), str),
    **dict.fromkeys(("canIpForward", "deletionProtection"), bool),
    "disks": [_DISK],
    "guestAccelerators": [{"acceleratorCount": int, "acceleratorType": str}],
    "labels": dict,
    "metadata": {"fingerprint": str, "items": [{"key": str, "value": str}], "kind": str},
    "networkInterfaces": [_INTERFACE],
    "resourcePolicies": [str],
    "scheduling": _SCHEDULING,
    "serviceAccounts": [{"email": str, "scopes": [str]}],
    "shieldedInstanceConfig": dict.fromkeys(("enableIntegrityMonitoring", "enableSecureBoot", "enableVtpm"), bool),
    "tags": {"fingerprint": str, "items": [str]},
}


def check_fields(place: str, value: Any, shape: Shape = INSTANCE) -> Iterator[Finding]:
    """Yield where `value` is not of a shape: unknown keys, types, words that Compute Engine does not know."""
    if isinstance(shape, dict) and isinstance(value, dict):
        yield from unknown_keys(place, value, shape)
        for key in value:
            if key in shape:
                yield from check_fields(at(place, key), value[key], shape[key])
    elif isinstance(shape, list) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from check_fields(at(place, index), item, shape[0])
    elif isinstance(shape, frozenset):
        if not isinstance(value, str) or value not in shape:
            yield Finding(place, "unknown_value", f"is {value!r}, and Compute Engine knows {', '.join(sorted(shape))}")
    elif not _is_of(value, shape):
        yield Finding(place, "wrong_type", f"Compute Engine takes {_words(shape)} here, not {type(value).__name__}")


def _is_of(value: Any, shape: Shape) -> bool:
    if isinstance(shape, dict | list):
        return False
    if isinstance(value, bool) and shape in (int, _LARGE):
        return False
    return isinstance(value, shape)


def _words(shape: Shape) -> str:
    if isinstance(shape, dict | list):
        return type(shape).__name__
    return " or ".join(each.__name__ for each in (shape if isinstance(shape, tuple) else (shape,)))
