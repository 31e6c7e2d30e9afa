"""Which image and which versions a file asks for, against what is installed here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pipeline
from jobs.cluster.findings import Finding

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RAY_IN_COMMAND = re.compile(r"\bray(?:\[[\w,-]+\])?\s*(?:==|-)\s*(\d+\.\d+[\w.]*?)(?=[-\s'\",;)]|$)")
_PACKAGE_IN_COMMAND = re.compile(r"\bhdrfleet(?:\[[\w,-]+\])?\s*(?:==|-)\s*(\d+\.\d+[\w.]*?)(?=[-\s'\",;)]|$)")
_RAY_TAG = re.compile(r"(\d+\.\d+\.\d+)(?:[.-].*)?")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """`registry/name:tag@digest`, taken apart; a part that is not there is empty."""

    name: str
    tag: str
    digest: str


def parse_image(text: str) -> ImageReference:
    """Take a reference apart. A colon before the last slash belongs to the registry's port."""
    rest, _, digest = text.partition("@")
    head, slash, tail = rest.rpartition("/")
    name, _, tag = tail.partition(":")
    return ImageReference(f"{head}{slash}{name}", tag, digest)


def check_image(place: str, value: Any) -> Iterator[Finding]:
    """Yield a finding unless the image is pinned by a tag; that of our own image, or of Ray's, is the version here."""
    if not isinstance(value, str) or not value:
        yield Finding(place, "image_missing", "no image is named; name the one that infra/Dockerfile builds")
        return
    image = parse_image(value)
    if image.digest and not _DIGEST.fullmatch(image.digest):
        yield Finding(place, "image_digest", f"{image.digest!r} is no digest; one is sha256: and 64 hexadecimal digits")
    if image.tag in {"", "latest", "nightly"} and (image.tag or not image.digest):
        what = f"the tag {image.tag!r} moves" if image.tag else "there is no tag"
        yield Finding(place, "image_unpinned", f"{what}; give hdrfleet's version, {pipeline.__version__}")
        return
    base = image.name.rpartition("/")[2]
    if base == "hdrfleet" and image.tag and image.tag != pipeline.__version__:
        yield Finding(
            place, "image_version", f"the tag is {image.tag}, and hdrfleet is {pipeline.__version__}: they must agree"
        )
    ray_tag = _RAY_TAG.fullmatch(image.tag)
    if base in {"ray", "ray-ml"} and ray_tag and ray_tag[1] != version("ray"):
        yield Finding(place, "ray_version", f"the image has Ray {ray_tag[1]}, and here is {version('ray')}")


def check_versions_in_command(place: str, command: Any) -> Iterator[Finding]:
    """Yield the versions of Ray and hdrfleet that a shell command installs and that are not those used here."""
    wanted = (
        (_RAY_IN_COMMAND, "Ray", version("ray"), "ray_version"),
        (_PACKAGE_IN_COMMAND, "hdrfleet", pipeline.__version__, "package_version"),
    )
    for pattern, name, here, code in wanted:
        for match in pattern.finditer(str(command)):
            if match[1] != here:
                yield Finding(
                    place, code, f"installs {name} {match[1]}, and here is {here}: all nodes need one version"
                )


def check_ray_version(place: str, value: Any) -> Iterator[Finding]:
    """Yield a finding unless `value` is the version of Ray that is installed here."""
    if value is None:
        yield Finding(place, "ray_version", f"is not set; token authentication needs it: {version('ray')!r}")
    elif str(value) != version("ray"):
        yield Finding(place, "ray_version", f"is {value}, and here is {version('ray')}: client and nodes must agree")
