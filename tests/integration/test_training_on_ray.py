"""`hdrfleet train` on Ray where its workers find no room, or one of them no data. Lost workers: tests/chaos."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from commands import descendants, hdrfleet_here, wait_until
from one_sided_run import OneSidedJob
from training_runs import HELD_OUT, tiny_config, write_scenes

from jobs import train_placement, train_ray
from pipeline.config import ExecutionConfig
from pipeline.errors import SceneError

OPTIONS = (
    *("--width", "8", "--patch-px", "16", "--view-px", "0", "--batch-size", "2", "--steps", "4", "--device", "cpu"),
    *("--validation-patches", "2", "--precision", "fp32", "--no-plot", "--no-tensorboard", "--executor", "ray"),
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def busy(ray_here: None) -> Iterator[None]:
    """Another job has one of the two cores, and so half of what two workers need."""

    @ray.remote(num_cpus=1)
    class Other:
        def is_there(self) -> bool:
            return True

    wait_until(lambda: ray.available_resources().get("CPU") == 2, "earlier tests' workers are gone", 60)
    other = Other.remote()
    ray.get(other.is_there.remote(), timeout=60)
    yield
    ray.kill(other)


def require_nobody_left() -> None:
    wait_until(lambda: not descendants(os.getpid(), "TrainController"), "Ray Train's controller is gone", 30)
    wait_until(lambda: not descendants(os.getpid(), "RayTrainWorker"), "the workers are gone", 30)


def train(scenes: Path, out: Path, *more: str) -> int:
    return hdrfleet_here("train", scenes, out, *OPTIONS, "--holdout", scenes / "holdout.txt", *more)


def test_a_wait_for_room_is_named_and_the_first_ctrl_c_ends_it(
    scenes: Path, busy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_placement, "SAY_AFTER_S", 5.0)
    monkeypatch.setattr(train_placement, "SAY_EVERY_S", 5.0)
    said: list[str] = []

    def press_ctrl_c() -> None:
        def is_named() -> bool:
            said.append(capfd.readouterr().err)
            return "free are 1 of 2 CPU, room for 1\n" in "".join(said)

        wait_until(is_named, "the wait is named", 120)
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as threads:
        pressed = threads.submit(press_ctrl_c)
        assert train(scenes, tmp_path / "out", "--workers", "2") == 1
        pressed.result()
    text = "".join([*said, capfd.readouterr().err])
    assert "300 s at most: 2 workers ask for 1 CPU each; free are 1 of 2 CPU, room for 1\n" in text
    assert "stopped while the workers were waited for; committed work is kept, run the same command again" in text
    assert "Traceback" not in text
    require_nobody_left()


@pytest.mark.long
def test_a_wait_for_room_ends_and_what_is_free_is_used(
    scenes: Path, busy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        train_ray, "ExecutionConfig", lambda **given: ExecutionConfig(**given, worker_start_timeout_s=8)
    )
    assert train(scenes, tmp_path / "out", "--workers", "2") == 1
    message = capsys.readouterr().err
    assert "the workers did not start within 8 s: 2 workers ask for 1 CPU each; free are 1 of 2 CPU" in message
    require_nobody_left()
    monkeypatch.undo()
    assert train(scenes, tmp_path / "out", "--workers", "1") == 0
    assert (tmp_path / "out" / "hdrunet.safetensors").is_file()


@pytest.mark.long
def test_data_that_one_machine_lacks_end_the_run_at_once(scenes: Path, ray_here: None, tmp_path: Path) -> None:
    """The other worker waits for that one meanwhile, for half an hour if it is let."""
    out = tmp_path / "out"
    out.mkdir()
    job = OneSidedJob(tiny_config(), str(scenes), str(out), holdout=(HELD_OUT,), tensorboard=False)
    with pytest.raises(SceneError, match=r"^on .*/missing: no such folder"):
        train_ray.train_on_ray(
            job, num_workers=2, address=None, max_failures=9, observe=lambda _: None, stop_message="stopping"
        )
    assert sorted((out / "begun").read_text().split()) == ["0", "1"]
    require_nobody_left()
