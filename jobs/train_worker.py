"""One worker of a training run on Ray, and the monitor through which it and the driver hear of each other."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from time import monotonic
from typing import Any

import ray

from pipeline.errors import (
    DeviceLostError,
    DivergedError,
    HdrfleetError,
    InterruptedJobError,
    StorageError,
    UsageError,
    WorkerLostError,
    may_pass,
)
from pipeline.training.events import StepDone, TrainingEvent
from pipeline.training.loop import TrainingOutcome
from pipeline.training.run import TrainingJob

ANSWER_TIMEOUT_S = 120.0
_TELL_EVERY_S = 0.5
# What every worker raises at the same step: the first one's is the result.
_AGREED = (InterruptedJobError, DivergedError)


@dataclass(frozen=True, slots=True)
class News:
    """What has happened since the driver asked last.

    `are_asked_for`: workers are. `are_up`: all of them are there. `fatal`: what a worker met, and new ones would.
    """

    events: list[TrainingEvent]
    are_asked_for: bool
    are_up: bool
    fatal: HdrfleetError | None


@ray.remote(num_cpus=0)
class Monitor:
    """Where the first worker says what happens, the driver that it should stop, the controller how its workers are."""

    def __init__(self) -> None:
        self._events: list[TrainingEvent] = []
        self._stop = self._are_up = False
        self._result: TrainingOutcome | HdrfleetError | None = None
        self._fatal: HdrfleetError | None = None
        self._controller: Any = None

    def begin(self, controller: Any) -> None:
        """Workers are asked for by this controller."""
        self._controller, self._are_up = controller, False

    def came_up(self) -> None:
        """All workers are there."""
        self._are_up = True

    def controller(self) -> Any:
        """Ray Train's controller, None before it has asked for workers."""
        return self._controller

    def tell(self, event: TrainingEvent) -> None:
        """Keep an event for the driver."""
        self._events.append(event)

    def take(self) -> News:
        """Give the driver what is new."""
        events, self._events = self._events, []
        return News(events, self._controller is not None, self._are_up, self._fatal)

    def request_stop(self) -> None:
        """Have the workers stop after their step."""
        self._stop = True

    def should_stop(self) -> bool:
        """Whether they should."""
        return self._stop

    def finish(self, result: TrainingOutcome | HdrfleetError, *, is_fatal: bool = False) -> None:
        """Keep a result; of fatal ones the first, which others may follow from."""
        self._result = self._fatal or result
        if is_fatal and self._fatal is None and isinstance(result, HdrfleetError):
            self._fatal = result

    def result(self) -> TrainingOutcome | HdrfleetError | None:
        """The last one."""
        return self._result


def is_in_vain(error: HdrfleetError) -> bool:
    """Whether new workers would meet the error again: not with a lost device or peer, nor a store that may recover."""
    if isinstance(error, StorageError):
        return not may_pass(error)
    return not isinstance(error, DeviceLostError | WorkerLostError)


def at_this_node(error: HdrfleetError) -> HdrfleetError:
    """The error, with the machine's name where it is about what the user gave: elsewhere it may be in order."""
    return type(error)(f"on {socket.gethostname()}: {error}") if isinstance(error, UsageError) else error


def run_worker(parts: dict[str, Any]) -> None:
    """What runs in each worker. Errors that new ones would meet again end the run; others make Ray Train start anew."""
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    from pipeline.inference.memory import retain_freed_memory
    from pipeline.training.batches import Share
    from pipeline.training.peers import Peers
    from pipeline.training.run import train

    job: TrainingJob = parts["job"]
    retain_freed_memory()
    if job.config.device != "cpu" and get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    context = get_context()
    peers = Peers(Share(context.get_world_rank(), context.get_world_size()))
    link = _MonitorLink(parts["monitor"])
    try:
        result: TrainingOutcome | HdrfleetError = train(
            job, peers=peers, observe=link.tell, should_stop=link.should_stop if peers.is_first else lambda: False
        )
    except _AGREED as error:
        result = error
    except HdrfleetError as error:
        link.finish(at_this_node(error), is_fatal=is_in_vain(error))
        raise
    if peers.is_first:
        link.finish(result)


class _MonitorLink:
    """A worker's end of the monitor; does not wait for it before the end, so that a slow driver costs no step."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._told_at = self._asked_at = -_TELL_EVERY_S
        self._question: Any = None
        self._stop = False

    def tell(self, event: TrainingEvent) -> None:
        """Pass an event on; of the steps only one every so often."""
        if isinstance(event, StepDone):
            if monotonic() - self._told_at < _TELL_EVERY_S:
                return
            self._told_at = monotonic()
        self._monitor.tell.remote(event)

    def should_stop(self) -> bool:
        """Return the newest answer that has arrived, and ask again now and then."""
        if self._question is not None and ray.wait([self._question], timeout=0)[0]:
            self._stop = ray.get(self._question)
            self._question = None
        if self._question is None and monotonic() - self._asked_at >= _TELL_EVERY_S:
            self._asked_at = monotonic()
            self._question = self._monitor.should_stop.remote()
        return self._stop

    def finish(self, result: TrainingOutcome | HdrfleetError, *, is_fatal: bool = False) -> None:
        """Hand the result over, and wait until it has arrived."""
        ray.get(self._monitor.finish.remote(result, is_fatal=is_fatal), timeout=ANSWER_TIMEOUT_S)
