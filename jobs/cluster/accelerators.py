"""Which GPUs a machine has and how many, by the names that AWS and Google give their machines."""

from __future__ import annotations

import re

# By family: Ray's name for its GPUs (ray.util.accelerators), and the sizes that have several; the other sizes have one.
# Source: AWS, "Accelerated computing instances".
_AWS_FAMILIES: dict[str, tuple[str, dict[str, int]]] = {
    "g4dn": ("T4", {"12xlarge": 4, "metal": 8}),
    "g5": ("A10G", {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6": ("L4", {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6e": ("L40S", {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "p3": ("V100", {"8xlarge": 4, "16xlarge": 8}),
    "p3dn": ("V100", {"24xlarge": 8}),
    "p4d": ("A100", {"24xlarge": 8}),
    "p4de": ("A100", {"24xlarge": 8}),
    "p5": ("H100", {"48xlarge": 8}),
    "p5e": ("H200", {"48xlarge": 8}),
    "p5en": ("H200", {"48xlarge": 8}),
    "p6-b200": ("B200", {"48xlarge": 8}),
    "p6-b300": ("B300", {"48xlarge": 8}),
}
_AWS_OTHER_GPU_FAMILY = re.compile(r"(?:g|gr|p|inf|trn|dl|vt|f)\d")
# Source: Google Cloud, "GPU machine types". N1 machines get theirs from guestAccelerators.
_G2_GPUS = {"24": 2, "48": 4, "96": 8}
_GCP_BY_SUFFIX = re.compile(r"a[234]-\w+-(\d+)g(?:-\w+)?")

# The longest prefix that fits counts. H200 come as a3-ultragpu, every other a3 has H100.
_GCP_MODELS = {"g2-": "L4", "a2-": "A100", "a3-": "H100", "a3-ultragpu-": "H200", "a4-highgpu-": "B200"}


def gpus_of_aws_instance(instance_type: str) -> int | None:
    """The GPUs of an EC2 instance type; None for an accelerated family that is not in the table."""
    family, _, size = instance_type.partition(".")
    if family in _AWS_FAMILIES:
        return _AWS_FAMILIES[family][1].get(size, 1)
    return None if _AWS_OTHER_GPU_FAMILY.match(family) else 0


def gpus_of_gcp_machine(machine_type: str) -> int | None:
    """The GPUs that a Compute Engine machine type has built in; None for one that is not in the tables."""
    name = machine_type.rpartition("/")[2]
    if name.startswith("g2-"):
        return _G2_GPUS.get(name.rpartition("-")[2], 1)
    if match := _GCP_BY_SUFFIX.fullmatch(name):
        return int(match[1])
    return None if re.match(r"[ag]\d", name) else 0


def model_of_aws_instance(instance_type: str) -> str | None:
    """Ray's name for the GPUs of an EC2 instance type; None where it has none or is not in the table."""
    family = instance_type.partition(".")[0]
    return _AWS_FAMILIES[family][0] if family in _AWS_FAMILIES else None


def model_of_gcp_machine(machine_type: str) -> str | None:
    """Ray's name for the GPUs that a Compute Engine machine type has built in; None where that is not known here."""
    name = machine_type.rpartition("/")[2]
    fitting = [prefix for prefix in _GCP_MODELS if name.startswith(prefix)]
    return _GCP_MODELS[max(fitting, key=len)] if fitting else None


def model_of_accelerator(product: str) -> str:
    """Ray's name for a GPU by its maker's: `nvidia-tesla-t4`, also at the end of a URL, and `Tesla-T4` are T4."""
    name = product.rpartition("/")[2].upper()
    return name.removeprefix("NVIDIA-").removeprefix("TESLA-")
