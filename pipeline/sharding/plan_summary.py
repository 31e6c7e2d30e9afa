"""What `plan.json` says of a plan, and whether it agrees with itself."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import Field, model_validator

from pipeline.config import FrozenModel

PLAN_SCHEMA_VERSION = 1


class PlanPart(FrozenModel):
    """One Parquet file of a plan: its name in the plan's folder, its SHA-256 (hex), and the shards that it holds."""

    name: str
    sha256: str
    num_images: int = Field(ge=1)
    first_shard: int = Field(ge=0)
    last_shard: int = Field(ge=0)

    @property
    def num_shards(self) -> int:
        """How many shards it holds."""
        return self.last_shard - self.first_shard + 1


class PlanSummary(FrozenModel):
    """What `plan.json` says. `num_bytes` and `megapixels` (an estimate) are of the source images.

    `created_at` is UTC in ISO 8601. `num_ignored` counts files of the source that are no images by their names, split
    up in `ignored_by_extension`; `ignored_examples` names up to five. `num_unusable` images have names that no output
    can have. `adopts_earlier` is that of its shards. `sha256` is the digest (hex) of all the rest as JSON with sorted
    keys and no spaces; empty in plans of earlier releases.
    """

    schema_version: int = PLAN_SCHEMA_VERSION
    plan: int = Field(ge=1)
    num_shards: int = Field(ge=1)
    num_images: int = Field(ge=1)
    num_bytes: int = Field(ge=0)
    megapixels: float = Field(ge=0)
    created_at: str
    num_ignored: int = 0
    ignored_by_extension: dict[str, int] = Field(default_factory=dict)
    ignored_examples: tuple[str, ...] = ()
    num_unusable: int = 0
    unusable_examples: tuple[str, ...] = ()
    adopts_earlier: bool = True
    parts: tuple[PlanPart, ...] = Field(min_length=1)
    sha256: str = ""

    @model_validator(mode="after")
    def _agrees_with_parts(self) -> Self:
        """Which shards there are, and which of them need no reading, is told from these numbers."""
        following = [*(part.first_shard for part in self.parts[1:]), self.num_shards]
        ends = [part.last_shard + 1 for part in self.parts]
        if self.parts[0].first_shard != 0 or following != ends or any(part.num_shards < 1 for part in self.parts):
            msg = "its parts are not its shards from the first to the last"
            raise ValueError(msg)
        if sum(part.num_images for part in self.parts) != self.num_images:
            msg = "its parts do not have as many images as it says"
            raise ValueError(msg)
        return self


def digest_of(document: dict[str, Any]) -> str:
    """The SHA-256 (hex) of a plan's JSON document but for its own field `sha256`."""
    rest = {name: value for name, value in document.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
