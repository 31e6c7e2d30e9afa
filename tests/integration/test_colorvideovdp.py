"""The external ColorVideoVDP program: what it is given, and what is made of what it says. A script stands in for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.colorvideovdp import ColorVideoVdp
from pipeline.errors import ConfigError

TRUTH = np.full((16, 16, 3), 2.0, np.float32)
OUTPUTS = {"ours": TRUTH * np.float32(0.5), "srgb": TRUTH * np.float32(0.25)}

# Answers 10 minus the stops by which a test image's mean lies under the reference, as the real program would write it.
SCRIPT = """#!{python}
import sys, argparse, os
import numpy as np, OpenEXR
parser = argparse.ArgumentParser()
parser.add_argument("--test", nargs="+")
parser.add_argument("--ref")
parser.add_argument("--display")
parser.add_argument("--result")
parser.add_argument("--quiet", action="store_true")
args = parser.parse_args()
assert args.display == "standard_hdr_linear" and "PYTHONPATH" not in os.environ
def mean(path):
    channels = OpenEXR.File(path).channels()
    return float(channels["RGB"].pixels.mean())
assert abs(mean(args.ref) - 406) < 1e-3, "2.0 is 406 cd/m2"
with open(args.result, "w") as out:
    out.write("test, reference, cvvdp\\n")
    for path in args.test:
        out.write(f"{{path}}, {{args.ref}}, {{10 + np.log2(mean(path) / mean(args.ref))}}\\n")
"""


def program(folder: Path, text: str) -> Path:
    path = folder / "cvvdp"
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_outputs_are_measured_in_nits_against_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    assert ColorVideoVdp(program(tmp_path, SCRIPT)).measure(OUTPUTS, TRUTH) == pytest.approx({"ours": 9, "srgb": 8})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#!/bin/sh\necho CUDA is gone >&2\nexit 3\n", "failed: CUDA is gone"),
        ("#!/bin/sh\necho '[ERROR] pyexr missing' >&2\n", r"measured 0 of 2 images: \[ERROR\] pyexr missing"),
        ("#!/no/such/shell\n", "cannot run"),
    ],
)
def test_a_program_that_fails_is_quoted(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ColorVideoVdp(program(tmp_path, text)).measure(OUTPUTS, TRUTH)


def test_no_program_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install cvvdp"):
        ColorVideoVdp(tmp_path / "cvvdp")
    (tmp_path / "cvvdp").touch(mode=0o644)
    with pytest.raises(ConfigError, match="no such program"):
        ColorVideoVdp(tmp_path / "cvvdp")


@pytest.mark.skipif("HDRFLEET_CVVDP" not in os.environ, reason="set HDRFLEET_CVVDP to a cvvdp program to run it")
def test_the_real_program() -> None:
    ramp = np.broadcast_to(np.linspace(0.1, 3, 64, dtype=np.float32)[None, :, None], (64, 64, 3)).copy()
    outputs = {"same": ramp, "clipped": np.minimum(ramp, 1)}
    found = ColorVideoVdp(Path(os.environ["HDRFLEET_CVVDP"])).measure(outputs, ramp)
    assert found["same"] == pytest.approx(10, abs=0.01)
    assert found["clipped"] < 9
