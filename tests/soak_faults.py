"""What happens to a soak: faults of several kinds, at moments and to victims that are drawn from one seed.

A moment is a share of the job that is committed, so that it does not depend on the machine's speed; what was done is
written down, so that a soak which was broken off goes on with the next one.
"""

from __future__ import annotations

import csv
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from commands import descendants
from ray_nodes import Cluster

# Images per fault of a kind; each happens twice at least. Workers also die by themselves, at a step that is drawn.
IMAGES_PER_FAULT = {"kill": 3_000, "freeze": 8_000, "store": 5_000, "node": 12_500, "driver": 40_000}
LONGEST_S = {"freeze": 20.0, "store": 6.0, "node": 15.0, "driver": 5.0}
# After the last death of the driver, one worker lives to the end: half of the job is left to it and its like.
DRIVER_LIVES_FROM = 0.45
STEPS = ("image.decoded", "image.encoded", "file.written", "output.created", "part.ready", "part.created")
NUM_NODES = 3


@dataclass(frozen=True)
class Fault:
    """Due when `at` of the job, a share, is committed; `draw` decides who and how long."""

    at: float
    kind: str
    draw: int


def plan_faults(seed: int, num_images: int) -> list[Fault]:
    """The same for a seed and a number of images, in the order in which they are due."""
    drawn = random.Random(seed)
    faults = [
        Fault(drawn.uniform(0.02, DRIVER_LIVES_FROM if kind == "driver" else 0.95), kind, drawn.getrandbits(32))
        for kind, images in IMAGES_PER_FAULT.items()
        for _ in range(max(2, num_images // images))
    ]
    return sorted(faults, key=lambda fault: fault.at)


def deaths_of_workers(seed: int, number: int) -> str:
    """`HDRFLEET_FAULTS` of the `number`-th node: each of its workers dies when it comes by a step for the n-th time."""
    drawn = random.Random(f"{seed} {number}")
    step = drawn.choice(STEPS)
    passes = drawn.randint(10, 60) if step.startswith("part.") else drawn.randint(500, 4000)
    return f"{step}=kill:{passes}"


class Chaos:
    """Does to a cluster of `NUM_NODES` nodes and to the driver on it what is due. The first node is spared.

    `write` is told of each fault, and `outage` is the file that makes stores fail.
    """

    def __init__(self, cluster: Cluster, record: Path, outage: Path, seed: int, num_images: int) -> None:
        self._cluster, self._record, self._outage, self._seed = cluster, record, outage, seed
        done = list(csv.reader(record.open(newline=""))) if record.exists() else []
        self.done: Counter[str] = Counter(row[2] for row in done)
        self._due = plan_faults(seed, num_images)[len(done) :]
        self._num_nodes = self._num_outages = 0
        self._undo: list[tuple[float, Callable[[], None]]] = []
        # A node takes many seconds to come, in which the rest goes on.
        self._starter = ThreadPoolExecutor(1)
        self._starting: list[Future[None]] = []
        self._outage.unlink(missing_ok=True)
        for _ in range(NUM_NODES):
            self._add_node()

    def tend(self, driver: psutil.Process, share: float) -> None:
        """Do the next fault if it is due, and end those that have lasted long enough."""
        now = time.monotonic()
        for started in [each for each in self._starting if each.done()]:
            self._starting.remove(started)
            started.result()
        for undo in [entry for entry in self._undo if entry[0] <= now]:
            self._undo.remove(undo)
            undo[1]()
        if self._due and self._due[0].at <= share:
            detail = self._do(self._due[0], driver)
            if detail:
                self._write_down(self._due.pop(0), share, detail)

    def workers(self) -> dict[str, list[psutil.Process]]:
        """Those of the node that is spared, `kept`, and the others."""
        first, *others = [descendants(node.pid, "RayWorker") for node in self._cluster.nodes]
        return {"kept": first, "worker": [worker for each in others for worker in each]}

    def close(self) -> None:
        """End all that lasts."""
        for _, undo in self._undo:
            undo()
        self._undo = []
        self._starter.shutdown(cancel_futures=True)

    def _do(self, fault: Fault, driver: psutil.Process) -> str:
        """What was done; empty where there is no victim yet."""
        drawn = random.Random(fault.draw)
        lasting_s = drawn.uniform(0.3, LONGEST_S.get(fault.kind, 1.0))
        workers = self.workers()["worker"]
        if fault.kind == "driver":
            driver.kill()
            time.sleep(lasting_s)
        elif fault.kind == "store":
            self._num_outages += 1
            self._outage.touch()
            self._later(lasting_s, self._end_outage)
        elif fault.kind == "node":
            if len(self._cluster.nodes) < NUM_NODES:
                return ""
            nodes = self._cluster.nodes
            nodes.append(nodes.pop(drawn.randrange(1, len(nodes))))
            self._cluster.lose(1)
            self._later(lasting_s, lambda: self._starting.append(self._starter.submit(self._add_node)))
        elif not workers:
            return ""
        else:
            victim = drawn.choice(workers)
            if fault.kind == "kill":
                victim.kill()
                return f"pid {victim.pid}"
            victim.suspend()
            self._later(lasting_s, lambda: _resume(victim))
        return f"{lasting_s:.1f} s"

    def _later(self, after_s: float, undo: Callable[[], None]) -> None:
        self._undo.append((time.monotonic() + after_s, undo))

    def _end_outage(self) -> None:
        """On a fast machine the next one begins before this one has ended: the last one lets the store come back."""
        self._num_outages -= 1
        if not self._num_outages:
            self._outage.unlink()

    def _add_node(self) -> None:
        """The first one is spared: nobody dies there."""
        number, self._num_nodes = self._num_nodes, self._num_nodes + 1
        self._cluster.add_nodes(1, {"HDRFLEET_FAULTS": deaths_of_workers(self._seed, number)} if number else {})

    def _write_down(self, fault: Fault, share: float, detail: str) -> None:
        self.done[fault.kind] += 1
        with self._record.open("a", newline="") as file:
            csv.writer(file).writerow([f"{time.time():.1f}", f"{share:.3f}", fault.kind, detail])


def _resume(process: psutil.Process) -> None:
    try:
        process.resume()
    except psutil.NoSuchProcess:
        return
