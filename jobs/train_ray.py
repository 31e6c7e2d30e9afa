"""Training on Ray: Ray Train places the workers and replaces lost ones, our loop and our checkpoints do the rest."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import ray
from ray import PlacementGroupID
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup

from jobs.signals import noting_signals
from jobs.train import THREADS_ENV
from jobs.train_placement import StartWatch, WorkerPlan, plan_workers
from jobs.train_worker import ANSWER_TIMEOUT_S, Monitor, News, run_worker
from pipeline.config import ExecutionConfig
from pipeline.errors import ConfigError, HdrfleetError, InterruptedJobError, WorkerLostError
from pipeline.execution.ray_session import ray_session
from pipeline.inference.memory import MALLOC_ENV
from pipeline.training.events import Observer, WorkersAwaited
from pipeline.training.loop import TrainingOutcome
from pipeline.training.run import TrainingJob

_POLL_S = 0.5
_END_TIMEOUT_S = 20.0


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
    `max_failures` times. How long they are waited for: see `StartWatch`. Raises ConfigError when the workers do not
    fit, what the loop raises, InterruptedJobError when asked to stop while they are waited for, and WorkerLostError.
    """
    execution = ExecutionConfig(executor="ray", num_workers=num_workers, address=address)
    with ray_session(execution), tempfile.TemporaryDirectory(prefix="hdrfleet-ray-train-") as folder:
        plan = plan_workers(job.config.device, num_workers)
        monitor = Monitor.remote()  # type: ignore[attr-defined]
        fit = _fitter(job, plan, monitor, max_failures, folder)
        watch = StartWatch(plan, execution.worker_start_timeout_s)
        background = _Background(fit, lambda: _kill(monitor))
        with noting_signals(stop_message) as should_stop, _freeing_places(), background as running:
            _relay(running, monitor, observe, should_stop, watch)
            failure = running.failure()
        result = ray.get(monitor.result.remote(), timeout=ANSWER_TIMEOUT_S)
    if isinstance(result, HdrfleetError):
        raise result
    if failure is not None:
        raise WorkerLostError(f"training workers failed: {_reason(failure)}") from failure
    if result is None:
        raise WorkerLostError("training workers ended without a result")
    outcome: TrainingOutcome = result
    return outcome


def _fitter(job: TrainingJob, plan: WorkerPlan, monitor: Any, max_failures: int, folder: str) -> Callable[[], None]:
    """Build the call that runs Ray Train to its end. `folder` takes what Ray Train itself writes."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    from jobs.train_callback import StartCallback

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"job": job, "monitor": monitor},
        scaling_config=ScalingConfig(
            num_workers=plan.num_workers, use_gpu=plan.use_gpu, resources_per_worker=plan.resources()
        ),
        run_config=RunConfig(
            name="hdrfleet",
            storage_path=folder,
            # Workers that do not start are tried again for ever, as far as Ray Train goes: `StartWatch` is the bound.
            failure_config=FailureConfig(max_failures=max_failures),
            worker_runtime_env={"env_vars": {} if plan.use_gpu else {**MALLOC_ENV, **THREADS_ENV}},
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[StartCallback(monitor)],
        ),
    )

    def fit() -> None:
        trainer.fit()

    return fit


class _Background:
    """One call in a thread of its own: Ray Train would take over Ctrl-C in the main thread.

    Left before its end, it is made to `end`.
    """

    def __init__(self, call: Callable[[], None], end: Callable[[], None]) -> None:
        self._call, self._end = call, end
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
        deadline = monotonic() + _END_TIMEOUT_S
        while self._thread.is_alive() and monotonic() < deadline:
            self._end()  # once more as long as there is nothing to end: it may be just about to begin
            self._thread.join(_POLL_S)

    def is_done(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for the end."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def failure(self) -> Exception | None:
        """What the call raised."""
        return self._failure


def _relay(
    running: _Background, monitor: Any, observe: Observer, should_stop: Callable[[], bool], watch: StartWatch
) -> None:
    """Show events and pass a stop on until Ray Train has ended.

    Raises what no other attempt would change, as soon as one worker tells it: the others may wait for that worker.
    """
    asked = False
    while not running.is_done(_POLL_S):
        news = _show(monitor, observe)
        if news.fatal is not None:
            raise news.fatal
        if should_stop() and not news.are_up:
            raise InterruptedJobError("stopped while the workers were waited for")
        if should_stop() and not asked:
            asked = True
            monitor.request_stop.remote()
        text = watch.look(are_asked_for=news.are_asked_for, are_up=news.are_up)
        if text is not None:
            observe(WorkersAwaited(text))
    _show(monitor, observe)


def _show(monitor: Any, observe: Observer) -> News:
    try:
        news: News = ray.get(monitor.take.remote(), timeout=ANSWER_TIMEOUT_S)
    except RayError as error:
        raise WorkerLostError(f"Ray has ended: {type(error).__name__}") from error
    for event in news.events:
        observe(event)
    return news


def _kill(monitor: Any) -> None:
    """End Ray Train's controller, and the workers with it. It cannot be asked: it is deaf while it waits for places."""
    with contextlib.suppress(RayError):
        controller = ray.get(monitor.controller.remote(), timeout=_END_TIMEOUT_S)
        if controller is not None:
            ray.kill(controller)


@contextlib.contextmanager
def _freeing_places() -> Iterator[None]:
    """Give back places that the body asked for: Ray keeps those of a killed controller until this process leaves."""
    before = _places()
    try:
        yield
    finally:
        for place in _places() - before:
            with contextlib.suppress(RayError):
                ray.util.remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(place))))


def _places() -> set[str]:
    """Ids of this job's placement groups that are not removed. They end with the job's."""
    job = ray.get_runtime_context().get_job_id()
    try:
        groups: dict[str, dict[str, Any]] = ray.util.placement_group_table()
    except (RayError, RuntimeError):
        return set()
    return {place for place, group in groups.items() if place.endswith(job) and group["state"] != "REMOVED"}


def _reason(failure: Exception) -> str:
    """The innermost line of what Ray Train reports."""
    failures = getattr(failure, "worker_failures", None) or {}
    cause: BaseException = next(iter(failures.values()), failure)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__
