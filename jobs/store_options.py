"""Options that say how a store is reached, against the store: what would change nothing is refused, not ignored."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import ConfigError
from pipeline.storage.settings import heeded_settings, is_local

_FLAGS = {
    "endpoint_url": "endpoint-url",
    "profile": "profile",
    "region": "region",
    "anonymous": "anonymous",
    "requester_pays": "requester-pays",
    "connect_timeout_s": "timeout",
    "read_timeout_s": "timeout",
    "max_attempts": "attempts",
}
_OF_AWS = frozenset({"profile", "region"})


def require_heeded(url: str, given: Mapping[str, object], prefix: str = "--") -> None:
    """Raise ConfigError where one of the fields `given` changes nothing at `url`; `prefix` begins its option's name."""
    idle = [name for name in given if name not in heeded_settings(url)]
    if not idle:
        return
    flag = f"{prefix}{_FLAGS[idle[0]]}"
    if _OF_AWS.intersection(idle):
        flag = f"{prefix}{_FLAGS[next(name for name in idle if name in _OF_AWS)]}"
        raise ConfigError(f"{flag}: a profile and a region are for s3:// URLs; drop them")
    if is_local(url):
        raise ConfigError(f"{flag}: these options are for object stores, not for a local path; drop them")
    raise ConfigError(f"{flag} changes nothing about {url.partition('://')[0].lower()}:// URLs; drop it")


def require_heeded_by_source(url: str, given: Mapping[str, object]) -> None:
    """The same for `--src-…`; what a list or an inventory names may lie anywhere."""
    from pipeline.sharding import SourceShape, source_shape  # pyarrow, which training does without

    if source_shape(url) not in {SourceShape.LIST, SourceShape.INVENTORY}:
        require_heeded(url, given, "--src-")


def heeded(url: str, given: Mapping[str, object]) -> dict[str, object]:
    """Those of the fields `given` that count at `url`: for options that were given for another store, too."""
    return {name: value for name, value in given.items() if name in heeded_settings(url)}
