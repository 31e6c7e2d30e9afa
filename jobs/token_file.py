"""Whether the file with a cluster's token is its owner's alone."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

_DEFAULT = "~/.ray/auth_token"  # where Ray looks

logger = logging.getLogger(__name__)


def warn_of_loose_token(environment: Mapping[str, str] = os.environ) -> None:
    """Log a warning where Ray would take the token from a file that other users of this machine can read or change."""
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_MODE") != "token":
        return
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or _DEFAULT).expanduser()
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # Ray says what is missing
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning(
            "%s: others can read the cluster's token, and do with the cluster what you can; chmod 600 it", path
        )
