"""Which process is meant, beyond its number: so that another one on the same machine can tell that it is gone."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process of some machine. `started` is in clock ticks since the boot, or in seconds where there are none."""

    host: str
    boot: str
    pid: int
    started: str

    @property
    def is_of_this_machine(self) -> bool:
        """Whether its number means the same here: this machine, this boot, this namespace of process numbers."""
        return (self.host, self.boot) == (socket.gethostname(), _boot_id())

    @property
    def is_gone(self) -> bool:
        """True when it was a process of this machine that is not there any more; False where that is not known."""
        if not self.is_of_this_machine:
            return False
        try:
            is_dead = psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
            return is_dead or _process_started(self.pid) != self.started
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


def this_process() -> ProcessIdentity:
    """The process that asks."""
    return ProcessIdentity(socket.gethostname(), _boot_id(), os.getpid(), _process_started(os.getpid()))


def _boot_id() -> str:
    """This boot of this machine and this namespace of process numbers: elsewhere the same pid is another process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  the target is no path
    except OSError:
        return f"{psutil.boot_time():.0f}"


def _process_started(pid: int) -> str:
    """When a process started, in clock ticks since the boot where the system says so: the wall clock may be set."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return f"{psutil.Process(pid).create_time():.2f}"
