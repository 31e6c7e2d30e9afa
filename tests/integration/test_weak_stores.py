"""Jobs on stores that do not decide races: declared so, found so after a move, with a job.json that was replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import hdrfleet_here, start_hdrfleet, wait_until
from photographs import jpeg, picture

from jobs.convert import run_conversion
from jobs.progress import ConsoleReporter
from pipeline.config import ConversionConfig, StorageConfig, build_config
from pipeline.errors import DestinationError
from pipeline.job import JOB_KEY, open_job, read_job
from pipeline.storage import open_store
from pipeline.store_verdict import read_verdicts

OPTIONS = ("--executor", "local", "--weights", "identity", "--precision", "fp32", "--device", "cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(picture(16, 16)))
    return folder


def weakness(dst: str | Path) -> str | None:
    record = read_job(open_store(str(dst), StorageConfig()))
    assert record is not None
    return record.store_weakness


def num_epochs(dst: Path) -> int:
    return len(list((dst / "_hdrfleet/lease").iterdir()))


def test_a_store_that_is_declared_weak_is_weak_to_every_command(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dst = tmp_path / "out"
    assert hdrfleet_here("convert", photos, dst, *OPTIONS, "--weak-store") == 0
    assert "declared weak (--weak-store); run one hdrfleet at a time" in capfd.readouterr().err
    assert json.loads((dst / JOB_KEY).read_text())["store_weakness"] == "declared weak (--weak-store)"
    assert hdrfleet_here("convert", photos, dst, *OPTIONS) == 0
    assert "declared weak (--weak-store); run one" in capfd.readouterr().err
    assert num_epochs(dst) == 2
    for command in ("compact", "gc"):
        assert hdrfleet_here(command, dst) == 0
    assert num_epochs(dst) == 4, "upkeep owns what does not decide races"
    assert not (dst / "_hdrfleet/store").exists()


@pytest.mark.timeout(120)
def test_the_second_of_two_drivers_on_a_weak_store_refuses_to_start(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dst, log = tmp_path / "out", tmp_path / "first.log"
    command = ("convert", photos, dst, *OPTIONS, "--weak-store", "--lease-timeout", "3")
    env = {"HDRFLEET_FAULTS": "image.inferred=hang"}
    first = start_hdrfleet(*command, home=tmp_path / "home", log=log, env=env)
    try:
        wait_until((dst / "_hdrfleet/plan/1/plan.json").exists, "the first one is at work", 60)
        capsys.readouterr()
        assert hdrfleet_here(*command) == 2
        assert "destination_in_use" in capsys.readouterr().err
        assert first.poll() is None, log.read_text()
    finally:
        first.kill()
        first.wait(20)
    assert hdrfleet_here(*command) == 0, "the first one has died"


def test_a_job_that_was_strong_can_be_declared_weak(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dst = tmp_path / "out"
    assert hdrfleet_here("convert", photos, dst, *OPTIONS) == 0
    assert weakness(dst) is None
    capfd.readouterr()
    assert hdrfleet_here("convert", photos, dst, *OPTIONS, "--weak-store") == 0
    assert "this is recorded, and its job treats it as weak from now on" in capfd.readouterr().err
    assert weakness(dst) == "declared weak (--weak-store)"
    assert hdrfleet_here("compact", dst) == 0
    assert num_epochs(dst) == 3
    assert hdrfleet_here("verify", dst, "--deep") == 0, "what is recorded is no stranger"


def test_a_copy_is_looked_at_once_at_its_own_place(photos: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "out", tmp_path / "copy"
    assert hdrfleet_here("convert", photos, first, *OPTIONS) == 0
    shutil.copytree(first, second)
    for _ in range(2):
        assert hdrfleet_here("compact", second) == 0
    assert hdrfleet_here("convert", photos, second, *OPTIONS) == 0
    (verdict,) = read_verdicts(open_store(str(second), StorageConfig()))
    assert (verdict.place, verdict.weakness) == (str(second), None)
    assert weakness(second) is None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", ["convert", pytest.param("compact", marks=pytest.mark.long)])
def test_a_job_that_moves_to_swift_becomes_weak(
    command: str,
    s3_bucket_on: Callable[[Any], Any],
    moto_server: Any,
    swift_server: Any,
    photos: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The URL stays, the endpoint is another one."""
    before = s3_bucket_on(moto_server)
    dst = f"{before.url}/out"
    assert hdrfleet_here("convert", photos, dst, *OPTIONS) == 0
    assert weakness(dst) is None
    store = open_store(dst, StorageConfig())
    objects = {info.key: store.read(info.key) for info in store.list()}
    after = s3_bucket_on(swift_server)
    after.client.create_bucket(Bucket=before.name)
    for key, data in objects.items():
        after.client.put_object(Bucket=before.name, Key=f"out/{key}", Body=data)
    assert weakness(dst) is None, "nobody has looked at it yet"
    capfd.readouterr()
    arguments = {"convert": ("convert", photos, dst, *OPTIONS), "compact": ("compact", dst)}
    assert hdrfleet_here(*arguments[command]) == 0
    told = capfd.readouterr().err
    assert "of 8 concurrent creates of one object succeeded; this is recorded" in told
    assert "of 8 concurrent creates of one object succeeded" in (weakness(dst) or "")
    store = open_store(dst, StorageConfig())
    assert len(list(store.list("_hdrfleet/lease"))) == 2, "the command owned the destination"
    assert hdrfleet_here(*arguments[command]) == 0
    assert len(read_verdicts(store)) == 1
    assert "this is recorded" not in capfd.readouterr().err


class RivalCreates(ConsoleReporter):
    """Another driver's job.json arrives when ours is opened and its destination not owned yet."""

    def __init__(self, rival: bytes, dst: str) -> None:
        super().__init__(quiet=True)
        self._rival, self._store = rival, open_store(dst, StorageConfig())
        self.jobs: list[str] = []

    def job(self, job_id: str) -> None:
        self.jobs.append(job_id)
        if len(self.jobs) == 1:
            self._store.replace(JOB_KEY, self._rival)


def config_for(photos: Path, dst: str, pixel_type: str) -> ConversionConfig:
    return build_config(
        source={"url": str(photos)},
        destination={"url": dst, "is_weak": True},
        model={"weights": "identity"},
        encode={"pixel_type": pixel_type},
        inference={"device": "cpu", "precision": "fp32"},
        execution={"executor": "local"},
    )


@pytest.mark.parametrize("pixel_type", ["float", "half"])
def test_a_job_that_was_written_over_before_it_was_owned(photos: Path, tmp_path: Path, pixel_type: str) -> None:
    dst = str(tmp_path / "out")
    ours = config_for(photos, dst, "half")
    rival = open_store(str(tmp_path / "rival"), StorageConfig())
    open_job(
        rival,
        config_for(photos, dst, pixel_type),
        source_root=str(photos),
        weights_name="identity",
        weights_sha256=identity_sha256(),
    )
    raw = rival.read(JOB_KEY)
    reporter = RivalCreates(raw, dst)
    if pixel_type == "half":
        outcome = run_conversion(ours, reporter)
        assert outcome.job_id == json.loads(raw)["job_id"] == reporter.jobs[-1]
        assert len(reporter.jobs) == 2
        return
    with pytest.raises(DestinationError, match="pixel_type is 'float' there and 'half' here"):
        run_conversion(ours, reporter)
    there = {info.key.split("/")[1] for info in open_store(dst, StorageConfig()).list()}
    assert there == {"job.json", "lease"}, "no plan, no output, no row of another job"


def identity_sha256() -> str:
    from pipeline.models.checkpoint import load_weights

    return load_weights("identity", None).sha256
