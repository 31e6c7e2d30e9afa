"""The file that Ray takes a cluster's token from, where no variable holds it: its owner's alone."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

_DEFAULT = "~/.ray/auth_token"  # where Ray looks
_TOKEN_BYTES = 32  # as in the tokens that Ray makes
# For others to change or read a file by its group's rights they must get through the folders, by whichever rights.
_GROUP = (stat.S_IRGRP | stat.S_IWGRP, stat.S_IXGRP | stat.S_IXOTH)
_OTHERS = (stat.S_IROTH | stat.S_IWOTH, stat.S_IXOTH)

logger = logging.getLogger(__name__)


def make_token(environment: Mapping[str, str] = os.environ) -> None:
    """Make the token of clusters that start on this machine, with mode 0600, where Ray would make one for all to read.

    Leaves a token alone that is there, or that the environment names, and does nothing where the environment asks for
    another kind of authentication. What cannot be written is left to Ray, which says so.
    """
    if not _takes_file(environment) or environment.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path(_DEFAULT).expanduser()
    with contextlib.suppress(OSError):
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, and never in place of another's: a link is made once.
        with tempfile.NamedTemporaryFile("w", encoding="ascii", prefix=".auth_token-", dir=path.parent) as file:  # 0600
            file.write(secrets.token_hex(_TOKEN_BYTES))
            file.flush()
            os.link(file.name, path)


def warn_of_loose_token(environment: Mapping[str, str] = os.environ) -> None:
    """Log a warning where Ray would take the token from a file that other users of this machine can read or change."""
    if not _takes_file(environment):
        return
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or _DEFAULT).expanduser()
    try:
        is_loose = _is_loose(path)
    except OSError:
        return  # Ray says what is missing
    if is_loose:
        logger.warning(
            "%s: others can read the cluster's token, and do with the cluster what you can; chmod 600 it", path
        )


def _takes_file(environment: Mapping[str, str]) -> bool:
    """Ray 2.60 takes a token that lies there also where no mode is asked for."""
    return not environment.get("RAY_AUTH_TOKEN") and environment.get("RAY_AUTH_MODE", "token").lower() == "token"


def _is_loose(path: Path) -> bool:
    mode = path.stat().st_mode
    folders = [folder.stat().st_mode for folder in path.resolve().parents]
    return any(mode & rights and all(folder & enter for folder in folders) for rights, enter in (_GROUP, _OTHERS))
