"""What a source URL means, read from its text alone: which store holds it, and which key in there.

Purely lexical, so that the driver and every worker agree without asking anybody.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import SourceError
from pipeline.sharding.patterns import has_wildcard
from pipeline.sharding.web_parameters import Parted, is_on_web, part_secrets
from pipeline.storage.keys import WEB_QUERY
from pipeline.storage.redact import without_userinfo

LIST_EXTENSIONS = frozenset({".txt", ".csv", ".parquet"})
INVENTORY_NAME = "manifest.json"
LOCAL_SCHEME = "file"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
# Keys of other stores may hold question marks: what follows one belongs to the key, unless it holds a signature.
_SIGNED = re.compile(
    r"\?(?:[\w.\-]+=[^?]*&)?"
    r"(?:X-[A-Za-z]+-(?:Signature|Credential|Security-Token)|X-(?:Amz|Goog)-[\w\-]+"
    r"|(?:AWS|OSS)AccessKeyId|GoogleAccessId|q-(?:sign-algorithm|ak|signature)|Signature|sig|token)=.*\Z",
    re.IGNORECASE,
)
_SCHEME_ALIASES = {"s3a": "s3", "gcs": "gs"}


class SourceShape(StrEnum):
    """How a source URL reads. `PATH` is a folder, a prefix or one image; only the store can tell."""

    PATH = "path"
    GLOB = "glob"
    LIST = "list"
    INVENTORY = "inventory"


@dataclass(frozen=True, slots=True)
class Location:
    """A root that a store can open, and a key below it without leading or trailing slash (empty: the root itself)."""

    scheme: str
    root: str
    key: str

    @property
    def url(self) -> str:
        """The whole location again: an absolute path or a URL."""
        return join_root(self.root, self.key)


def source_shape(url: str) -> SourceShape:
    """Classify by the text: wildcards, a trailing slash, a list's extension, an inventory's `manifest.json`."""
    path = _SCHEME.sub("", split_query(url)[0], count=1)
    name = posixpath.basename(path)
    if has_wildcard(path):
        return SourceShape.GLOB
    if name == INVENTORY_NAME:
        return SourceShape.INVENTORY
    if posixpath.splitext(name)[1].lower() in LIST_EXTENSIONS:
        return SourceShape.LIST
    return SourceShape.PATH


def locate(url: str) -> Location:
    """Split a URL or path at its widest root: the file system's `/`, or the scheme with its bucket or host.

    Local paths become absolute (`~` is expanded). Userinfo is dropped. Keys of object stores are taken literally.
    Raises SourceError for a file URL without an absolute path.
    """
    url = without_userinfo(url)
    match = _SCHEME.match(url)
    scheme = match.group(1).lower() if match else LOCAL_SCHEME
    scheme = _SCHEME_ALIASES.get(scheme, scheme)
    rest = url[match.end() :] if match else url
    if scheme == LOCAL_SCHEME:
        path = _path_of_file_url(rest) if match else os.path.expanduser(rest)  # noqa: PTH111 - pathlib drops `//` and `.`
        return Location(scheme, "/", os.path.abspath(path).lstrip("/"))  # noqa: PTH100 - resolve() would follow links
    bucket, _, key = rest.partition("/")
    return Location(scheme, f"{scheme}://{bucket}", key.rstrip("/"))


def _path_of_file_url(rest: str) -> str:
    path = unquote(rest.removeprefix("localhost"))
    if not path.startswith("/"):
        raise SourceError(f"file://{rest}: a file URL has the form file:///absolute/path")
    return path


def split_glob(location: Location) -> tuple[str, str]:
    """Split a glob's key into the longest folder without a wildcard (may be empty) and the pattern below it.

    Raises SourceError for a wildcard in the root.
    """
    segments = location.key.split("/")
    num_fixed = next((index for index, segment in enumerate(segments) if has_wildcard(segment)), -1)
    if num_fixed < 0:
        raise SourceError(f"{location.url}: a bucket's or host's name takes no wildcard")
    return "/".join(segments[:num_fixed]), "/".join(segments[num_fixed:])


def join_root(root: str, key: str) -> str:
    """Join a root (which may end in a slash, as `/` does) and a key (which may be empty)."""
    return f"{root}{'' if root.endswith('/') else '/'}{key}" if key else root


def relative_to(inner: str, outer: str) -> str | None:
    """Return where `inner` lies below `outer` (`''` when they are one place), or None when it does not.

    Local paths are compared with symbolic links resolved, URLs after their scheme is normalised.
    """
    below, above = locate(inner), locate(outer)
    if below.scheme != above.scheme:
        return None
    if below.scheme == LOCAL_SCHEME:
        below_path, above_path = (str(Path(place.url).resolve()).strip("/") for place in (below, above))
    else:
        below_path, above_path = (posixpath.normpath(place.url) for place in (below, above))
    if below_path == above_path:
        return ""
    prefix = f"{above_path}/" if above_path else ""
    return below_path[len(prefix) :] if below_path.startswith(prefix) else None


def resolve_entry(entry: str, folder: Location) -> Location:
    """Locate one entry of a list that lies in `folder`: a URL, an absolute local path, or a path relative to it.

    The entry is one as `part_entry` gives it. Raises SourceError when a relative path leaves the bucket.
    """
    if _SCHEME.match(entry) or (folder.scheme == LOCAL_SCHEME and entry.startswith(("/", "~/"))):
        return locate(entry)
    if folder.scheme == LOCAL_SCHEME:
        return locate(posixpath.join(folder.url, entry))
    key = without_dots(posixpath.join(folder.key, entry.lstrip("/")))
    if key.startswith(".."):
        raise SourceError(f"{entry!r} leads out of {folder.root}")
    return Location(folder.scheme, folder.root, key)


def without_dots(path: str) -> str:
    """Resolve the segments `.` and `..` of a relative path; unlike in a file system, an empty one is a name of its own.

    What leads out stays at the beginning, as `..`.
    """
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == ".." and kept and kept[-1] != "..":
            kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept)


def listed_name(entry: str) -> str:
    """Return a URL or path as it is recorded; see `part_entry`."""
    return part_entry(entry).url


def part_entry(entry: str, *, is_beside_web: bool = False) -> Parted:
    """Return an entry as it is recorded, without userinfo, signature and tokens, and which of them an image may need.

    A web address keeps the parameters of its query that say which resource is meant, and loses its fragment; what has
    no scheme is one where the list lies on the web. A secret key and a session token may hold slashes; so may a key of
    another store, and it may hold a question mark.
    """
    match = _SCHEME.match(entry)
    if match is None:
        return part_secrets(entry, is_relative=True) if is_beside_web else Parted(entry)
    if is_on_web(match.group().lower()):
        return part_secrets(entry)
    return Parted(without_userinfo(match.group() + _SIGNED.sub("", entry[match.end() :])))


def split_query(url: str) -> tuple[str, str]:
    """Split a web address at the question mark of its query, which begins as `name=`; all else has none."""
    found = WEB_QUERY.search(url) if is_on_web(url.lower()) else None
    return (url[: found.start()], url[found.end() :]) if found else (url, "")
