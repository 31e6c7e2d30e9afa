"""Where images come from and go to, and how their stores are reached: parts of the configuration.

Nothing here holds a credential: stores take theirs from the standard AWS chain (environment, shared files, instance
role) or from their own environment.
"""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# A password with slashes, as secret keys have them: by the letter of RFC 3986 the slash ends the authority.
_SECRET_KEY = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s/@:?#]*:(?!\d+(/|$))[^@]*@")
_ENDPOINT = re.compile(r"https?://[^\s/?#]", re.IGNORECASE)


class FrozenModel(BaseModel):
    """Base of every configuration part: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def refuse_secrets(url: str) -> str:
    """Return the URL. Raises ValueError where it holds credentials, without repeating it."""
    parts = urlsplit(url)
    if parts.username or parts.password or _SECRET_KEY.match(url):
        msg = "a URL must not hold credentials; use the standard credential chain (environment, profile, role)"
        raise ValueError(msg)
    return url


def check_endpoint(url: str) -> str:
    """Return an endpoint's URL. Raises ValueError where it has no scheme, without repeating it: it may be a secret."""
    if url and not _ENDPOINT.match(url):
        msg = "an endpoint is a URL that begins with http:// or https://"
        raise ValueError(msg)
    return url


class StorageConfig(FrozenModel):
    """How to reach one object store. Times in seconds; `max_attempts` counts the first try."""

    endpoint_url: str | None = None
    profile: str | None = None
    region: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    connect_timeout_s: float = Field(10.0, gt=0, le=300)
    read_timeout_s: float = Field(60.0, gt=0, le=3600)
    max_attempts: int = Field(6, ge=1, le=20)
    max_retry_s: float = Field(120.0, gt=0, le=3600)

    _endpoint_has_no_secret = field_validator("endpoint_url")(
        lambda v: v if v is None else refuse_secrets(check_endpoint(v))
    )

    @model_validator(mode="after")
    def _not_contradictory(self) -> Self:
        if self.anonymous and self.profile:
            msg = "an anonymous store takes no profile; drop one of the two"
            raise ValueError(msg)
        return self

    def require_fitting(self, url: str) -> None:
        """Raise ValueError for settings that the kind of store at `url` does not know, instead of ignoring them."""
        if url.startswith(("s3://", "s3a://")):
            return
        if self.profile or self.region:
            msg = "a profile and a region are for s3:// URLs; drop them"
            raise ValueError(msg)
        has_timeout = self.read_timeout_s != StorageConfig.model_fields["read_timeout_s"].default
        if "://" not in url and (self.endpoint_url or self.anonymous or self.requester_pays or has_timeout):
            msg = "these options are for object stores, not for a local path; drop them"
            raise ValueError(msg)


class SourceConfig(FrozenModel):
    """Which images to convert: a folder or prefix, a glob, a list file, or an S3 Inventory manifest.

    `include` and `exclude` are shell patterns over the source name; a name is taken when it matches any `include`
    (or none is given) and no `exclude`. With `limit`, only the first images of the listing are considered.
    """

    url: str = Field(min_length=1)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = Field(None, ge=1)
    storage: StorageConfig = StorageConfig()

    _url_has_no_secret = field_validator("url")(refuse_secrets)


class DestinationConfig(FrozenModel):
    """Where the job, the EXRs and the manifest go. `is_weak` declares that its store does not decide races."""

    url: str = Field(min_length=1)
    storage: StorageConfig = StorageConfig()
    is_weak: bool = False

    _url_has_no_secret = field_validator("url")(refuse_secrets)

    @model_validator(mode="after")
    def _not_contradictory(self) -> Self:
        self.storage.require_fitting(self.url)
        return self
