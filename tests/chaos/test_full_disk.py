"""The destination's disk fills up in the middle of a job: it stops in one line, and goes on once there is room."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import hdrfleet, hdrfleet_here
from fakes import tiny_network
from photographs import jpeg, picture

from pipeline.codecs.exr import decode_exr
from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.manifest.parts import read_part
from pipeline.storage import open_store
from pipeline.storage.durable import TEMP_PREFIX

NUM_PHOTOS = 24
SHARD_IMAGES = 2
SIDE_PX = 160
NUM_ENCODE_THREADS = 2

# An EXR takes about 100 KiB: a few shards fit at first, and later everything does.
SMALL, LARGE = "1m", "32m"
MOUNT_WITHIN_S = 20

# An image takes well under a second, and a start a few; the rest is for a busy machine.
EXIT_WITHIN_S = 90


class SmallDisk:
    """A tmpfs of a given size, mounted where only a shell of ours sees it: it goes with that process.

    Others reach `folder` through the process. Skips where neither root nor user namespaces allow a mount.
    """

    def __init__(self, mount_point: Path, size: str) -> None:
        mount_point.mkdir()
        self._mount_point = mount_point
        if shutil.which("unshare") is None:
            pytest.skip("a small disk needs `unshare` of util-linux")
        unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
        self._shell = subprocess.Popen(
            [*unshare, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.folder = Path(f"/proc/{self._shell.pid}/root{mount_point}")
        answer = self._mount("-t tmpfs", size)
        if answer != "mounted":
            self.close()
            pytest.skip(f"a small disk cannot be mounted here, neither as root nor in a user namespace: {answer}")

    def grow(self, size: str) -> None:
        answer = self._mount("-t tmpfs -o remount", size)
        assert answer == "mounted", answer

    def close(self) -> None:
        self._shell.kill()
        self._shell.communicate(timeout=MOUNT_WITHIN_S)

    def _mount(self, options: str, size: str) -> str:
        """Let the shell mount, and return the first line that it says."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        try:
            command = f"mount {options} -o size={size} hdrfleet-test '{self._mount_point}' && echo mounted\n"
            self._shell.stdin.write(command)
            self._shell.stdin.flush()
        except BrokenPipeError:
            return "unshare failed"
        ready, _, _ = select.select([self._shell.stdout], [], [], MOUNT_WITHIN_S)
        return self._shell.stdout.readline().strip() if ready else "no answer"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path / "disk", SMALL)
    yield made
    made.close()


@pytest.fixture
def command(tmp_path: Path, disk: SmallDisk) -> list[str]:
    """The conversion of a folder of photographs to the small disk, with a narrow network: the disk is the subject."""
    import torch

    (tmp_path / "photos").mkdir()
    for index in range(NUM_PHOTOS):
        (tmp_path / "photos" / f"{index:02d}.jpg").write_bytes(jpeg(picture(SIDE_PX, SIDE_PX, seed=index)))
    weights = tmp_path / "tiny.pth"
    torch.save(tiny_network().state_dict(), weights)
    return [
        "convert", str(tmp_path / "photos"), str(disk.folder / "out"), "--weights", str(weights), "--shard-images",
        str(SHARD_IMAGES), "--precision", "fp32", "--device", "cpu", "--quiet",
    ]  # fmt: skip


def outputs(dst: Path) -> dict[Path, tuple[bytes, int]]:
    """Bytes and time of writing of every finished file: EXRs and parts."""
    files = [*dst.rglob("*.exr"), *dst.rglob("shard-*.parquet")]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def temporary_files(dst: Path) -> list[Path]:
    return list(dst.rglob(f"{TEMP_PREFIX}*"))


def assert_whole(dst: Path) -> int:
    """Every file can be read, and every row is that of an image that is there. Returns the number of rows."""
    for path, (data, _) in outputs(dst).items():
        if path.suffix == ".exr":
            assert decode_exr(data).image.pixels.shape == (SIDE_PX, SIDE_PX, 3)
        else:
            assert read_part(data, path.relative_to(dst).as_posix()).rows.num_rows == SHARD_IMAGES
    rows = open_manifest(open_store(str(dst), StorageConfig())).history.to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    assert set(Counter(row["source"] for row in rows).values()) == {1}
    assert all((dst / row["output"]).is_file() for row in rows)
    return len(rows)


def assert_stopped(code: int, said: str, dst: Path) -> None:
    assert code == 1, said
    (message,) = said.splitlines()
    assert message.startswith(f"hdrfleet: {dst}/")
    assert "No space left on device" in message
    assert message.endswith("committed work is kept, run the same command again once this is mended [disk_full]")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.long)])
def test_a_full_disk_stops_the_job_and_room_finishes_it(
    executor: str, disk: SmallDisk, command: list[str], tmp_path: Path, request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    dst = disk.folder / "out"
    command += ["--executor", executor]

    def run_here() -> tuple[int, str]:
        code = hdrfleet_here(*command)
        return code, capfd.readouterr().err

    def run_apart() -> tuple[int, str]:
        result = hdrfleet(*command, home=tmp_path / "home", timeout_s=EXIT_WITHIN_S)
        return result.returncode, result.stderr

    if executor == "ray":
        request.getfixturevalue("ray_here")  # saves three starts of Ray
        capfd.readouterr()
    first: Callable[[], tuple[int, str]] = run_apart if executor == "local" else run_here

    assert_stopped(*first(), dst)
    num_rows = assert_whole(dst)
    assert SHARD_IMAGES <= num_rows < NUM_PHOTOS
    # Threads end their writes and clean up; a worker of Ray is killed, and may leave what it was writing just then.
    assert len(temporary_files(dst)) <= (NUM_ENCODE_THREADS if executor == "ray" else 0)
    before = outputs(dst)

    # Without more room it stops again, and harms nothing.
    assert_stopped(*run_here(), dst)
    assert before.items() <= outputs(dst).items()
    before = outputs(dst)

    disk.grow(LARGE)
    assert run_here()[0] == 0
    assert assert_whole(dst) == NUM_PHOTOS
    assert {path.name for path in dst.rglob("*.exr")} == {f"{index:02d}.jpg.exr" for index in range(NUM_PHOTOS)}
    assert before.items() <= outputs(dst).items()


@pytest.mark.timeout(240)
def test_a_disk_that_is_full_from_the_start_is_refused(
    disk: SmallDisk, command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    filler = disk.folder / "filler"
    room = os.statvfs(disk.folder)
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize))
    command += ["--executor", "local"]
    assert hdrfleet_here(*command) == 2
    (message,) = capfd.readouterr().err.splitlines()
    assert message.startswith("hdrfleet: cannot use the destination: ")
    assert "No space left on device" in message
    filler.unlink()
    disk.grow(LARGE)
    assert hdrfleet_here(*command) == 0
    assert assert_whole(disk.folder / "out") == NUM_PHOTOS
