"""A cluster in a discrete-event simulation: the real scaling policy and the real lease book, a clock that jumps.

Simulated are only the workers: they start late, work at their speed, and are lost. What a worker did of a shard before
it was lost is adopted by the next attempt, but for `in_flight_images`, as a real one adopts stored outputs. A worker
holds up to `leases_per_worker` shards and does one after the other. With `splits_tail`, idle workers help others once
nothing waits, each adding its speed. A task stands for many images, so that a hundred million fit into memory.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipeline.execution.leases import Lease, LeaseBook
from pipeline.execution.scaling import Observation, ScalingLimits, Throughput, decide
from pipeline.execution.tail import RemainingLease, split_tail
from pipeline.records import ImageTask, Shard

TASKS_PER_SHARD = 10


@dataclass(frozen=True)
class Setup:
    """Times in seconds, sizes in megapixels. `losses_per_h` is the Poisson rate of losing one worker."""

    num_shards: int
    images_per_shard: int = 1000
    megapixels_per_image: float = 2.0
    size_spread: float = 0.3  # of the logarithm of a shard's megapixels
    megapixels_per_s: float = 25.0
    prior_megapixels_per_s: float = 20.0
    speed_spread: float = 0.05
    start_s: float = 180.0
    start_spread: float = 0.3
    losses_per_h: float = 0.0
    limits: ScalingLimits = field(default_factory=lambda: ScalingLimits(max_workers=1000))
    deadline_s: float | None = None
    splits_tail: bool = True
    min_part_s: float = 5.0
    leases_per_worker: int = 2
    in_flight_images: int = 6
    seed: int = 1


@dataclass
class Worker:
    name: str
    requested_at: float
    speed: float
    is_ready: bool = False
    idle_since: float = 0.0
    queue: list[Lease] = field(default_factory=list)
    left: float = 0.0  # megapixels of the first lease
    since: float = 0.0  # when `left` was right
    began: float = 0.0
    helpers: set[str] = field(default_factory=set)
    helps: str | None = None
    version: int = 0


@dataclass
class Result:
    """Worker-seconds by what became of them, and what happened when. `useful_s` is what the pixels alone take."""

    makespan_s: float = 0.0
    paid_s: float = 0.0
    useful_s: float = 0.0
    starting_s: float = 0.0
    repeated_s: float = 0.0
    idle_s: float = 0.0
    num_done: int = 0
    num_lost: int = 0
    num_started: int = 0
    num_given_back: int = 0
    most_workers: int = 0
    spent_before_end_s: float = 0.0
    done: dict[int, int] = field(default_factory=dict)
    workers: list[tuple[float, int, int]] = field(default_factory=list)  # time, ready, all
    reasons: list[tuple[float, int, str]] = field(default_factory=list)


class Simulation:
    """Runs one job from no worker to no worker. Build it, call `run` once."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.random = random.Random(setup.seed)  # noqa: S311
        self.now = 0.0
        self.events: list[tuple[float, int, str, str, int]] = []
        self.serial = 0
        self.workers: dict[str, Worker] = {}
        self.result = Result()
        self.done_share: dict[int, float] = {}
        self.sizes = [self._size() for _ in range(setup.num_shards)]
        self.megapixels_left = sum(self.sizes)
        self.throughput = Throughput(setup.prior_megapixels_per_s)
        self.book = LeaseBook(self._shards(), 4, num_workers=setup.limits.max_workers, clock=lambda: self.now)

    def _size(self) -> float:
        mean = self.setup.images_per_shard * self.setup.megapixels_per_image
        spread = self.setup.size_spread
        return mean * self.random.lognormvariate(-spread * spread / 2, spread)

    def _shards(self) -> Iterator[Shard]:
        for index in range(self.setup.num_shards):
            tasks = tuple(ImageTask(f"{index}/{part}", f"{index}/{part}", 1, "") for part in range(TASKS_PER_SHARD))
            yield Shard(1, index, tasks)

    def run(self) -> Result:
        self._at(0.0, "decide")
        while self.events:
            self.now, _, kind, name, version = heapq.heappop(self.events)
            worker = self.workers.get(name)
            if kind == "decide":
                self._decide()
            elif worker and (kind != "finished" or version == worker.version):
                getattr(self, f"_{kind}")(worker)
            self._hand_out(name)
        self.result.idle_s = self.result.paid_s - self.result.useful_s - self.result.starting_s - self.result.repeated_s
        self.result.num_given_back = self.book.num_given_back
        return self.result

    def _at(self, delay: float, kind: str, name: str = "", version: int = 0) -> None:
        self.serial += 1
        heapq.heappush(self.events, (self.now + delay, self.serial, kind, name, version))

    # What happens to a worker.

    def _start(self) -> None:
        setup, spread = self.setup, self.setup.start_spread
        speed = setup.megapixels_per_s * self.random.lognormvariate(0, setup.speed_spread)
        self.result.num_started += 1
        worker = Worker(f"worker-{self.result.num_started}", self.now, speed)
        self.workers[worker.name] = worker
        self._at(setup.start_s * self.random.lognormvariate(-spread * spread / 2, spread), "ready", worker.name)

    def _ready(self, worker: Worker) -> None:
        worker.is_ready, worker.idle_since = True, self.now
        self.result.starting_s += self.now - worker.requested_at
        if self.setup.losses_per_h:
            self._at(self.random.expovariate(self.setup.losses_per_h / 3600), "lost", worker.name)

    def _lost(self, worker: Worker) -> None:
        self.result.num_lost += 1
        self._remove(worker)

    def _remove(self, worker: Worker) -> None:
        """The worker is gone: its leases go back, its helpers are free, and who it helped is slower."""
        self._update(worker)
        for lease in worker.queue:
            if lease is worker.queue[0]:
                self._keep_share(worker, lease)
            self.book.lose(lease, "worker_crash", "the node was taken away")
        self._release_helpers(worker)
        if worker.helps:
            holder = self.workers[worker.helps]
            self._update(holder)
            holder.helpers.discard(worker.name)
            self._schedule(holder)
        del self.workers[worker.name]
        self.result.paid_s += self.now - worker.requested_at
        if not worker.is_ready:
            self.result.starting_s += self.now - worker.requested_at

    def _keep_share(self, worker: Worker, lease: Lease) -> None:
        """What was stored is adopted; what was in flight is done again."""
        size = self.sizes[lease.shard.shard]
        before = self.done_share.get(lease.shard.shard, 0.0)
        share = 1 - worker.left / size
        kept = max(before, share - self.setup.in_flight_images / self.setup.images_per_shard)
        self.done_share[lease.shard.shard] = kept
        self.result.repeated_s += (share - kept) * size / self.setup.megapixels_per_s

    def _finished(self, worker: Worker) -> None:
        self._update(worker)
        lease = worker.queue.pop(0)
        shard = lease.shard
        if not self.book.complete(lease):
            msg = f"shard {shard.shard} was completed without a lease"
            raise AssertionError(msg)
        if shard.is_probe:
            self.done_share[shard.shard] = min(1.0, self.done_share.get(shard.shard, 0.0) + self._share(shard))
        else:
            size = self.sizes[shard.shard]
            self.result.num_done += 1
            self.result.done[shard.shard] = self.result.done.get(shard.shard, 0) + 1
            self.result.useful_s += size / self.setup.megapixels_per_s
            self.result.makespan_s = self.now
            self.megapixels_left -= size
            if not worker.helpers and not self.done_share.pop(shard.shard, 0.0):
                self.throughput = self.throughput.updated(size, self.now - worker.began)
        if worker.queue:
            self._begin(worker)
        else:
            worker.version += 1
            worker.idle_since = self.now
            self._release_helpers(worker)

    def _share(self, shard: Shard) -> float:
        return len(shard.tasks) / TASKS_PER_SHARD

    # Progress of a worker's first lease.

    def _speed(self, worker: Worker) -> float:
        return worker.speed + sum(self.workers[name].speed for name in worker.helpers)

    def _update(self, worker: Worker) -> None:
        if worker.queue:
            worker.left = max(0.0, worker.left - (self.now - worker.since) * self._speed(worker))
            worker.since = self.now

    def _begin(self, worker: Worker) -> None:
        shard = worker.queue[0].shard
        share = min(self._share(shard), 1 - self.done_share.get(shard.shard, 0.0))
        worker.left, worker.since, worker.began = share * self.sizes[shard.shard], self.now, self.now
        self._schedule(worker)

    def _schedule(self, worker: Worker) -> None:
        worker.version += 1
        if worker.queue:
            self._at(worker.left / self._speed(worker), "finished", worker.name, worker.version)

    def _release_helpers(self, worker: Worker) -> None:
        for name in worker.helpers:
            self.workers[name].helps, self.workers[name].idle_since = None, self.now
        worker.helpers.clear()

    # The scheduler.

    def _hand_out(self, name: str) -> None:
        """Leases for the worker that something happened to, and for idle ones: what comes back goes to these alone."""
        takers = [worker for worker in self.workers.values() if not worker.queue or worker.name == name]
        for worker in takers if self._num_waiting() else ():
            while worker.is_ready and not worker.helps and len(worker.queue) < self.setup.leases_per_worker:
                lease = self.book.take(worker.name)
                if lease is None:
                    break
                worker.queue.append(lease)
                if len(worker.queue) == 1:
                    self._begin(worker)
        if self.setup.splits_tail and not self._num_waiting():
            self._help()

    def _num_waiting(self) -> int:
        return self.setup.num_shards - self.book.num_completed - self.book.num_outstanding

    def _help(self) -> None:
        idle = [worker for worker in self.workers.values() if worker.is_ready and not worker.queue and not worker.helps]
        holders = [worker for worker in self.workers.values() if worker.queue and not worker.helpers]
        if not idle or not holders:
            return
        for holder in holders:
            self._update(holder)
        images = self.setup.images_per_shard
        lefts = [self._left(holder) for holder in holders]
        leases = [RemainingLease(max(1, math.floor(left / self.setup.megapixels_per_image)), left) for left in lefts]
        least = self.setup.min_part_s * self.setup.megapixels_per_s
        parts = split_tail(leases, min(len(idle), images * len(holders)), min_part_megapixels=least)
        for holder, num in zip(holders, parts, strict=True):
            for _ in range(num - 1):
                helper = idle.pop()
                helper.helps = holder.name
                holder.helpers.add(helper.name)
            if num > 1:
                self._schedule(holder)

    def _left(self, worker: Worker) -> float:
        return worker.left + sum(self.sizes[lease.shard.shard] for lease in worker.queue[1:])

    def _decide(self) -> None:
        limits = self.setup.limits
        decision = decide(self._observe(), limits)
        if decision.delta:
            self.result.reasons.append((self.now, decision.delta, decision.reason))
        for _ in range(decision.delta):
            self._start()
        for worker in self._to_end(-decision.delta):
            self._remove(worker)
        ready = sum(worker.is_ready for worker in self.workers.values())
        self.result.workers.append((self.now, ready, len(self.workers)))
        self.result.most_workers = max(self.result.most_workers, len(self.workers))
        if self.workers or (self._num_waiting() and decision.delta > 0):
            self._at(limits.interval_s, "decide")

    def _to_end(self, num: int) -> list[Worker]:
        order = sorted(
            self.workers.values(),
            key=lambda worker: (worker.is_ready, bool(worker.queue or worker.helps), worker.idle_since),
        )
        return order[: max(0, num)]

    def _observe(self) -> Observation:
        busy = [worker for worker in self.workers.values() if worker.queue or worker.helps]
        idle = [worker for worker in self.workers.values() if worker.is_ready and not worker.queue and not worker.helps]
        left = self.setup.num_shards - self.book.num_completed
        seen = Observation(
            num_waiting=self._num_waiting(),
            num_leased=self.book.num_outstanding,
            num_images=left * self.setup.images_per_shard,
            megapixels=max(0.0, self.megapixels_left),
            throughput=self.throughput,
            num_busy=len(busy),
            idle_s=tuple(self.now - worker.idle_since for worker in idle),
            num_starting=len(self.workers) - len(busy) - len(idle),
            start_s=self.setup.start_s,
            spent_worker_s=self.result.paid_s + sum(self.now - worker.requested_at for worker in self.workers.values()),
        )
        return seen if self.setup.deadline_s is None else replace(seen, time_left_s=self.setup.deadline_s - self.now)
