"""ColorVideoVDP as an optional program of its own: called by path, never imported, because it brings its own torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import OpenEXR

from pipeline.errors import ConfigError, first_line
from pipeline.evaluation.pu21 import CLIPPING_NITS

DISPLAY = "standard_hdr_linear"
"""The tool's model of a 30-inch 4K display of 1,500 cd/m2, seen from twice its height in a dim room."""
NAME, LABEL, UNIT = "cvvdp_jod", "ColorVideoVDP", "JOD"
_TIMEOUT_S = 1800
_MAX_MESSAGE_CHARS = 300
_FOREIGN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class ColorVideoVdp:
    """Runs the `cvvdp` program of an environment of its own (`pip install cvvdp` there; MIT licence).

    Source: R. K. Mantiuk, P. Hanji, M. Ashraf, Y. Asano, A. Chapiro, "ColorVideoVDP: A visual difference predictor for
    image, video and display distortions", SIGGRAPH 2024. Raises ConfigError where there is no such program.
    """

    def __init__(self, executable: Path) -> None:
        if not executable.is_file() or not os.access(executable, os.X_OK):
            raise ConfigError(
                f"--cvvdp {executable}: no such program; make an environment for it (python -m venv DIR; "
                "DIR/bin/pip install cvvdp) and give DIR/bin/cvvdp"
            )
        self._executable = executable.absolute()

    def measure(
        self, outputs: Mapping[str, npt.NDArray[np.float32]], truth: npt.NDArray[np.float32]
    ) -> dict[str, float]:
        """Return each output's quality in JOD: 10 is no visible difference; of two 1 apart, 75 % prefer the better.

        Images are linear Rec.709, (H, W, 3), 1.0 = 203 cd/m2; the display model clips them at its peak. Raises
        ConfigError where the program fails.
        """
        with TemporaryDirectory(prefix="hdrfleet-cvvdp-") as folder:
            reference, result = Path(folder, "truth.exr"), Path(folder, "result.csv")
            _write_nits(reference, truth)
            tests = [Path(folder, f"{number}.exr") for number in range(len(outputs))]
            for path, output in zip(tests, outputs.values(), strict=True):
                _write_nits(path, output)
            command = [str(self._executable), "--test", *map(str, tests), "--ref", str(reference)]
            message = self._run([*command, "--display", DISPLAY, "--result", str(result), "--quiet"], folder)
            values = _read_result(result)
        if len(values) != len(outputs):
            raise ConfigError(f"{self._executable} measured {len(values)} of {len(outputs)} images: {message}")
        return dict(zip(outputs, values, strict=True))

    def _run(self, command: list[str], folder: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
        try:
            done = subprocess.run(  # noqa: S603 the user names the program; the arguments are ours
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"cannot run {self._executable}: {first_line(error)}") from error
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        if done.returncode:
            raise ConfigError(f"{self._executable} failed: {last[:_MAX_MESSAGE_CHARS]}")
        return last[:_MAX_MESSAGE_CHARS]


def _write_nits(path: Path, linear: npt.NDArray[np.float32]) -> None:
    pixels = np.ascontiguousarray(linear * np.float32(CLIPPING_NITS), np.float32)
    header = {"compression": OpenEXR.NO_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"RGB": pixels}).write(str(path))


def _read_result(path: Path) -> list[float]:
    """Read the last column of `test, reference, cvvdp` lines; a file that is missing holds nothing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        return [float(line.rsplit(",", 1)[1]) for line in lines if line.strip()]
    except (OSError, ValueError, IndexError):
        return []
