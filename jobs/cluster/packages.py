"""Whether the packages that a shell command installs with pip are pinned."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from jobs.cluster.findings import Finding

_PIP_INSTALL = re.compile(r"\bpip[\d.]*\s+install\b([^&|;\n]*)")
_CONTINUED = re.compile(r"\\\n\s*")
# A file that holds the versions of all; what is in it is for its owner to say.
_BY_FILE = re.compile(r"(?:^|\s)(?:-c|--constraint|-r|--requirement|--no-index|--no-deps)\b")
# `name==1.2`, `name @ address`, an archive with its version in its name, a path, a variable of the shell.
_PINNED = re.compile(r"={2,3}\s*[^\s*,]+(?:[,;\s]|$)|.@.|\.(?:whl|zip|tar\.gz)\b|^[./~]|\$")
# A folder or an archive of one's own, which is what it is, and packages beside it, which are not.
_LOCAL = re.compile(r"[./~]|\S*\.(?:whl|zip|tar\.gz)")
_WITHOUT_OTHERS = re.compile(r"(?:^|\s)--no-(?:index|deps)\b")
_UNCHECKED = re.compile(r"--trusted-host\b|\bhttp://(?!(?:localhost|127\.0\.0\.1)\b)")
_LOCAL_EXTRAS = re.compile(r"^(?:[./~]|\S*\.(?:whl|zip|tar\.gz)).*\[[\w,\s.-]+\]$")
_REDIRECTION = re.compile(r"\d?[<>]")
_WITH_VALUE = frozenset(
    {
        *("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "-t", "--target", "--prefix", "--root"),
        *("--src", "--platform", "--python-version", "--implementation", "--abi", "--upgrade-strategy", "--no-binary"),
        *("--only-binary", "--trusted-host", "--proxy", "--timeout", "--retries", "--progress-bar", "--cache-dir"),
        *("--log", "--cert", "--report", "--python", "--root-user-action"),
    }
)


def check_pinned_packages(place: str, command: Any) -> Iterator[Finding]:
    """Yield each `pip install` of a shell command that takes packages in whatever release there is that day.

    So does one that takes them from whoever answers: an index without TLS, or whose certificate is not looked at.
    """
    for arguments in _PIP_INSTALL.findall(_CONTINUED.sub(" ", str(command))):
        if unchecked := _UNCHECKED.search(arguments):
            yield Finding(
                place, "untrusted_index", f"pip install with {unchecked[0]}: whoever is on the way gives other packages"
            )
        open_ones = [] if _BY_FILE.search(arguments) else [each for each in _packages(arguments) if _is_open(each)]
        if open_ones:
            yield Finding(
                place,
                "unpinned_packages",
                f"pip install without constraints or a version: {', '.join(open_ones)}; write name==version",
            )


def local_installs(command: str) -> Iterator[str]:
    """The arguments of each `pip install` of a folder or an archive of one's own; dependencies come along."""
    for arguments in _PIP_INSTALL.findall(_CONTINUED.sub(" ", command)):
        if any(_LOCAL.match(each) for each in _packages(arguments)) and not _WITHOUT_OTHERS.search(arguments):
            yield arguments


def _is_open(package: str) -> bool:
    return not _PINNED.search(package) or _LOCAL_EXTRAS.search(package) is not None


def _packages(arguments: str) -> Iterator[str]:
    """What pip is to install: neither options, nor their values, nor where the output goes."""
    words = iter(_words(arguments))
    for word in words:
        if _REDIRECTION.match(word):
            return
        if word in _WITH_VALUE:
            next(words, None)
        elif word and not word.startswith("-"):
            yield word


def _words(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError:  # A quote that the whole command is in, or that a separator within cut.
        return [word.strip("'\"`)") for word in arguments.split()]
