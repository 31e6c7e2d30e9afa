"""Broken commands of a RayJob: what `hdrfleet convert` does not take, and exit codes that KubeRay takes amiss."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_files import KUBERAY, found_in_copy, set_to

from jobs.cluster.validate import validate_file

JOB = KUBERAY / "rayjob.yaml"
CONVERT = "hdrfleet convert s3://a/b s3://c/d --address auto --device cuda --max-workers 8"
CASE = "case $? in 3|4) ;; *) exit 1 ;; esac"


def found(command: str, tmp_path: Path) -> list[tuple[str, str]]:
    return found_in_copy(JOB, tmp_path, set_to(command, "spec", "entrypoint"))


@pytest.mark.parametrize(
    "options",
    [
        "--compresion zip",
        "--compression b44",
        "--compression",
        "--max-workers many",
        "--label spot",
        "--max-cost -1",
        "s3://e",
        "--help",
    ],
)
@pytest.mark.parametrize("wrapped", ["{0} || {1}", "bash -c '{0} || {1}'", "/bin/sh -ec '\\\n{0} \\\n|| {1}\n'"])
def test_what_the_command_does_not_take_is_found(options: str, wrapped: str, tmp_path: Path) -> None:
    assert found(wrapped.format(f"{CONVERT} {options}", CASE), tmp_path) == [("spec.entrypoint", "bad_command")]


def test_the_command_says_itself_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / JOB.name
    path.write_text(JOB.read_text().replace("--max-workers 32", "--max-workers 32 --compresion zip"))
    (finding,) = validate_file(path, []).findings
    assert "No such option: --compresion" in finding.message


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (CONVERT, "needless_retry"),
        (f"bash -c '{CONVERT} --quiet'", "needless_retry"),
        (f"{CONVERT} || case $? in 2) ;; *) exit 1 ;; esac", "needless_retry"),
        (f"{CONVERT} --budget 5 --price-per-worker-hour 1 || case $? in 3) ;; *) exit 1 ;; esac", "needless_retry"),
        (f"{CONVERT} || true", "no_retry"),
        (f"{CONVERT} || exit 0", "no_retry"),
        (f"bash -c '{CONVERT}; echo done'", "no_retry"),
    ],
)
def test_exit_code_that_is_taken_amiss_is_found(command: str, code: str, tmp_path: Path) -> None:
    assert found(command, tmp_path) == [("spec.entrypoint", code)]


@pytest.mark.parametrize(
    "command",
    [
        f"{CONVERT} || {CASE}",
        f"{CONVERT} --compression dwaa:45 --exclude '*.tif; x' --label a=b || {CASE}",
        f"{CONVERT} --compression $KIND --limit `cat n` || {CASE}",
        f"{CONVERT} || case $? in 3) ;; *) exit 1 ;; esac",
        f"{CONVERT} --budget 5 --node-type g6.2xlarge --prices /in/the/image.toml || {CASE}",
        f"bash -c '{CONVERT}; case $? in 0|3|4) ;; *) exit 1 ;; esac'",
        f"bash -c '{CONVERT}; r=$?; [ $r = 3 ] || [ $r = 4 ] || exit $r'",
    ],
)
def test_command_that_is_taken_is_sound(command: str, tmp_path: Path) -> None:
    assert found(command, tmp_path) == []


def test_without_another_try_there_is_none_too_many(tmp_path: Path) -> None:
    breaks = set_to(CONVERT, "spec", "entrypoint"), set_to(0, "spec", "backoffLimit")
    assert found_in_copy(JOB, tmp_path, *breaks) == [("spec.backoffLimit", "no_retry")]
