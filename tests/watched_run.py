"""`python -m watched_run ARGUMENTS`: hdrfleet, with an engine that writes down what it computes where, and can be held.

Workers build it: they need its environment and `tests/` on their path.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from commands import wait_until
from fakes import FakeEngine

from pipeline.execution.base import WorkerSpec
from pipeline.inference.base import Inference, LdrPixels

# Where engines write and look for what holds them, what their node is called, and the seconds that an image takes.
FOLDER, NODE, PACE = "HDRFLEET_TEST_ENGINE_FOLDER", "HDRFLEET_TEST_NODE", "HDRFLEET_TEST_ENGINE_PACE_S"
_HELD_AT_MOST_S = 400


@dataclass(frozen=True)
class Computed:
    """An image that was begun: `at` by the machine's monotonic clock, by which process of which node."""

    at: float
    digest: str
    node: str
    pid: int


class Engines:
    """What the engines that write into a folder do, seen and ruled from outside."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder

    def hold(self, node: str = "") -> None:
        """From its next image on, let a node wait; all of them by default."""
        (self.folder / f"hold{node}").touch()

    def let_go(self, node: str = "") -> None:
        (self.folder / f"hold{node}").unlink()

    def computed(self, node: str | None = None) -> list[Computed]:
        """Every image that was begun, or those of a node."""
        found = []
        for path in self.folder.glob("*.log"):
            name, pid = path.stem.rsplit("-", 1)
            for line in path.read_text().splitlines():
                at, digest = line.split()
                found.append(Computed(float(at), digest, name, int(pid)))
        return sorted((each for each in found if node in {None, each.node}), key=lambda each: each.at)


@dataclass
class WatchedEngine:
    """No network; each image leaves a line in a file of its process, waits while it is held, and takes `pace_s`."""

    folder: Path
    node: str
    pace_s: float
    inner: FakeEngine = field(default_factory=FakeEngine)

    def __post_init__(self) -> None:
        self.device, self.precision = self.inner.device, self.inner.precision

    def infer(self, pixels: LdrPixels) -> Inference:
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        with (self.folder / f"{self.node}-{os.getpid()}.log").open("a") as file:
            file.write(f"{time.monotonic():.3f} {digest}\n")
        wait_until(self._may_go, "the engine is let go", _HELD_AT_MOST_S)
        time.sleep(self.pace_s)
        return self.inner.infer(pixels)

    def _may_go(self) -> bool:
        return not any((self.folder / f"hold{node}").exists() for node in ("", self.node))


def watched_engine(_spec: WorkerSpec) -> WatchedEngine:
    return WatchedEngine(Path(os.environ[FOLDER]), os.environ[NODE], float(os.environ[PACE]))


def main() -> None:
    from watched_run import watched_engine as importable  # by its name in a module, not in __main__: workers import it

    import jobs.convert
    from jobs.cli import main as hdrfleet

    jobs.convert.run_conversion = partial(jobs.convert.run_conversion, build_engine=importable)
    hdrfleet()


if __name__ == "__main__":
    sys.exit(main())
