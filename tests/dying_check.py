"""A task of `verify` on Ray whose worker is lost, the first time; workers find this module by its name."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs import verify_ray

DIED = "has-died"


def die_once(url: str, *arguments: Any) -> Any:
    """Check a batch below the folder `url`, unless nobody has died beside it yet."""
    with suppress(FileExistsError):
        (Path(url).parent / DIED).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return verify_ray._check_batch(url, *arguments)
