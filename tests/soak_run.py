"""A driver for soak tests: `python -m soak_run SRC DST [ADDRESS]`, with an engine that costs nothing.

`local` as the address is the local executor. While the file that `HDRFLEET_SOAK_OUTAGE` names is there, the store of
every worker fails: operations do not begin, or their answer is lost.
"""

from __future__ import annotations

import errno
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes import FakeEngine

from jobs.convert import run_conversion
from jobs.explain import explain
from jobs.progress import ConsoleReporter
from pipeline.config import build_config
from pipeline.errors import HdrfleetError
from pipeline.execution.base import WorkerSpec
from pipeline.storage.local import LocalStore

OUTAGE = "HDRFLEET_SOAK_OUTAGE"
NUM_WORKERS = 3


def fake_engine(_spec: WorkerSpec) -> FakeEngine:
    """Built in every worker, which is where stores are to fail."""
    if OUTAGE in os.environ:
        fail_during(Path(os.environ[OUTAGE]))
    return FakeEngine()


def fail_during(outage: Path) -> None:
    """Let local stores fail as a network file system does that is away: below our retries and our errors' names."""
    drawn = random.Random(os.getpid())
    run: Callable[..., Any] = LocalStore._run

    def failing(self: LocalStore, operation: Callable[[], Any], path: Path) -> Any:
        def operated() -> Any:
            is_away = outage.exists()
            if is_away and drawn.random() < 0.5:
                raise OSError(errno.EHOSTDOWN, "the store is away, by a test")
            answer = operation()
            if is_away:
                raise OSError(errno.ETIMEDOUT, "the answer is lost, by a test")
            return answer

        return run(self, operated, path)

    LocalStore._run = failing  # type: ignore[method-assign]


def main(source: str, destination: str, address: str = "local") -> int:
    from soak_run import fake_engine as importable  # by its name in a module, not in __main__: workers import it

    on_ray = {"executor": "ray", "num_workers": NUM_WORKERS, "address": address}
    config = build_config(
        source={"url": source},
        destination={"url": destination},
        model={"weights": "identity"},
        execution={"executor": "local"} if address == "local" else on_ray,
    )
    try:
        return run_conversion(config, ConsoleReporter(), build_engine=importable).exit_code
    except HdrfleetError as error:
        text, code = explain(error)
        sys.stderr.write(f"hdrfleet: {text} [{error.code}]\n")
        return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
