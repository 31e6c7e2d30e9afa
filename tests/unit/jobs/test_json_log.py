"""The log for machines: every line an object, with what it is about, and without secrets."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import hdrfleet_here
from photographs import jpeg, picture

from jobs.json_log import JsonReporter, json_log
from pipeline.errors import ConfigError
from pipeline.execution.base import Progress
from pipeline.execution.events import returned_event, shard_events, worker_event
from pipeline.execution.leases import Lease
from pipeline.records import ImageFailure, ImageTask, Shard, ShardResult


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_has_time_level_event_and_the_job_once_it_is_known() -> None:
    stream = io.StringIO()
    reporter = JsonReporter(stream)
    reporter.note("plan 1")
    reporter.job("job-1")
    reporter.warn("two\nlines")
    first, second, third = lines(stream.getvalue())
    assert "job_id" not in first
    assert (second["event"], second["job_id"]) == ("job_opened", "job-1")
    assert (third["level"], third["message"]) == ("warning", "two\nlines")
    assert all(line["time"].endswith("+00:00") for line in (first, second, third))


def test_shards_images_and_workers_are_told_by_name() -> None:
    stream = io.StringIO()
    failure = ImageFailure("a/broken.jpg", "decode_corrupt", "no image")
    result = ShardResult(1, 7, 2, True, num_ok=3, num_failed=1, megapixels=1.5, failures=(failure,))
    shard = Shard(1, 8, (ImageTask("b.jpg", "b.jpg", 1, ""),))
    events = (
        worker_event("worker_ready", "worker-1"),
        *shard_events(result, "worker-1"),
        returned_event(Lease(shard, 1, "worker-2"), "ActorDiedError: gone"),
        worker_event("worker_lost", "worker-2", "ActorDiedError: gone"),
    )
    with JsonReporter(stream).watch(4) as watch:
        watch(Progress(num_images=4, num_failed=1, num_workers=2, failed_by_code={"decode_corrupt": 1}, events=events))
    ready, failed, completed, returned, lost, progress = lines(stream.getvalue())
    assert (ready["event"], ready["worker"], ready["level"]) == ("worker_ready", "worker-1", "info")
    assert failed["event"] == "image_failed"
    assert {name: failed[name] for name in ("source", "code", "message", "plan", "shard", "attempt", "worker")} == {
        "source": "a/broken.jpg",
        "code": "decode_corrupt",
        "message": "no image",
        "plan": 1,
        "shard": 7,
        "attempt": 2,
        "worker": "worker-1",
    }
    assert (completed["event"], completed["num_ok"], completed["committed"]) == ("shard_completed", 3, True)
    assert (returned["event"], returned["shard"], returned["level"]) == ("lease_returned", 8, "warning")
    assert (lost["event"], lost["message"]) == ("worker_lost", "ActorDiedError: gone")
    assert (progress["event"], progress["num_images"], progress["failed_by_code"]) == (
        "progress",
        4,
        {"decode_corrupt": 1},
    )


def test_secrets_are_taken_out_of_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very/secret+key")
    stream = io.StringIO()
    reporter = JsonReporter(stream)
    reporter.note("s3://user:very/secret+key@bucket/a.jpg?X-Amz-Signature=feed")
    reporter.event("info", "image_failed", {"source": "https://h/a.jpg?sig=feed", "by": {"token=": "very/secret+key"}})
    assert "secret" not in stream.getvalue()
    assert "feed" not in stream.getvalue()
    assert [line.get("source") for line in lines(stream.getvalue())] == [None, "https://h/a.jpg"]


def test_what_others_print_and_log_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    with json_log():
        sys.stderr.write("stopping\n")
        sys.stdout.write("a remark of a library\n")
        logging.getLogger("somewhere").warning("odd: %s", 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [(line["event"], line["message"]) for line in lines(captured.err)] == [
        ("output", "stopping"),
        ("output", "a remark of a library"),
        ("log", "odd: 3"),
    ]


def test_an_error_is_the_last_line_and_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with json_log(quiet=True) as reporter:
            reporter.note("left out")
            raise ConfigError("--workers must be\nabove 0")

    with pytest.raises(SystemExit) as caught:
        fail()
    assert caught.value.code == 2
    (line,) = lines(capsys.readouterr().err)
    assert (line["level"], line["event"], line["exit_code"]) == ("error", "error", 2)
    assert line["message"] == "--workers must be above 0"


@pytest.mark.parametrize("through", ["option", "environment"])
def test_a_conversion_logs_json_alone_and_leaves_standard_output_to_the_result(
    through: str, tmp_path: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.jpg").write_bytes(jpeg(picture(32, 32)))
    (tmp_path / "in/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    words = ["--executor", "local", "--device", "cpu", "--weights", "identity", "--json"]
    if through == "environment":
        monkeypatch.setenv("HDRFLEET_LOG", "json")
    else:
        words += ["--log-format", "json"]
    assert hdrfleet_here("convert", tmp_path / "in", tmp_path / "out", *words) == 3
    captured = capfd.readouterr()
    logged = lines(captured.err)
    result = json.loads(captured.out)
    by_event = {line["event"]: line for line in logged}
    assert {line["job_id"] for line in logged if line["event"] != "job_opened" and "job_id" in line} == {
        result["job_id"]
    }
    assert by_event["image_failed"]["source"] == "broken.jpg"
    assert by_event["image_failed"]["code"] == result["failures"][0]["error_code"]
    assert by_event["shard_completed"]["num_ok"] == 1
    assert by_event["shard_completed"]["worker"] == "local"
    assert logged[-1]["event"] == "finished"
    assert logged[-1]["exit_code"] == 3


def test_another_log_format_is_refused(tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here("convert", tmp_path, tmp_path / "out", "--log-format", "xml") == 2
    assert capfd.readouterr().err == "hdrfleet: --log-format must be text or json, not 'xml' [bad_config]\n"


@pytest.fixture
def converted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """Two images that were converted and one that cannot be."""
    (tmp_path / "in").mkdir()
    for index in range(2):
        (tmp_path / f"in/{index}.jpg").write_bytes(jpeg(picture(32, 32, seed=index)))
    (tmp_path / "in/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    words = ["--executor", "local", "--device", "cpu", "--weights", "identity", "--shard-images", "1", "--quiet"]
    assert hdrfleet_here("convert", tmp_path / "in", tmp_path / "out", *words) == 3
    capfd.readouterr()
    return tmp_path / "out"


def logged_by(
    capfd: pytest.CaptureFixture[str], command: str, dst: Path, *words: str, code: int = 0
) -> list[dict[str, Any]]:
    """Run a command with `--log-format json`: what it logged, all of it of one job, to its end; its result is JSON."""
    assert hdrfleet_here(command, dst, "--log-format", "json", "--json", *words) == code
    captured = capfd.readouterr()
    json.loads(captured.out)
    logged = lines(captured.err)
    opened = next(index for index, line in enumerate(logged) if line["event"] == "job_opened")
    assert {line["job_id"] for line in logged[opened:]} == {logged[opened]["job_id"]}
    assert (logged[-1]["event"], logged[-1]["exit_code"]) == ("finished", code)
    return logged


def events(logged: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [line for line in logged if line["event"] == name]


def test_a_retry_says_which_images_of_which_shards(converted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logged = logged_by(capfd, "retry", converted, code=3)
    (failed,) = events(logged, "image_failed")
    assert (failed["source"], failed["code"], failed["plan"]) == ("broken.jpg", "decode_truncated", 2)
    assert [(line["plan"], line["shard"]) for line in events(logged, "shard_completed")] == [(2, failed["shard"])]


def test_findings_name_their_image_or_shard_and_a_repair_what_it_did(
    converted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (converted / "images/0.jpg.exr").unlink()
    part = sorted(converted.glob("manifest/plan=1/*.parquet"))[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:100])
    logged = logged_by(capfd, "verify", converted, code=3)
    damaged = next(line for line in events(logged, "finding") if line["code"] == "part_damaged")
    assert (damaged["plan"], damaged["shard"], damaged["level"]) == (1, int(part.stem[6:]), "warning")

    part.write_bytes(whole)
    logged = logged_by(capfd, "verify", converted, code=3)
    (missing,) = events(logged, "finding")
    assert (missing["code"], missing["source"], missing["key"]) == ("output_missing", "0.jpg", "images/0.jpg.exr")
    assert events(logged, "verified")[0]["findings_by_code"] == {"output_missing": 1}

    logged = logged_by(capfd, "repair", converted)
    assert [line["source"] for line in events(logged, "finding")] == ["0.jpg"]
    assert events(logged, "repaired")[0]["num_replaced"] == 1
    assert [line["num_ok"] for line in events(logged, "shard_completed")] == [1]
    before, after = events(logged, "verified")
    assert (before["num_findings"], after["num_findings"]) == (1, 0)
    assert events(logged_by(capfd, "verify", converted), "finding") == []


@pytest.mark.parametrize(("command", "code"), [("verify", 3), ("repair", 0)])
def test_what_the_exr_library_says_of_damage_is_json_too(
    command: str, code: int, converted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for output in converted.glob("images/*.exr"):
        output.write_bytes(output.read_bytes()[: output.stat().st_size // 2])
    said = [
        line["message"]
        for line in events(logged_by(capfd, command, converted, "--sample", "100%", code=code), "output")
    ]
    assert sum("EXR_ERR_BAD_CHUNK_LEADER" in message for message in said) == 2
    assert sum(message.startswith("Warning: Exception raised reading pixel data") for message in said) == 2


def test_upkeep_says_what_it_did(converted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (compacted,) = events(logged_by(capfd, "compact", converted), "compacted")
    assert (compacted["generation"], compacted["num_merged"], compacted["num_rows"]) == (1, 3, 3)
    (collected,) = events(logged_by(capfd, "gc", converted, "--older-than", "0"), "collected")
    assert (collected["num_parts"], collected["num_deleted"], collected["is_dry_run"]) == (3, 3, False)


@pytest.mark.parametrize("command", ["retry", "repair", "verify", "compact", "gc"])
def test_their_errors_and_bad_usage_are_lines_too(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert hdrfleet_here(command, tmp_path, "--log-format", "json") == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    (line,) = lines(captured.err)
    assert (line["event"], line["code"], line["exit_code"]) == ("error", "bad_destination", 2)
    assert hdrfleet_here(command, tmp_path, "--log-format", "xml") == 2
    assert "--log-format must be text or json" in capfd.readouterr().err
