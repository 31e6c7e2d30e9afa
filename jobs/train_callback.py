"""What Ray Train's controller tells of its workers. Loads Ray Train, which only training on Ray needs."""

from __future__ import annotations

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback


class StartCallback(WorkerGroupCallback):  # type: ignore[misc]
    """Tells the monitor when workers are asked for and when all of them are up; of public hooks none says so."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor

    def before_worker_group_start(self, worker_group_context: Any) -> None:  # noqa: ARG002  Ray Train passes it
        """Called before each attempt to start the workers, in the controller."""
        self._monitor.begin.remote(ray.get_runtime_context().current_actor)

    def after_worker_group_start(self, worker_group: Any) -> None:  # noqa: ARG002
        """Called with all workers up and connected to each other."""
        self._monitor.came_up.remote()
