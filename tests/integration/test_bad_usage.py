"""Bad usage exits with 2 and one line, before any worker starts; scripts can rely on the codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import hdrfleet, hdrfleet_here
from photographs import jpeg, picture, write_library


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(jpeg(picture(16, 16)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("no image")
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{root}/missing", "{root}/out"], "nothing at"),
        (["{root}/empty", "{root}/out"], "no image to convert"),
        (["{root}/texts", "{root}/out"], "without an image's extension"),
        (["{root}/photos", "{root}/photos/out"], "lies inside the source"),
        (["{root}/photos", "{root}"], "lies inside the destination"),
        (["{root}/photos", "{root}/photos"], "are the same place"),
        (["{root}/photos", "{root}/weights.pth/out"], "destination"),
        (["{root}/photos", "{root}/out", "--weights", "{root}/no.pth"], "cannot read weights"),
        (["{root}/photos", "{root}/out", "--weights", "{root}/weights.pth"], "neither a PyTorch nor"),
        (["{root}/photos", "{root}/out", "--weights", "https://me:pw@h/w.pth"], "must not hold credentials"),
        (["{root}/photos", "{root}/out", "--weights", "https://h/w.pth?sig=x"], "cannot have a query"),
        (["{root}/photos", "{root}/out", "--include", "*.png"], "left out by include or exclude"),
        (["{root}/photos", "{root}/out", "--executor", "local", "--workers", "3"], "local executor is one worker"),
        (["{root}/photos", "{root}/out", "--workers", "many"], "--workers: 'many' is neither auto nor"),
        (["{root}/photos", "{root}/out", "--exposure", "nan"], "--exposure: it should be a finite number"),
        (["{root}/photos", "{root}/out", "--max-bytes", "many"], "--max-bytes: 'many' is not a size"),
        (["{root}/photos", "{root}/out", "--deadline", "6h"], "--deadline needs --max-workers"),
        (["{root}/photos", "{root}/out", "--min-workers", "1"], "--min-workers needs --max-workers"),
        (["{root}/photos", "{root}/out", "--max-workers", "0"], "--max-workers: "),
        (["{root}/photos", "{root}/out", "--max-workers", "2", "--deadline", "soon"], "--deadline: 'soon'"),
        (["{root}/photos", "{root}/out", "--max-workers", "2", "--deadline", "0"], "--deadline: "),
        (
            ["{root}/photos", "{root}/out", "--max-workers", "2", "--min-workers", "3"],
            "3 workers at least and 2 at most",
        ),
        (["{root}/photos", "{root}/out", "--max-workers", "2", "--workers", "2"], "drop one of the two"),
        (["{root}/photos", "{root}/out", "--max-workers", "2", "--executor", "local"], "neither scales nor moves"),
        (["{root}/photos", "{root}/out", "--label", "zone=a", "--executor", "local"], "neither scales nor moves"),
        (["{root}/photos", "{root}/out", "--label", "zone"], "--label: 'zone' is no KEY=VALUE"),
        (["{root}/photos", "{root}/out", "--label", "zone=!a"], "--label: zone=!a is no label"),
        (["{root}/photos", "{root}/out", "--label", "zone=a", "--label", "zone=b"], "comes on top of another"),
        (["{root}/photos", "{root}/out", "--fallback-label", "zone=a"], "--fallback-label needs --max-workers"),
        (
            ["{root}/photos", "{root}/out", "--max-workers", "2", "--fallback-label", "zone"],
            "--fallback-label: 'zone' is no KEY=VALUE",
        ),
        (
            ["{root}/photos", "{root}/out", "--max-workers", "2", "--fallback-label", "zone=!a"],
            "--fallback-label: zone=!a is no label",
        ),
        (
            ["{root}/photos", "{root}/out", "--max-workers", "2", "--label", "zone=a", "--fallback-label", "zone=b"],
            "--label, --fallback-label: zone is a for every worker",
        ),
        (["{root}/photos", "{root}/out", "--workers-per-gpu", "0"], "--workers-per-gpu: "),
        (["{root}/photos", "{root}/out", "--workers-per-gpu", "2", "--device", "cpu"], "device cpu for none"),
        (["{root}/photos", "{root}/out", "--accelerator-type", "T4", "--device", "cpu"], "device cpu for none"),
        (["{root}/photos", "{root}/out", "--compression", "b44"], "compression must be"),
        (["{root}/photos", "{root}/out", "--tile-px", "130"], "multiple of 4"),
        (["{root}/photos", "{root}/out", "--device", "cuda", "--executor", "local"], "cuda"),
        (["{root}/photos", "{root}/out", "--memory-budget", "lots"], "is not a size"),
        (["{root}/photos", "{root}/out", "--memory-budget", "70M"], "a tile of 64 px needs"),
        (["{root}/photos", "{root}/out", "--precision", "fp16", "--device", "cpu"], "fp16 needs a GPU"),
        (["{root}/photos", "{root}/out", "--precision", "half"], "--precision: "),
        (["{root}/photos", "{root}/out", "--src-anonymous"], "--src-anonymous: these options are for object stores"),
        (["{root}/photos", "{root}/out", "--dst-region", "eu-west-1"], "are for s3:// URLs"),
        (["{root}/photos", "{root}/out", "--dst-timeout", "5"], "these options are for object stores"),
        (["{root}/photos", "s3://b/out", "--dst-timeout", "0"], "--dst-timeout: "),
        (["s3://b/in", "{root}/out", "--src-timeout", "9999"], "--src-timeout: "),
        (["{root}/photos", "s3://b/out", "--dst-attempts", "21"], "--dst-attempts: "),
        (["s3://b/in", "{root}/out", "--src-attempts", "0"], "--src-attempts: "),
        (["{root}/photos", "ftq://host/out"], "ftq"),
        (["{root}/photos", "{root}/out", "--decode-timeout", "400"], "or --image-timeout at least 800 [bad_config]"),
        (["{root}/photos", "{root}/out", "--decode-timeout", "40", "--image-timeout", "60"], "give at most 30, or"),
        (["{root}/photos", "{root}/out", "--image-timeout", "9000"], "or --shard-timeout more than 9000 [bad_config]"),
        (["{root}/photos", "{root}/out", "--address", "127.0.0.1:1"], "cannot use Ray at 127.0.0.1:1"),
        (["{root}/photos", "{root}/out", "--address", "nonsense"], "is no Ray address"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_usage_is_exit_2_and_says_what_is_wrong(
    photos: Path, tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(root=tmp_path) for argument in arguments]
    assert hdrfleet_here("convert", *filled) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists(), "nothing may be left that binds a later, right command"


def test_the_command_itself_prints_one_line_and_no_traceback(photos: Path, tmp_path: Path) -> None:
    result = hdrfleet("convert", photos, photos / "out", home=tmp_path / "home")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("hdrfleet: ")


def test_a_ray_that_cannot_start_is_said_in_one_line(photos: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 110)  # longer than the name of a socket may be
    deep.mkdir()
    env = {"RAY_TMPDIR": str(deep)}
    result = hdrfleet("convert", photos, tmp_path / "out", "-q", home=tmp_path / "home", env=env)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "cannot use Ray on this machine" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_destination(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert hdrfleet_here("convert", photos, tmp_path / "locked/out") == 2
    assert "destination" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["query", "status"])
def test_a_destination_without_a_job(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hdrfleet_here(command, tmp_path) == 2
    assert "holds no conversion" in capsys.readouterr().err


def test_query_and_status_answer_and_refuse(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = hdrfleet_here(*arguments)
        captured = capsysbinary.readouterr()
        return code, captured.out.decode(), captured.err.decode()

    write_library(tmp_path / "photos", num_photos=2)
    dst = tmp_path / "out"
    code, out, err = run("convert", tmp_path / "photos", dst, "--executor", "local", "--weights", "identity")
    assert code == 3, err
    assert "bad/empty.jpg" in out
    assert "highlights are not reconstructed" in " ".join(err.split())
    sql = "select source, warnings, clipped_fraction from manifest where status = 'failed' order by 1"
    assert run("query", dst, sql, "--format", "csv")[1].splitlines()[1] == '"bad/empty.jpg","",'
    assert json.loads(run("query", dst, sql, "--json")[1])[0]["source"] == "bad/empty.jpg"
    assert "bad/truncated.jpg" in run("query", dst, sql)[1]
    assert "decode_truncated (1)" in run("query", dst)[1]
    failed = json.loads(run("query", dst, "--failed", "--json")[1])
    assert [row["source"] for row in failed] == sorted(row["source"] for row in failed)
    assert {"bad/empty.jpg": "empty", "bad/truncated.jpg": "decode_truncated"}.items() <= {
        row["source"]: row["error_code"] for row in failed
    }.items()
    assert len(failed) == 3
    assert len(run("query", dst, "--failed", "--format", "csv")[1].splitlines()) == 4
    wide = run("query", dst, "select * from manifest")[1].splitlines()
    assert len(wide) == 1 + 8, "piped rows are not wrapped"
    values = json.loads(run("query", dst, "select 'nan'::double as n, 1.5 as x", "--json")[1])
    assert values == [{"n": None, "x": 1.5}]
    assert run("query", dst, sql, "--json", "--format", "csv")[0] == 2
    assert json.loads(run("query", dst, "--json")[1])["num_by_status"] == {"ok": 5, "failed": 3}
    code, _, err = run("query", dst, "copy manifest to '/tmp/x.csv'")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert run("query", dst, "--format", "csv")[0] == 2
    assert run("query", dst, sql, "--format", "xml")[0] == 2
    assert "complete" in run("status", dst)[1]
    status = json.loads(run("status", dst, "--json")[1])
    assert (status["state"], status["num_ok"], status["num_failed"]) == ("complete", 5, 3)


def test_a_query_whose_one_expression_takes_too_long_ends_the_command(tmp_path: Path) -> None:
    """DuckDB looks at interrupts between rows and operators alone: this would compute for many minutes."""
    write_library(tmp_path / "photos", num_photos=1)
    arguments = ("--executor", "local", "--weights", "identity", "--quiet")
    assert hdrfleet_here("convert", tmp_path / "photos", tmp_path / "out", *arguments) == 3
    heavy = "select levenshtein(repeat('a', 400000), repeat('b', 400000)) from manifest"
    result = hdrfleet("query", tmp_path / "out", heavy, "--timeout", "0.5", "--json", home=tmp_path / "home")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "hdrfleet: the query took longer than 0.5 s [bad_query]\n"
