"""Training on Ray: Ray Train places the workers and replaces lost ones, our loop and our checkpoints do the rest."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import ray
from ray.exceptions import RayError

from jobs.signals import noting_signals
from jobs.train import THREADS_ENV
from pipeline.config import ExecutionConfig
from pipeline.errors import ConfigError, DivergedError, HdrfleetError, InterruptedJobError, WorkerLostError
from pipeline.execution.ray_session import ray_session
from pipeline.inference.memory import MALLOC_ENV
from pipeline.training.config import TrainingConfig
from pipeline.training.events import Observer, StepDone, TrainingEvent
from pipeline.training.loop import TrainingOutcome
from pipeline.training.run import TrainingJob

_POLL_S = 0.5
_TELL_EVERY_S = 0.5
_STOP_TIMEOUT_S = 120.0
# What every worker raises at the same step: there is nothing to retry.
_AGREED = (InterruptedJobError, DivergedError)


def require_ray_train() -> None:
    """Raise ConfigError when Ray Train's own dependencies are not installed."""
    try:
        import ray.train.torch  # noqa: F401
    except ImportError as error:
        raise ConfigError("training on Ray needs: pip install 'hdrfleet[train]'; or give --executor local") from error


def train_on_ray(
    job: TrainingJob,
    *,
    num_workers: int,
    address: str | None,
    max_failures: int,
    observe: Observer,
    stop_message: str,
) -> TrainingOutcome:
    """Train with `num_workers` processes on the cluster at `address`, or on Ray started here.

    A worker that is lost costs the steps since the last checkpoint: Ray Train starts all of them anew, up to
    `max_failures` times. Raises ConfigError when the workers do not fit, what the loop raises, and WorkerLostError.
    """
    execution = ExecutionConfig(executor="ray", num_workers=num_workers, address=address)
    with ray_session(execution), tempfile.TemporaryDirectory(prefix="hdrfleet-ray-train-") as folder:
        scaling = plan_workers(job.config, num_workers)
        monitor = _Monitor.remote()  # type: ignore[attr-defined]
        fit = _fitter(job, scaling, monitor, max_failures, folder)
        with noting_signals(stop_message) as should_stop, _Background(fit) as running:
            _relay(running, monitor, observe, should_stop)
            failure = running.failure()
        result = ray.get(monitor.result.remote(), timeout=_STOP_TIMEOUT_S)
    if isinstance(result, HdrfleetError):
        raise result
    if failure is not None:
        raise WorkerLostError(f"training workers failed: {_reason(failure)}") from failure
    if result is None:
        raise WorkerLostError("training workers ended without a result")
    outcome: TrainingOutcome = result
    return outcome


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What each of `num_workers` reserves."""

    num_workers: int
    num_cpus: int
    use_gpu: bool


def plan_workers(config: TrainingConfig, num_workers: int) -> WorkerPlan:
    """Give each worker a GPU where there are GPUs, else as many cores as let all of them fit. Raises ConfigError."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if config.device.startswith("cuda") and not num_gpus:
        raise ConfigError("device cuda was asked for, but Ray sees no GPU; use --device auto or cpu")
    cores = [int(node.get("CPU", 0)) for node in nodes]
    if num_gpus and config.device != "cpu":
        if num_workers > num_gpus:
            raise ConfigError(f"--workers: {num_workers} workers need a GPU each, but Ray sees {num_gpus}")
        return WorkerPlan(num_workers, max(1, min(8, sum(cores) // num_gpus)), use_gpu=True)
    for num_cpus in range(max(cores, default=0), 0, -1):
        if sum(number // num_cpus for number in cores) >= num_workers:
            return WorkerPlan(num_workers, num_cpus, use_gpu=False)
    raise ConfigError(f"--workers: {num_workers} workers need a core each, but Ray has {sum(cores)}")


@ray.remote(num_cpus=0)
class _Monitor:
    """Where the first worker says what happens, and the driver says that it should stop."""

    def __init__(self) -> None:
        self._events: list[TrainingEvent] = []
        self._stop = False
        self._result: TrainingOutcome | HdrfleetError | None = None

    def tell(self, event: TrainingEvent) -> None:
        self._events.append(event)

    def take(self) -> list[TrainingEvent]:
        events, self._events = self._events, []
        return events

    def request_stop(self) -> None:
        self._stop = True

    def should_stop(self) -> bool:
        return self._stop

    def finish(self, result: TrainingOutcome | HdrfleetError) -> None:
        self._result = result

    def result(self) -> TrainingOutcome | HdrfleetError | None:
        return self._result


def _fitter(job: TrainingJob, plan: WorkerPlan, monitor: Any, max_failures: int, folder: str) -> Callable[[], None]:
    """Build the call that runs Ray Train to its end. `folder` takes what Ray Train itself writes."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    trainer = TorchTrainer(
        _run_worker,
        train_loop_config={"job": job, "monitor": monitor},
        scaling_config=ScalingConfig(
            num_workers=plan.num_workers, use_gpu=plan.use_gpu, resources_per_worker=_resources(plan)
        ),
        run_config=RunConfig(
            name="hdrfleet",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=max_failures),
            worker_runtime_env={"env_vars": {} if plan.use_gpu else {**MALLOC_ENV, **THREADS_ENV}},
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )

    def fit() -> None:
        trainer.fit()

    return fit


def _resources(plan: WorkerPlan) -> dict[str, float]:
    return {"CPU": plan.num_cpus, **({"GPU": 1} if plan.use_gpu else {})}


def _run_worker(parts: dict[str, Any]) -> None:
    """What runs in each worker. Errors that all workers share are a result; the others make Ray Train start anew."""
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
        ray.get(parts["monitor"].finish.remote(error))
        raise
    if peers.is_first:
        ray.get(parts["monitor"].finish.remote(result))


class _MonitorLink:
    """The first worker's end of the monitor; never waits for it, so that a slow driver costs no step."""

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


class _Background:
    """One call in a thread of its own: Ray Train would take over Ctrl-C in the main thread."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="ray-train", daemon=True)

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:  # noqa: BLE001  handed to the main thread, which raises it
            self._failure = error

    def __enter__(self) -> _Background:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def is_done(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for the end."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def failure(self) -> Exception | None:
        """What the call raised."""
        return self._failure


def _relay(running: _Background, monitor: Any, observe: Observer, should_stop: Callable[[], bool]) -> None:
    """Show events and pass a stop on until Ray Train has ended."""
    asked = False
    while not running.is_done(_POLL_S):
        if should_stop() and not asked:
            asked = True
            monitor.request_stop.remote()
        _show(monitor, observe)
    _show(monitor, observe)


def _show(monitor: Any, observe: Observer) -> None:
    try:
        for event in ray.get(monitor.take.remote(), timeout=_STOP_TIMEOUT_S):
            observe(event)
    except RayError as error:
        raise WorkerLostError(f"Ray has ended: {type(error).__name__}") from error


def _reason(failure: Exception) -> str:
    """The innermost line of what Ray Train reports."""
    failures = getattr(failure, "worker_failures", None) or {}
    cause: BaseException = next(iter(failures.values()), failure)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__
