"""Options that would change nothing, or that contradict each other, are refused in one line, before anything starts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import hdrfleet_here
from job_records import job_record
from photographs import jpeg, picture

from jobs.option_groups import RecordedOptions
from jobs.retry import recorded_config
from jobs.store_options import heeded, require_heeded, require_heeded_by_source
from pipeline.config import build_config
from pipeline.errors import ConfigError
from pipeline.models.hdrunet import HDRUNet

LOCAL = "these options are for object stores, not for a local path; drop them"
AT = "--address=http://127.0.0.1:1"
HERE = ["--executor", "local"]
# The machine's price is not needed, for there is one.
BUDGET = [
    *("convert", "{root}", "{root}/out", "--max-workers", "2", "--budget", "3"),
    *("--price-per-worker-hour", "1", "--node-type", "g4dn.xlarge", "--spot"),
]
AWS = "a profile and a region are for s3:// URLs; drop them"


@pytest.mark.parametrize("command", ["query", "status", "verify", "retry", "repair", "compact", "gc"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--profile", "me"], f"--profile: {AWS}"),
        (["--region", "eu-west-1"], f"--region: {AWS}"),
        (["--endpoint-url", "http://127.0.0.1:1"], f"--endpoint-url: {LOCAL}"),
    ],
    ids=["profile", "region", "endpoint"],
)
def test_a_destination_in_a_folder_takes_no_options_of_a_bucket(
    command: str, options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hdrfleet_here(command, tmp_path, *options) == 2
    assert capsys.readouterr().err == f"hdrfleet: {says} [bad_config]\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "{root}", "--deep", "--sample", "5%"], "--deep reads all outputs, --sample a share of them"),
        (["query", "{root}", "--timeout", "9"], "--timeout is for SQL"),
        (["query", "{root}", "--format", "csv"], "--format csv needs SQL"),
        (["query", "{root}", "select 1", "--failed"], "--failed is a query of its own"),
        (["status", "{root}", "--address", "http://127.0.0.1:1"], "--address says where to look up a job's id"),
        (["convert", "{root}", "{root}/out", "--src-profile", "me"], f"--src-profile: {AWS}"),
        (["convert", "{root}", "{root}/out", "--dst-profile", "me"], f"--dst-profile: {AWS}"),
        (["convert", "{root}", "file://{root}/out", "--dst-endpoint-url", "http://h"], f"--dst-endpoint-url: {LOCAL}"),
        (["convert", "https://h/a.jpg", "{root}/out", "--src-anonymous"], "--src-anonymous changes nothing about"),
        (["convert", "{root}", "gs://b/out", "--dst-timeout", "5"], "--dst-timeout changes nothing about gs:// URLs"),
        (BUDGET, "--node-type, --prices, --throughput-from and --spot"),
        (["submit", "{root}", "{root}/out", AT, "--src-region", "x"], f"--src-region: {AWS}"),
        (["plan", "{root}", "--src-anonymous"], f"--src-anonymous: {LOCAL}"),
        (["plan", "{root}", "--dst-profile", "me"], "they reach the DST of --throughput-from"),
        (["plan", "{root}", "--dst-profile", "me", "--throughput-from", "{root}"], f"--dst-profile: {AWS}"),
        (["plan", "{root}", "--spot"], "--spot says by which price --max-cost is reckoned"),
        (["plan", "{root}", "--seed", "1", "--sample-headers", "0"], "--seed: without headers nothing is drawn"),
        (["evaluate", "--pairs", "{root}", "--view-px", "64"], "--view-px is about photographs of HDR_FOLDER"),
        (["evaluate", "--pairs", "{root}", "--split", "all"], "--split is about photographs of HDR_FOLDER"),
        (["evaluate", "--pairs", "{root}", "--holdout", "{root}/none"], "--holdout is about photographs of HDR_FOLDER"),
        (["train", "{root}", "{root}/out", *HERE, "--max-failures=1"], "--max-failures: the local executor"),
        (["train", "{root}", "{root}/out", *HERE, "--profile", "me"], f"--profile: {AWS}"),
        (["node-agent", "--now", "--rebalance"], "--rebalance is about notices, for which --now does not ask"),
        (["node-agent", "--now", "--interval", "1s"], "--interval is about notices, for which --now does not ask"),
        (["node-agent", "--cloud", "gcp", "--rebalance"], "--rebalance is about AWS, --cloud gcp is not"),
        (["node-agent", "--cloud", "none", "--metadata-url", "http://h"], "--metadata-url: --cloud none asks nobody"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hdrfleet_here(*(argument.format(root=tmp_path) for argument in arguments)) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert err.endswith(" [bad_config]\n")
    assert not (tmp_path / "out").exists()


def test_an_address_in_the_environment_is_for_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert hdrfleet_here("status", tmp_path) == 2
    assert "holds no conversion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("/folder", {"max_attempts": 2}),
        ("s3://b/p", {"profile": "me", "requester_pays": True, "read_timeout_s": 5.0}),
        ("S3://b/p", {"region": "x"}),
        ("gs://b/p", {"endpoint_url": "http://h", "anonymous": True}),
        ("az://c/p", {"anonymous": True}),
        ("https://h/p", {"read_timeout_s": 5.0, "connect_timeout_s": 5.0, "max_attempts": 1}),
        ("sftp://h/p", {"max_attempts": 1}),
    ],
)
def test_what_a_store_heeds_is_taken(url: str, fields: dict[str, object]) -> None:
    require_heeded(url, fields)
    assert heeded(url, fields | {"nonsense": 1}) == fields


def test_what_a_list_names_may_lie_in_a_bucket() -> None:
    require_heeded_by_source("/photos/wanted.csv", {"profile": "me"})
    require_heeded_by_source("/inventory/manifest.json", {"anonymous": True})
    with pytest.raises(ConfigError, match="--src-profile"):
        require_heeded_by_source("/photos/*.jpg", {"profile": "me"})


def test_a_destination_that_was_copied_into_a_folder_needs_no_time_outs() -> None:
    """Those that its job recorded were for a bucket, and nobody gave them now."""
    config = build_config(
        source={"url": "s3://b/in"},
        destination={"url": "s3://b/out", "storage": {"read_timeout_s": 5.0, "max_attempts": 3}},
    )
    record = job_record(config)
    found = recorded_config(record, "/copy", {}, {}, **RecordedOptions().changes()).destination.storage
    assert (found.read_timeout_s, found.max_attempts) == (60.0, 3)


@pytest.fixture
def converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.jpg").write_bytes(jpeg(picture(32, 32)))
    words = ["--executor", "local", "--device", "cpu", "--weights", "identity", "--quiet"]
    assert hdrfleet_here("convert", tmp_path / "in", tmp_path / "out", *words) == 0
    torch.save(HDRUNet(nf=2).state_dict(), tmp_path / "other.pth")
    capsys.readouterr()
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_damaged", [False, True], ids=["sound", "damaged"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--weights", "{root}/nope.pth"], "cannot read weights"),
        (["--weights", "{root}/in/0.jpg"], "0.jpg"),
        (["--weights", "{root}/other.pth"], "belongs to another job: weights are identity"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--precision", "fp16", "--device", "cpu"], "fp16 needs a GPU"),
        (["--src-profile", "me"], f"--src-profile: {AWS}"),
    ],
    ids=lambda value: value[0] + value[1][-9:] if isinstance(value, list) else "",
)
def test_a_repair_looks_at_what_it_is_given_before_it_verifies(
    options: list[str], says: str, is_damaged: bool, converted: Path, capsys: Any
) -> None:
    if is_damaged:
        (converted / "out/images/0.jpg.exr").write_bytes(b"damaged")
    before = contents(converted / "out")
    assert hdrfleet_here("repair", converted / "out", *(word.format(root=converted) for word in options)) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert contents(converted / "out") == before, "nothing was looked at, recorded or made"
