"""Named places where a test lets a process die, hang or fail. Without `HDRFLEET_FAULTS` in its environment: nothing.

`HDRFLEET_FAULTS` is a comma-separated list of `point[@detail]=action[:pass]`: from the `pass`-th time on (1 unless
given) that a process comes by the point, with this detail if one is given, it does the action. With
`HDRFLEET_FAULTS_ONCE`, a folder, each entry of the list happens once in all processes together, so that a worker's
successor lives.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DeviceLostError

POINTS: Mapping[str, str] = {
    "job.created": "job.json is there, nothing is planned",
    "lease.claimed": "the next epoch of the lease is there, whoever created it has not looked whose it is",
    "lease.created": "the driver owns the destination",
    "lease.renewed": "the driver has given another sign of life",
    "lease.released": "the lease says that its driver has ended, the driver still runs",
    "plan.part_written": "a part of a plan is there, its plan.json is not",
    "plan.committed": "the plan is there, nothing of it is done",
    "shard.leased": "the driver has given a shard to a worker",
    "shard.settled": "the driver has taken note of a committed shard",
    "images.ceded": "a worker has given up images of its shard, the driver does not know which",
    "shard.split": "the driver knows what a worker does of its shard, the rest waits for others",
    "rows.ready": "all images of a part of a shard are stored, their rows are in a worker's memory",
    "rows.settled": "the driver holds the rows of a part of a shard",
    "image.fetched": "a worker holds an image's bytes",
    "image.decoded": "a worker holds its pixels",
    "image.inferred": "a worker holds the network's output",
    "image.encoded": "a worker holds the file to store",
    "output.created": "the output is stored, no row names it",
    "image.measured": "the row is complete in a worker's memory",
    "part.ready": "all images of a shard are stored, its part is not",
    "part.created": "the shard is committed, the driver does not know",
    "file.written": "a temporary file is durable and has no name yet",
    "file.named": "a file has its name, its folder is not synced",
    "upload.started": "a multipart upload has been opened",
    "upload.sent": "all parts of a multipart upload are sent, it is not completed",
    "generation.written": "the files of a generation are there, its head is not",
    "head.created": "a generation counts, and what it stands for is still there",
    "distrust.recorded": "what a repair found bad is on record, nothing of it is planned anew",
    "collection.deleted": "one object that a collection removes is gone, others are still there",
    "job.finished": "every shard is committed, the driver still owns the destination",
}
"""What is true when a process comes by each point."""

_HOG_BLOCK_BYTES = 64 * 2**20


@dataclass(slots=True)
class _Fault:
    """One entry of the list, and how often its point is still to be passed."""

    name: str
    detail: str
    action: Callable[[], None]
    passes_left: int


def fault_point(name: str, detail: str = "") -> None:
    """Do what `HDRFLEET_FAULTS` asks for here. `detail` is what the process works on: a source or a key."""
    if _faults:
        _pass(name, detail)


def _hog() -> None:
    blocks = []
    while True:
        blocks.append(b"\1" * _HOG_BLOCK_BYTES)


def _segv() -> None:
    ctypes.memset(0, 1, 1)


def _hang() -> None:
    while True:
        time.sleep(3600)


def _raise() -> None:
    raise RuntimeError("a fault that a test asked for")


def _lose_device() -> None:
    raise DeviceLostError("cuda:0: a device that a test lets fail")


_ACTIONS: Mapping[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "abort": os.abort,
    "segv": _segv,
    "hog": _hog,
    "hang": _hang,
    "raise": _raise,
    "lose-device": _lose_device,
    "kill-parent": lambda: os.kill(os.getppid(), signal.SIGKILL),  # of a Ray worker: its raylet
}


def arm(text: str) -> None:
    """Replace what the environment asked for when this module was loaded. Raises ValueError."""
    _faults[:] = _parse(text)


def _parse(text: str) -> list[_Fault]:
    faults = []
    for entry in filter(None, text.split(",")):
        where, _, what = entry.partition("=")
        name, _, detail = where.partition("@")
        action, _, passes = what.partition(":")
        if name not in POINTS or action not in _ACTIONS:
            raise ValueError(f"HDRFLEET_FAULTS: {entry!r} names no known point or action")
        faults.append(_Fault(name, detail, _ACTIONS[action], int(passes or 1)))
    return faults


def _pass(name: str, detail: str) -> None:
    for fault in _faults:
        if fault.name != name or (fault.detail and fault.detail != detail):
            continue
        with _lock:
            fault.passes_left -= 1
            is_due = fault.passes_left <= 0
        if is_due and _is_first(fault):
            fault.action()


def _is_first(fault: _Fault) -> bool:
    """Whether no other process has done this one: always so without a folder to remember it in."""
    folder = os.environ.get("HDRFLEET_FAULTS_ONCE")
    if not folder:
        return True
    try:
        (Path(folder) / f"{fault.name}@{fault.detail.replace('/', '_')}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


_lock = threading.Lock()
_faults = _parse(os.environ.get("HDRFLEET_FAULTS", ""))
