"""A destination verified by tasks of Ray: the same findings as in one process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import hdrfleet_here
from dying_check import DIED, die_once
from photographs import jpeg, picture

from jobs import verify_ray

NUM_PHOTOS = 70  # more than one batch


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    photos, dst = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in range(NUM_PHOTOS):
        (photos / f"{index:02d}.jpg").write_bytes(jpeg(picture(12, 16, seed=index)))
    options = ("--weights", "identity", "--executor", "local", "--device", "cpu", "--quiet")
    assert hdrfleet_here("convert", photos, dst, *options) == 0
    flipped = bytearray((dst / "images/66.jpg.exr").read_bytes())
    flipped[-3] ^= 0xFF
    (dst / "images/66.jpg.exr").write_bytes(flipped)
    (dst / "images/03.jpg.exr").unlink()
    return dst


def verified(capsys: pytest.CaptureFixture[str], dst: Path, *options: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = hdrfleet_here("verify", dst, "--json", "--quiet", *options)
    return code, json.loads(capsys.readouterr().out)


def test_findings_are_those_of_one_process(ray_here: None, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = verified(capsys, damaged, "--deep")
    on_ray = verified(capsys, damaged, "--deep", "--executor", "ray")
    assert here[0] == on_ray[0] == 3
    assert {finding["code"] for finding in here[1]["findings"]} >= {"output_missing", "output_sha256"}
    for report in (here[1], on_ray[1]):
        report["findings"].sort(key=lambda finding: (finding["code"], finding["key"]))
    assert on_ray[1] == here[1]
    assert on_ray[1]["num_decoded"] == NUM_PHOTOS - 1, "one is missing"


def test_a_task_that_is_lost_is_done_again(
    ray_here: None, damaged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = verified(capsys, damaged, "--deep")
    monkeypatch.setattr(verify_ray, "_check_batch", die_once)
    on_ray = verified(capsys, damaged, "--deep", "--executor", "ray")
    assert (damaged.parent / DIED).exists()
    for _, report in (here, on_ray):
        report["findings"].sort(key=lambda finding: (finding["code"], finding["key"]))
    assert on_ray == here


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_a_repair_reads_outputs_where_it_is_told_to(
    ray_here: None,
    damaged: Path,
    is_asked_for: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This process may read none of them: what is found was found by tasks."""
    read_here: list[str] = []

    def look_here(_store: Any, outputs: list[Any], **_options: Any) -> Iterator[Any]:
        read_here.extend(output.key for output in outputs)
        return iter(())

    monkeypatch.setattr("jobs.verify.check_contents", look_here)
    options = ("--executor", "ray") if is_asked_for else ()
    code = hdrfleet_here("repair", damaged, "--json", "--quiet", *options)
    report = json.loads(capsys.readouterr().out)
    found = {(finding["code"], finding["key"]) for finding in report["before"]["findings"]}
    assert ("output_missing", "images/03.jpg.exr") in found, "a listing tells"
    assert (("output_sha256", "images/66.jpg.exr") in found) == is_asked_for
    assert bool(read_here) == (not is_asked_for)
    assert (code, report["num_replaced"], report["after"]["is_sound"]) == (0, 2 if is_asked_for else 1, True)


def test_a_repair_with_an_address_where_no_ray_is_fails_before_work(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = sorted(damaged.rglob("*"))
    for options in (("--executor", "ray", "--address", "127.0.0.1:1"), ("--executor", "local", "--address", "auto")):
        assert hdrfleet_here("repair", damaged, *options) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert sorted(damaged.rglob("*")) == objects


def test_options_that_contradict_each_other_are_refused(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here("verify", damaged, "--address", "auto") == 2
    assert "--address needs --executor ray" in capsys.readouterr().err
    assert hdrfleet_here("verify", damaged, "--executor", "ray", "--address", "127.0.0.1:1") == 2


def test_a_node_that_does_not_see_the_destination_is_no_proof(
    ray_here: None, damaged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk is not mounted there: every output looks missing to the tasks, and is there."""
    import ray

    from jobs.verify_ray import check_on_ray
    from pipeline.config import StorageConfig
    from pipeline.errors import ConfigError
    from pipeline.storage import open_store
    from pipeline.verification.ledger import ExpectedOutput

    class Elsewhere:
        """The driver's view: the same files, under a URL that leads nowhere on the nodes."""

        def __init__(self) -> None:
            self._inner = open_store(str(damaged), StorageConfig())
            self.url = str(damaged.with_name("not-mounted-there"))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    assert ray.is_initialized()
    output = ExpectedOutput("images/05.jpg.exr", 1, "0", 1, 1, False, "0", "0", "0", "05.jpg", 1)
    gone = ExpectedOutput("images/03.jpg.exr", 1, "0", 1, 1, False, "0", "0", "0", "03.jpg", 1)
    store: Any = Elsewhere()
    assert list(check_on_ray(store, [gone], storage=StorageConfig(), on_done=lambda _: None)) == []
    with pytest.raises(ConfigError, match="does not see"):
        list(check_on_ray(store, [gone, output], storage=StorageConfig(), on_done=lambda _: None))


@pytest.mark.timeout(120)
def test_where_no_node_has_a_core_for_a_task_it_is_said_and_not_waited_for(
    ray_here: None, damaged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_ray, "_TASK", replace(verify_ray._TASK, num_cpus=64))
    monkeypatch.setattr(verify_ray, "_IMPOSSIBLE_AFTER_S", 1.0)
    capsys.readouterr()
    assert hdrfleet_here("verify", damaged, "--deep", "--quiet", "--executor", "ray") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "each task asks for 64 CPU, which no node offers and no autoscaler starts; there are: 2 CPU; " in error
    assert error.endswith("verify with --executor local, or start a node [worker_lost]\n")
