"""Where an image's output lies: a readable, safe and injective mapping from source names to object keys.

The encoding of a source name (after a URL scheme or one leading slash is dropped), segment by segment:

- ordinary characters, spaces and Unicode included, stay as they are;
- control characters, line separators, backslashes, lone surrogates and the noncharacters U+FFFE and U+FFFF become
  `%HH` per UTF-8 byte, in capitals;
- the segments `.` and `..` become `%2E` and `%2E%2E`; an empty segment becomes `%_`;
- a segment that begins as our own temporary files do has its first dot written `%2E`: these are swept away;
- a `%` that could be read as one of these escapes becomes `%25`; any other `%` stays;
- a last segment that ends like a revision (`.v2`) has that dot written `%2E`, so that revision 2 of `a.jpg` and a
  source named `a.jpg.v2` differ; a folder that ends in `.exr` likewise, so that no output is another's folder;
- what is too long for a file name or an object key is cut and ends in `%~` and a SHA-256 prefix.

Without cuts the encoding can be decoded, hence no two names share an output; with them a collision is a collision of
128 bits of SHA-256. Names that differ only in the dropped scheme or slash (`/a.jpg`, `s3://a.jpg`, `a.jpg`) share one:
within one listing `pipeline.sharding.lists` refuses that; between plans the identity check of the commit protocol
resolves it as another revision.
"""

from __future__ import annotations

import hashlib
import os
import re

from pipeline.errors import DestinationError
from pipeline.sharding.locations import LOCAL_SCHEME, locate
from pipeline.storage.durable import TEMP_PREFIX

OUTPUT_FOLDER = "images"
OUTPUT_SUFFIX = ".exr"
# With it a worker tries whether outputs can be written: among them, where no output can have this name.
TRIAL_KEY = f"{OUTPUT_FOLDER}/.hdrfleet-probe"

# File systems take 255 bytes a name (16 are kept for `.v<revision>.exr`). Object stores take 1,024 bytes a key; what is
# left of them is for the prefix of the destination and a slash (`require_short_prefix`).
MAX_SEGMENT_BYTES = 255
MAX_KEY_BYTES = 900
_STORE_KEY_BYTES = 1024
_PATH_BYTES = 4095  # Linux's PATH_MAX without the byte that ends it
_SUFFIX_ROOM_BYTES = 16
_DIGEST_CHARS = 32

_ROOT = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://|/")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\\ud800-\udfff\ufffe\uffff]")
_AMBIGUOUS_PERCENT = re.compile(r"%(?=[0-9A-Fa-f]{2}|_|~)")
_LIKE_REVISION = re.compile(r"\.(v(?:[2-9]|[1-9][0-9]+))\Z")
_LIKE_OUTPUT = re.compile(r"\.(exr)\Z", re.IGNORECASE)


def output_key(source: str, revision: int) -> str:
    """Return the key of an image's EXR relative to the destination, for example `images/a/c.jpg.exr`.

    Revision 2 of the same source is `images/a/c.jpg.v2.exr`, and so on. The key always stays below `images/`, holds no
    `.`, `..` or empty segment, and takes at most 900 bytes in UTF-8, 255 per segment. Raises ValueError for a
    revision below 1.
    """
    if revision < 1:
        msg = f"revisions start at 1, not {revision}"
        raise ValueError(msg)
    suffix = OUTPUT_SUFFIX if revision == 1 else f".v{revision}{OUTPUT_SUFFIX}"
    *folders, name = unrooted(source).split("/")
    segments = [_shorten(_LIKE_OUTPUT.sub(r"%2E\1", _encode(folder)), MAX_SEGMENT_BYTES, folder) for folder in folders]
    stem_bytes = MAX_SEGMENT_BYTES - _SUFFIX_ROOM_BYTES
    segments.append(_shorten(_LIKE_REVISION.sub(r"%2E\1", _encode(name)), stem_bytes, name))
    stem = "/".join(segments)
    room_bytes = MAX_KEY_BYTES - len(f"{OUTPUT_FOLDER}/") - _SUFFIX_ROOM_BYTES
    if len(stem.encode()) > room_bytes:
        stem = _shorten_path(segments, room_bytes, source)
    return f"{OUTPUT_FOLDER}/{stem}{suffix}"


def require_short_prefix(destination_url: str) -> None:
    """Raise DestinationError where the prefix or path of a destination leaves too little room for the longest key."""
    place = locate(destination_url)
    is_local = place.scheme == LOCAL_SCHEME
    most_bytes = (_PATH_BYTES if is_local else _STORE_KEY_BYTES) - MAX_KEY_BYTES - 1
    num_bytes = len(os.fsencode(place.url if is_local else place.key))
    if num_bytes > most_bytes:
        raise DestinationError(
            f"the {'path' if is_local else 'prefix'} of DST takes {num_bytes:,} bytes, and names of outputs need the "
            f"rest of what a {'file system' if is_local else 'store'} allows: choose one of at most {most_bytes:,}"
        )


def unrooted(source: str) -> str:
    """Drop a URL's scheme, then one leading slash: what remains names the output."""
    match = _ROOT.match(source)
    if match is None:
        return source
    rest = source[match.end() :]
    return rest.removeprefix("/") if match.group() != "/" else rest


def _encode(segment: str) -> str:
    if not segment:
        return "%_"
    if segment in {".", ".."}:
        return segment.replace(".", "%2E")
    if segment.startswith(TEMP_PREFIX):
        return "%2E" + _encode(segment.removeprefix("."))
    return _UNSAFE.sub(_percent, _AMBIGUOUS_PERCENT.sub("%25", segment))


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def _shorten(encoded: str, max_bytes: int, original: str) -> str:
    if len(encoded.encode()) <= max_bytes:
        return encoded
    tail = _tail(original)
    return _cut(encoded, max_bytes - len(tail)) + tail


def _shorten_path(segments: list[str], room_bytes: int, source: str) -> str:
    """Keep the leading folders that fit and stand in one digest of the whole source for the rest."""
    tail = _tail(source)
    head = _cut("/".join(segments), room_bytes - len(tail))
    folders, _, last = head.rpartition("/")
    # The cut may lie in a long segment, or leave none of one: both are fine before the tail.
    last = _cut(last, MAX_SEGMENT_BYTES - _SUFFIX_ROOM_BYTES - len(tail))
    return f"{folders}/{last}{tail}" if folders else last + tail


def _tail(original: str) -> str:
    return "%~" + hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]


def _cut(text: str, max_bytes: int) -> str:
    """Return the longest prefix of `text` that takes at most `max_bytes` in UTF-8."""
    return text.encode()[:max_bytes].decode(errors="ignore")
