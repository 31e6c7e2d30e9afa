"""Secrets that have no place in a file: known shapes of keys and tokens, and names that say secret.

Entropy tells too little (digests are as random as keys), so only shapes that providers document count. A message never
repeats what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding, leaves

_SHAPES = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "an AWS secret key": re.compile(r"(?i)aws_?secret_?access_?key\W{1,4}[A-Za-z0-9/+]{40}\b"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
    "a Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}"),
    "a Google access token": re.compile(r"\bya29\.[0-9A-Za-z_-]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})"),
    "a GitLab token": re.compile(r"\bglpat-[0-9A-Za-z_-]{20,}"),
    "a Slack token": re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{10,}"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z]{34}\b"),
    "an Nvidia API key": re.compile(r"\bnvapi-[0-9A-Za-z_-]{30,}"),
    "an Azure storage key": re.compile(r"\bAccountKey=[A-Za-z0-9/+]{80,}"),
    "a JSON Web Token": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    "a password within a URL": re.compile(r"://[^\s/:@$<{]*:[^\s/@$<{]+@"),
    "Ray's token": re.compile(r"RAY_AUTH_TOKEN=['\"]?[^\s'\"$]"),
}
_SECRET_NAME = re.compile(r"(?i)(?:^|_)(?:token|secret|password|passwd|access_key|api_key|credentials?)(?:_id)?$")


def find_shapes(text: str, documents: list[Any]) -> Iterator[Finding]:
    """Yield what looks like a secret anywhere in a file, comments included; the place is a path of keys, or a line."""
    values = [(place, value) for document in documents for place, value in leaves(document) if isinstance(value, str)]
    seen: set[str] = set()
    for what, shape in _SHAPES.items():
        for place, value in values:
            for match in shape.finditer(value):
                seen.add(match[0])
                yield secret(place, what)
        for match in shape.finditer(text):
            if match[0] not in seen:
                yield secret(f"line {text.count(chr(10), 0, match.start()) + 1}", what)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret, as far as names tell."""
    return _SECRET_NAME.search(name) is not None


def secret(place: str, what: str) -> Finding:
    """The finding that `what` stands at `place`."""
    return Finding(
        place,
        "secret",
        f"{what} stands in the file; take it out, make it void where it counts, and refer to it instead",
    )
