"""Random clusters under random faults, in simulated time: every shard ends once, and the job ends.

Faults of one image, of stores, devices and nodes come together here, as they do in long jobs; each rule by itself has
its tests beside this one.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from pipeline.errors import (
    DeviceLostError,
    HdrfleetError,
    ObjectDeniedError,
    StorageError,
    SystemicError,
    TransientStorageError,
)
from pipeline.execution.leases import Lease, LeaseBook
from pipeline.execution.node_health import NodeHealth, Place
from pipeline.records import ConversionStatus, ImageResult, ImageTask, Shard, ShardKey

NOW = datetime(2026, 11, 1, tzinfo=UTC)
NUM_JOBS = int(os.environ.get("HDRFLEET_SIMULATED_JOBS", "2400"))
NO_PROGRESS_S = 3000.0


@dataclass
class Worker:
    name: str
    place: Place
    ready_at: float
    started: int = -1  # what NodeHealth said when it was ready
    at_work: list[tuple[Lease, float, str]] = field(default_factory=list)


class Job:
    """One job of a seed: its shards, its cluster, what can go wrong there, and what has become of it."""

    def __init__(self, seed: int) -> None:
        self.random = r = random.Random(seed)
        self.now = 0.0
        self.nodes = [f"n{index}" for index in range(r.randint(1, 3))]
        self.num_leases = r.choice([1, 2, 2])
        self.is_elastic = r.random() < 0.4
        num_images = r.choice([1, 2, 3, 4, 5, 6, 30])
        self.shards = [
            Shard(1, shard, tuple(ImageTask(f"{shard}/{i}", f"{shard}/{i}", 1000, "e") for i in range(num_images)))
            for shard in range(r.randint(1, 12))
        ]
        sources = [task.source for shard in self.shards for task in shard.tasks]
        self.poison = set(r.sample(sources, r.choice([0, 0, 1, 2]) if len(sources) > 2 else 0))
        share = r.choice([0, 0, 0, 0.05, 0.3, 1.0])
        self.device_poison = {source for source in sources if r.random() < share} - self.poison
        self.share_poisonous = len(self.device_poison) / len(sources)
        self.num_cards = r.choice([1, 2, 4])  # of a node; several workers may share one
        self.strikes: Counter[str] = Counter()
        self.chances = {
            "refused": r.choice([0, 0, 0.01]),
            "store": r.choice([0, 0, 0.05, 0.2]),
            "device": r.choice([0, 0, 0.05]),
        }
        self.node_dies, self.node_drains = r.choice([0, 0, 0.003]), r.choice([0, 0, 0.003])
        self.splits = r.choice([0, 0.3])
        several = len(self.nodes) > 1
        self.no_device = r.choice([None, None, None, *self.nodes]) if several else None
        self.no_store = r.choice([None, None, None, *self.nodes]) if several else None
        self.num_workers = min(r.randint(1, 5), len(self.shards))
        self.health = NodeHealth(num_workers=self.num_workers)
        self.book = LeaseBook(
            iter(self.shards),
            4,
            num_workers=self.num_workers,
            clock=lambda: self.now,
            health=self.health,
            has_several_nodes=several and r.random() < 0.8,
        )
        self.workers: dict[str, Worker] = {}
        self.num_started = 0
        self.progress_at = 0.0
        self.committed: set[ShardKey] = set()
        self.quarantined: set[str] = set()

    @property
    def is_fair(self) -> bool:
        """Whether nothing is wrong but for images, and one node's devices where these are few."""
        is_blurred = self.no_device and self.share_poisonous > 0.1
        return not (is_blurred or any(self.chances.values()) or self.no_store or self.node_dies or self.node_drains)

    def run(self) -> bool:
        """Whether it came to its end by itself; False where no node was left, or it gave up as a whole."""
        try:
            while not self.book.is_finished:
                self.now += 1
                assert self.now - self.progress_at < NO_PROGRESS_S, "it hangs"
                self._start()
                if not self.workers and set(self.nodes) <= self.health.barred.keys():
                    return False
                ready = [worker for worker in self.workers.values() if worker.ready_at <= self.now]
                for worker in ready:
                    if worker.started < 0:
                        worker.started = self.health.started(worker.place)
                self.book.see({worker.place.node for worker in ready})
                self._lease()
                self._split()
                for worker in list(self.workers.values()):
                    self._work(worker)
        except (SystemicError, StorageError):
            return False
        return True

    def _start(self) -> None:
        wanted = self.num_workers
        if self.is_elastic:
            wanted = min(wanted, self.book.num_returned + self.book.num_outstanding + (not self.book.is_exhausted))
        nodes = [node for node in self.nodes if node not in self.health.barred]
        while nodes and len(self.workers) < wanted:
            self.num_started += 1
            name = f"w{self.num_started}"
            ready_at = self.now + self.random.choice([1, 5, 20])
            card = str(self.random.randrange(self.num_cards))
            self.workers[name] = Worker(name, Place(self.random.choice(nodes), card), ready_at)

    def _lease(self) -> None:
        for worker in self.workers.values():
            while worker.ready_at <= self.now and len(worker.at_work) < self.num_leases:
                lease = self.book.take(worker.name, worker.place)
                if lease is None:
                    break
                ends = self.now + self.random.randint(1, 30)
                worker.at_work.append((lease, ends, self._fate(worker, lease)))

    def _fate(self, worker: Worker, lease: Lease) -> str:
        settled = {entry.source for entry in lease.shard.quarantined} | {row.task.source for row in lease.rows}
        computes = {task.source for task in lease.shard.tasks} - settled
        if computes & self.poison:
            return "crash"
        if computes and worker.place.node == self.no_device:
            return "device"
        if bad := sorted(computes & self.device_poison):
            # The second time, the device is seen to be sound before.
            return f"suspect {self.random.choice(bad)}" if lease.is_suspect else "device"
        if worker.place.node == self.no_store:
            return "store"
        drawn = self.random.random()
        for fate, chance in self.chances.items():
            if drawn < chance:
                return self._lost_device(lease, computes) if fate == "device" else fate
            drawn -= chance
        return "ok"

    def _lost_device(self, lease: Lease, computes: set[str]) -> str:
        """By chance: with an image or, as often, with what is converted before it."""
        if not computes:
            return "ok"
        if not lease.is_suspect or self.random.random() < 0.5:
            return "device"
        suspect = self.random.choice(sorted(computes))
        self.strikes[suspect] += 1
        return f"suspect {suspect}"

    def _split(self) -> None:
        """As at a job's tail: workers without work, and none waiting."""
        is_tail = self.book.is_exhausted and not self.book.num_returned
        if not is_tail or all(worker.at_work for worker in self.workers.values()):
            return
        if self.random.random() >= self.splits:
            return
        for worker in self.workers.values():
            for index, (lease, ends, fate) in enumerate(worker.at_work):
                settled = {entry.source for entry in lease.shard.quarantined}
                left = [task for task in lease.shard.tasks if task.source not in settled]
                if len(left) > 1 and not lease.shard.is_probe and not lease.rows:
                    kept = self.book.split(lease, [left[len(left) // 2 :]])
                    assert kept is not None
                    worker.at_work[index] = (kept, ends, fate)
                    return

    def _work(self, worker: Worker) -> None:
        if self.random.random() < self.node_dies and worker.ready_at <= self.now:
            self._lose(worker)
        elif self.random.random() < self.node_drains:
            del self.workers[worker.name]
            for lease in self.book.held_by(worker.name):
                self.book.release(lease)
        for entry in [entry for entry in worker.at_work if entry[1] <= self.now]:
            if worker.name in self.workers:
                worker.at_work.remove(entry)
                self.progress_at = self.now
                self._end(worker, entry[0], entry[2])

    def _end(self, worker: Worker, lease: Lease, fate: str) -> None:
        if fate == "crash":
            self._lose(worker)
        elif fate.startswith(("device", "suspect")):
            self._lose_device(worker, fate.removeprefix("suspect "))
        elif fate in ("store", "refused"):
            error_of_store = ObjectDeniedError("403") if fate == "refused" else TransientStorageError("503")
            self.book.give_back(lease, error_of_store, delay_s=5)
        else:
            self._complete(lease)

    def _lose_device(self, worker: Worker, suspect: str) -> None:
        """As `Losses.excuse` and `Losses.blame` do."""
        del self.workers[worker.name]
        error = DeviceLostError("an ECC error")
        held = self.book.held_by(worker.name)
        for each in held:
            if suspect in {task.source for task in each.shard.tasks}:
                self.health.explained(worker.place, each.shard.whole_key)
                self.book.lose(each, "worker_crash", "gone", [suspect], is_proven=True)
            else:
                self.book.excuse(each, error)
        if suspect == "device":
            self.health.lost_device(worker.place, error, worker.started, (each.shard.whole_key for each in held))

    def _lose(self, worker: Worker) -> None:
        del self.workers[worker.name]
        for lease in self.book.held_by(worker.name):
            self.book.lose(lease, "worker_crash", "gone")

    def _complete(self, lease: Lease) -> None:
        shard = lease.shard
        if shard.part:
            rows = [ImageResult(t, ConversionStatus.FAILED, NOW, NOW, "empty", "") for t in shard.tasks]
            assert self.book.complete(lease, rows)
        else:
            assert self.book.complete(lease)
        if not shard.is_probe and not shard.part:
            assert shard.key not in self.committed, "it is committed twice"
            self.committed.add(shard.key)
        if not shard.is_probe:
            self.quarantined |= {entry.source for entry in shard.quarantined}


def given_up(book: LeaseBook) -> bool:
    try:
        book.raise_if_given_up()
    except HdrfleetError:
        return True
    return False


@pytest.mark.timeout(600)  # of many more jobs, in the long tier
@pytest.mark.parametrize("group", range(4))
def test_whatever_comes_together_every_shard_ends_once(group: int) -> None:
    num_ended = 0
    for seed in range(group, NUM_JOBS, 4):
        job = Job(seed)
        has_ended = job.run()
        if job.is_fair:
            assert has_ended, seed
            assert not given_up(job.book), seed
        if not has_ended:
            continue
        num_ended += 1
        assert not [worker for worker in job.workers.values() if job.book.held_by(worker.name)], seed
        if not given_up(job.book):
            assert job.committed == {shard.key for shard in job.shards}, seed
            assert job.poison | job.device_poison <= job.quarantined, seed
        if not job.node_dies:
            unlucky = {source for source, number in job.strikes.items() if number > 1}
            assert job.quarantined <= job.poison | job.device_poison | unlucky, seed
    assert num_ended > NUM_JOBS / 4 / 2, "most of these clusters are good enough"
