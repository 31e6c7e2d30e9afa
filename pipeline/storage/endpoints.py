"""Which S3 service a URL means: the same bucket name is another bucket at another provider."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipeline.places import StorageConfig

_S3 = ("s3://", "s3a://")


def custom_endpoint(config: StorageConfig, environment: Mapping[str, str] | None = None) -> str | None:
    """Return the endpoint to use where it is not AWS's own, from the configuration or the environment.

    `environment` is that of this process unless given.
    """
    said = os.environ if environment is None else environment
    if config.endpoint_url:
        return config.endpoint_url
    if said.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    return said.get("AWS_ENDPOINT_URL_S3") or said.get("AWS_ENDPOINT_URL") or None


def may_overlap(
    source_url: str,
    source: StorageConfig,
    destination_url: str,
    destination: StorageConfig,
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Whether two URLs can name the same objects at all: not where both are S3's, at different endpoints.

    `environment` is that of the machine that uses them, by default this process's.
    """
    if not (source_url.startswith(_S3) and destination_url.startswith(_S3)):
        return True
    ours, theirs = custom_endpoint(source, environment), custom_endpoint(destination, environment)
    return (ours or "").rstrip("/").lower() == (theirs or "").rstrip("/").lower()
