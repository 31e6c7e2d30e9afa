"""Training is killed in the middle: it goes on where its last checkpoint stands and ends where it would have."""

from __future__ import annotations

import csv
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from commands import descendants, hdrfleet_here, start_hdrfleet, wait_until
from safetensors.torch import load_file
from training_runs import write_scenes

from pipeline.training.start import starting_network

STEPS, CHECKPOINT_EVERY = 40, 5
OPTIONS = (
    *("--width", "8", "--patch-px", "16", "--batch-size", "2", "--warmup-steps", "2", "--validation-patches", "4"),
    *("--checkpoint-every", str(CHECKPOINT_EVERY), "--validate-every", "10", "--log-every", "1", "--steps", str(STEPS)),
    *("--loss-preset", "balanced", "--loss", "log_weight=0.25", "--loss", "clipped_weight=5"),
    *("--loss", "hue_weight=0.1", "--loss", "neutral_prior=0.5"),
    *("--precision", "fp32", "--device", "cpu", "--no-plot", "--no-tensorboard"),
)
# As in this process: the number of threads decides the order of sums, and so the last bits.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def uninterrupted(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    arguments = (*OPTIONS, "--executor", "local", "--holdout", scenes / "holdout.txt", "--quiet")
    assert hdrfleet_here("train", scenes, out, *arguments) == 0
    return out


def saved_steps(out: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in out.glob("checkpoints/step-*.json"))


def curve(out: Path) -> dict[str, list[float]]:
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.long)], ids=lambda number: number.name
)
def test_a_stopped_run_goes_on_and_ends_as_an_uninterrupted_one(
    scenes: Path,
    uninterrupted: Path,
    tmp_path: Path,
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    arguments = ("train", scenes, out, *OPTIONS, "--executor", "local", "--holdout", scenes / "holdout.txt")
    process = start_hdrfleet(*arguments, home=tmp_path / "home", log=log, env=ONE_THREAD)
    try:
        wait_until(lambda: bool(saved_steps(out)) or process.poll() is not None, "the first checkpoint")
        process.send_signal(number)
        code = process.wait(60)
    finally:
        process.kill()
        process.wait(20)
    stopped_at, saved = int(max(curve(out)["step"])), max(saved_steps(out))
    assert saved < STEPS, "stopped too late to test anything"
    if number is signal.SIGKILL:
        assert stopped_at - saved <= CHECKPOINT_EVERY
    else:
        assert code == 1
        assert stopped_at == saved
        assert log.read_text().strip().endswith("run the same command again to carry on [interrupted]")
        assert "Traceback" not in log.read_text()
    assert hdrfleet_here(*arguments, "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["num_steps_now"] == STEPS - saved
    assert curve(out)["step"] == list(range(1, STEPS + 1))
    assert (out / "hdrunet.safetensors").read_bytes() == (uninterrupted / "hdrunet.safetensors").read_bytes()
    assert curve(out)["loss"] == curve(uninterrupted)["loss"]


@pytest.mark.timeout(120)
def test_a_pool_that_is_being_photographed_can_be_stopped(scenes: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    pool = ("--view-px", "64", "--pool-views", "100000", "--data-workers", "1")
    arguments = ("train", scenes, out, *OPTIONS, *pool, "--executor", "local", "--holdout", scenes / "holdout.txt")
    process = start_hdrfleet(*arguments, home=tmp_path / "home", log=log, env=ONE_THREAD)
    try:
        wait_until(lambda: "photographs of the pool" in log.read_text() or process.poll() is not None, "the first ones")
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    finally:
        process.kill()
        process.wait(20)
    said = log.read_text()
    assert code == 1, said
    assert "of the pool's 100,000 photographs, which are not kept, before the first step" in said
    assert "Traceback" not in said
    assert not saved_steps(out)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_two_workers_on_ray_train_as_one_process_does_even_when_one_is_killed(
    scenes: Path, uninterrupted: Path, tmp_path: Path, ray_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out, saved = tmp_path / "out", list[int]()

    def kill_a_worker() -> None:
        wait_until(lambda: bool(saved_steps(out)), "the first checkpoint", timeout_s=150)
        saved.extend(saved_steps(out))
        workers = descendants(os.getpid(), "RayTrainWorker")
        assert len(workers) == 2
        workers[0].kill()

    with ThreadPoolExecutor(1) as threads:
        killer = threads.submit(kill_a_worker)
        arguments = (*OPTIONS, "--executor", "ray", "--workers", "2", "--holdout", scenes / "holdout.txt")
        assert hdrfleet_here("train", scenes, out, *arguments) == 0
        killer.result()
    assert max(saved) < STEPS, "killed too late to test anything"
    assert "carrying on after step" in capsys.readouterr().err
    here, there = curve(uninterrupted), curve(out)
    assert there["step"] == list(range(1, STEPS + 1))
    # The sums of a batch are made in another order, and forty steps carry that on.
    for name in ("loss", "tanh_l1", "log", "peak", "area", "relative", "hue", "grad_norm", "learning_rate"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-3, err_msg=name)
    one, two = (load_file(folder / "hdrunet.safetensors") for folder in (uninterrupted, out))
    first = starting_network("identity", None, width=8, seed=0).state_dict()
    moved = max(float((one[name] - first[name]).abs().max()) for name in one)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 0.01 * moved
