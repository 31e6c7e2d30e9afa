"""How many GPUs a machine has, by the names that AWS and Google give their machines."""

from __future__ import annotations

import re

# Sizes with several GPUs; the other sizes of these families have one. Source: AWS, "Accelerated computing instances".
_AWS_SIZES: dict[str, dict[str, int]] = {
    "g4dn": {"12xlarge": 4, "metal": 8},
    "g5": {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
    "g6": {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
    "g6e": {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
    "p3": {"8xlarge": 4, "16xlarge": 8},
    "p3dn": {"24xlarge": 8},
    "p4d": {"24xlarge": 8},
    "p4de": {"24xlarge": 8},
    "p5": {"48xlarge": 8},
    "p5e": {"48xlarge": 8},
    "p5en": {"48xlarge": 8},
    "p6-b200": {"48xlarge": 8},
    "p6-b300": {"48xlarge": 8},
}
_AWS_OTHER_GPU_FAMILY = re.compile(r"(?:g|gr|p|inf|trn|dl|vt|f)\d")
# Source: Google Cloud, "GPU machine types". N1 machines get theirs from guestAccelerators.
_G2_GPUS = {"24": 2, "48": 4, "96": 8}
_GCP_BY_SUFFIX = re.compile(r"a[234]-\w+-(\d+)g(?:-\w+)?")


def gpus_of_aws_instance(instance_type: str) -> int | None:
    """The GPUs of an EC2 instance type; None for an accelerated family that is not in the table."""
    family, _, size = instance_type.partition(".")
    if family in _AWS_SIZES:
        return _AWS_SIZES[family].get(size, 1)
    return None if _AWS_OTHER_GPU_FAMILY.match(family) else 0


def gpus_of_gcp_machine(machine_type: str) -> int | None:
    """The GPUs that a Compute Engine machine type has built in; None for one that is not in the tables."""
    name = machine_type.rpartition("/")[2]
    if name.startswith("g2-"):
        return _G2_GPUS.get(name.rpartition("-")[2], 1)
    if match := _GCP_BY_SUFFIX.fullmatch(name):
        return int(match[1])
    return None if re.match(r"[ag]\d", name) else 0
