"""A driver for tests of bad devices: `python -m bad_device_run SRC DST ADDRESS [EXECUTION]` on nodes of a Ray cluster.

EXECUTION, as JSON, has more fields of the ExecutionConfig. `HDRFLEET_TEST_DEVICE` in the environment of a node says
what its device does: `lost` fails every image, `lost-until-open` does so before `open_gate` was called, `no-start`
keeps the engine from starting, `crash` takes the process down with every image, `poisoned` is lost with images of
`POISON_PX` columns, and only then. Others compute once `open_gate` was called.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from commands import wait_until
from fakes import FakeEngine

from jobs.convert import run_conversion
from jobs.explain import explain
from jobs.progress import ConsoleReporter
from pipeline.config import build_config
from pipeline.errors import DeviceLostError, HdrfleetError
from pipeline.execution.base import WorkerSpec
from pipeline.inference.base import Inference, LdrPixels

GATE_TIMEOUT_S = 300
POISON_PX = 40
_gone: list[str] = []


@dataclass(frozen=True)
class DeviceEngine(FakeEngine):
    """A FakeEngine on the device of its node."""

    gate: Path = Path()

    def infer(self, pixels: LdrPixels) -> Inference:
        what = os.environ.get("HDRFLEET_TEST_DEVICE")
        if what == "lost" or (what == "lost-until-open" and not self.gate.exists()):
            raise DeviceLostError("cuda:0: CUDA error: uncorrectable ECC error encountered")
        if what == "poisoned":
            if pixels.shape[1] == POISON_PX or _gone:
                _gone.append("the context of this process")
                raise DeviceLostError("cuda:0: CUDA error: an illegal memory access was encountered")
            return self.answer(pixels)
        if what == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        wait_until(self.gate.exists, "the gate is open", GATE_TIMEOUT_S)
        return self.answer(pixels)

    def answer(self, pixels: LdrPixels) -> Inference:
        """As every sound device."""
        return super().infer(pixels)


def device_engine(spec: WorkerSpec) -> DeviceEngine:
    if os.environ.get("HDRFLEET_TEST_DEVICE") == "no-start":
        raise DeviceLostError("cuda: no CUDA GPUs are available")
    device = "cuda:0" if os.environ.get("HDRFLEET_TEST_DEVICE") == "poisoned" else "cpu"
    return DeviceEngine(device=device, gate=_gate(Path(spec.config.destination.url)))


def open_gate(destination: Path) -> None:
    """Let sound devices compute."""
    _gate(destination).touch()


def _gate(destination: Path) -> Path:
    return destination.with_name("gate-is-open")


def main(source: str, destination: str, address: str, execution: str = '{"num_workers": 2}') -> int:
    from bad_device_run import device_engine as importable  # by its name in a module: workers import it

    config = build_config(
        source={"url": source},
        destination={"url": destination},
        model={"weights": "identity"},
        execution={"executor": "ray", "address": address, **json.loads(execution)},
        sharding={"max_images": 2},
    )
    try:
        return run_conversion(config, ConsoleReporter(), build_engine=importable).exit_code
    except HdrfleetError as error:
        text, code = explain(error)
        sys.stderr.write(f"{text} [{error.code}]\n")
        return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
