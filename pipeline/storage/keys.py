"""Which keys a store accepts, and how prefixes are joined; the same for every store."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Mapping

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NUM_EXAMPLES = 3
# In a web address: a question mark that a query follows. Names of files hold others, which are sent as such.
WEB_QUERY = re.compile(r"\?(?=[\w.\-]+=)")


class ListingObserver:
    """Is told what a listing leaves out; names and folders are as keys are. This one takes no notice."""

    def unusable(self, name: str) -> None:
        """An object or file whose name cannot be a key."""

    def special(self, name: str) -> None:
        """A link to a folder, which is not followed, a link to nothing, a device or a pipe; local folders only."""

    def temporary(self, name: str) -> None:
        """A file whose name is that of an unfinished create; local folders only."""

    def can_do_without(self, folder: str) -> bool:  # noqa: ARG002
        """Whether a folder that may not be read can be left out; else the listing fails. Local folders only."""
        return False


class DoesWithout(ListingObserver):
    """Takes what a listing of `folder` gives, without the folders below it that may not be read."""

    def __init__(self, folder: str) -> None:
        self._folder = folder.rstrip("/")

    def can_do_without(self, folder: str) -> bool:
        """See ListingObserver: all but the one that is listed."""
        return folder.rstrip("/") != self._folder


logger = logging.getLogger(__name__)


def folded(name: str) -> str:
    """A name as file systems take it that ignore case and how accents are written (macOS, Windows, SMB)."""
    return unicodedata.normalize("NFC", name).lower()


class InvalidKeyError(ValueError):
    """The text cannot be an object key. A ValueError, as ObjectStore promises."""


def check_key(key: str) -> str:
    """Return `key` when it may name an object.

    Raises InvalidKeyError when it is empty, absolute, a folder (trailing slash), holds a `.` or `..` segment or a
    control character, or is not valid Unicode (a file name that could not be decoded). Empty inner segments (`a//b`)
    are legal on object stores; a file system reads them as one slash.
    """
    fault = _fault(key)
    if fault:
        msg = f"not a valid object key: {key!r} {fault}"
        raise InvalidKeyError(msg)
    return key


def is_valid_key(key: str) -> bool:
    """Tell whether `check_key` accepts it."""
    return _fault(key) is None


def check_prefix(prefix: str) -> str:
    """Return a folder prefix without trailing slash; the empty prefix is the root. Raises InvalidKeyError."""
    prefix = prefix.rstrip("/") if prefix.strip("/") else prefix
    return check_key(prefix) if prefix else ""


def join_key(root: str, key: str) -> str:
    """Join a root without trailing slash and a key or prefix; either may be empty."""
    return f"{root}/{key}" if root and key else root or key


def _fault(key: str) -> str | None:
    faults = (
        ("is empty", not key),
        ("is absolute", key.startswith("/")),
        ("ends with a slash", key.endswith("/")),
        ("holds a control character", _CONTROL.search(key) is not None),
        ("holds a '.' or '..' segment", not {".", ".."}.isdisjoint(key.split("/"))),
        ("is not valid Unicode", _SURROGATE.search(key) is not None),
    )
    return next((fault for fault, is_there in faults if is_there), None)


def normal_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return object metadata as every store gives it back: names in lower case (HTTP headers have no case)."""
    return {name.lower(): value for name, value in (metadata or {}).items()}


def shown(name: str) -> str:
    """A name that can be printed and stored: as it is, or with escapes where it cannot be a key."""
    return name if is_valid_key(name.removeprefix("/")) else ascii(name)[1:-1]


class SkippedNames:
    """Counts listed names that cannot be keys, so that a listing leaves them out aloud instead of failing."""

    def __init__(self, observer: ListingObserver | None = None) -> None:
        self.num_skipped = 0
        self._observer = observer
        self._examples: list[str] = []

    def accepts(self, name: str) -> bool:
        """True for a valid key; any other name is counted, or told to who asked for it."""
        if is_valid_key(name):
            return True
        if self._observer:
            self._observer.unusable(name)
            return False
        self.num_skipped += 1
        if len(self._examples) < _NUM_EXAMPLES:
            self._examples.append(repr(name))
        return False

    def warn(self, where: str) -> None:
        """Log one warning when names were left out; `where` is a printable URL."""
        if self.num_skipped:
            logger.warning(
                "%s: %d object(s) left out because their names cannot be keys (control characters, '..', or not"
                " Unicode), for example %s",
                where,
                self.num_skipped,
                ", ".join(self._examples),
            )
