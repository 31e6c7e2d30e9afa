from __future__ import annotations

import pytest
from ray.exceptions import RaySystemError

from pipeline.execution.ray_actor import loss_code

# What Ray 2.60 says of any worker process that vanished, whatever ended it.
VANISHED = (
    "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2. End "
    "of file. Some common causes include: (1) the process was killed by the OOM killer due to high memory usage, (2) "
    "ray stop --force was called, or (3) the worker crashed unexpectedly due to SIGSEGV or another unexpected error."
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "worker_oom"),
        (RaySystemError("The worker was killed: the node is running low on memory"), "worker_oom"),
        (RaySystemError(f"The actor died unexpectedly. {VANISHED}"), "worker_crash"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "worker_crash"),
    ],
)
def test_what_ended_a_worker_is_told_apart(error: Exception, code: str) -> None:
    assert loss_code(error) == code
