"""A driver for soak tests: `python -m soak_run SRC DST [--executor local]` with an engine that costs nothing."""

from __future__ import annotations

import sys

from fakes import FakeEngine

from jobs.convert import run_conversion
from jobs.progress import ConsoleReporter
from pipeline.config import build_config
from pipeline.execution.base import WorkerSpec


def fake_engine(_spec: WorkerSpec) -> FakeEngine:
    return FakeEngine()


def main(source: str, destination: str, executor: str = "ray") -> int:
    from soak_run import fake_engine as importable  # by its name in a module, not in __main__: workers import it

    config = build_config(
        source={"url": source},
        destination={"url": destination},
        model={"weights": "identity"},
        execution={"executor": executor, "num_workers": 1 if executor == "local" else 2},
    )
    return run_conversion(config, ConsoleReporter(), build_engine=importable).exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
