"""Credentials among the files that Ray's launcher copies: by `file_mounts` to all nodes, from the head to its workers.

Whoever takes over a worker has what was copied there, and it is good for more than the nodes' own rights are.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, at, listing, mapping

_HOME_VARIABLE = re.compile(r"^\$(?:HOME\b|\{HOME\})")
_HOME = r"(?:~[\w.-]*|/root|/(?:home|Users)/[^/]+)"
# Folders that hold credentials of several kinds; what lies below them may be anything.
_WHOLE_TREES = re.compile(rf"/|/home|/Users|/etc|/(?:var/)?run(?:/secrets)?|{_HOME}(?:/\.config)?")
# Files and folders of the programs that keep credentials there, wherever they are.
_KEPT = re.compile(
    r"(?:^|/)(?:\.(?:aws|ssh|kube|azure|oci|gnupg|netrc|pgpass|git-credentials|boto|s3cfg|pypirc|vault-token)(?:/.*)?"
    r"|_netrc|\.config/(?:gcloud|gh|rclone)(?:/.*)?|\.docker(?:/config\.json)?|\.(?:cache/)?huggingface(?:/token)?)$"
)
_PRIVATE_KEY = re.compile(
    r"id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?|.*\.(?:pem|key|ppk|p12|pfx|jks|keystore)", re.IGNORECASE
)
# By the names that Google's tools and people give them: the console's is the project and twelve digits of the key.
_ACCOUNT_FILE = re.compile(
    r"(?:.*[_-])?(?:credentials?|service[_-]?account|client[_-]secrets?|key|sa)(?:[_.-].*)?\.json|[a-z][\w-]*-[0-9a-f]{12}\.json",
    re.IGNORECASE,
)
_PUBLIC = re.compile(
    r"known_hosts|authorized_keys|.*\.pub|(?:.*[_.-])?(?:ca|cacert|certs?|certificates?|chain|fullchain|bundle)(?:[_.-].*)?\.pem",
    re.IGNORECASE,
)
_INSTEAD = "nodes have rights of their own (docs/operations.md); take it out"


def check_synced_files(prepared: dict[str, Any]) -> Iterator[Finding]:
    """Yield what of a prepared cluster file copies credentials, told by the path there or here."""
    for target, source in mapping(prepared.get("file_mounts")).items():
        paths = [(source, True), (target, False)]
        found = next((path for path, is_read in paths if holds_credentials(path, is_read=is_read)), None)
        if found is not None:
            yield _copied(at("file_mounts", str(target)), found, "every node")
    for index, path in enumerate(listing(prepared.get("cluster_synced_files"))):
        if holds_credentials(path, is_read=True):
            yield _copied(at("cluster_synced_files", index), path, "every worker")


def holds_credentials(path: Any, *, is_read: bool) -> bool:
    """Whether credentials lie at a path, as far as its name tells. `is_read`: the path is copied, with all below it."""
    if not isinstance(path, str) or not path:
        return False
    clean = re.sub("^//", "/", posixpath.normpath(_HOME_VARIABLE.sub("~", path)))
    name = posixpath.basename(clean)
    if is_read and _WHOLE_TREES.fullmatch(clean):
        return True
    if _PUBLIC.fullmatch(name):
        return False
    return bool(_KEPT.search(clean) or _PRIVATE_KEY.fullmatch(name) or _ACCOUNT_FILE.fullmatch(name))


def _copied(place: str, path: str, to: str) -> Finding:
    return Finding(place, "secret", f"copies {path}, where credentials are kept, to {to}; {_INSTEAD}")
