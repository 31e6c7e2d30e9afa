"""Secrets are planted wherever a user or a server can put them, and looked for in every byte that a run leaves."""

from __future__ import annotations

import http.server
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from canaries import (
    ACCESS_KEY,
    GOOGLE,
    QUERY,
    SECRET,
    USERINFO,
    WORD,
    assert_clean,
    assert_store_clean,
    is_clean,
    plant_list,
    plant_photos,
)
from commands import hdrfleet, hdrfleet_here
from photographs import jpeg, picture
from servers.serving import serving

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--executor", "local")
QUICK_FAILURE = {"AWS_MAX_ATTEMPTS": "1", "AWS_RETRY_MODE": "standard"}


@pytest.fixture
def bucket(s3_bucket_on: Callable[[Any], Any], moto_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket with three photographs, one of them cut, and an environment full of canaries."""
    return plant_photos(s3_bucket_on(moto_server), monkeypatch)


@pytest.fixture
def photo_list(bucket: Any) -> str:
    return plant_list(bucket)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("log", ["text", pytest.param("json", marks=pytest.mark.long)])
def test_a_run_with_presigned_urls_and_failures_leaves_no_secret(
    bucket: Any, photo_list: str, tmp_path: Path, log: str
) -> None:
    home, dst, logging = tmp_path / "home", f"s3://{bucket.name}/out", ("--log-format", log)
    result = hdrfleet("convert", photo_list, dst, *OPTIONS, "--json", *logging, home=home)
    assert result.returncode == 3, result.stderr
    assert_clean(result, home)
    codes = sorted(
        str(row["error_code"]) for row in open_manifest(open_store(dst, StorageConfig())).current.to_pylist()
    )
    assert codes == ["None", "None", "decode_truncated", "source_missing"]
    assert_store_clean(dst)
    for command in ("status", "verify", "query"):
        assert_clean(hdrfleet(command, dst, "--json", home=home), home)
    # Something to do for each of those that change the destination.
    bucket.client.delete_object(Bucket=bucket.name, Key=f"out/{first_output(dst)}")
    for command, code in (("retry", 3), ("repair", 0), ("compact", 0), ("gc", 0)):
        result = hdrfleet(command, dst, "--json", *logging, home=home)
        assert result.returncode == code, (command, result.stderr)
        assert_clean(result, home)
    assert_store_clean(dst)


def first_output(dst: str) -> str:
    current = open_manifest(open_store(dst, StorageConfig())).current.to_pylist()
    return str(next(row["output"] for row in current if row["output"]))


@pytest.mark.timeout(400)
def test_a_run_on_ray_leaves_no_secret_in_what_ray_writes(bucket: Any, photo_list: str, tmp_path: Path) -> None:
    """Ray's session is searched as well: the logs of its servers, of workers, and of the driver."""
    home, dst = tmp_path / "home", f"s3://{bucket.name}/out"
    options = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--workers", "1")
    with tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True) as short:  # for the sake of sockets
        env = {"RAY_TMPDIR": short, "AZURE_CLIENT_SECRET": f"{WORD}-azure-secret"}
        result = hdrfleet(
            "convert", photo_list, dst, *options, "--json", "--log-format", "json", home=home, env=env, timeout_s=300
        )
        assert result.returncode == 3, result.stderr
        logs = [path.name for path in Path(short).rglob("*") if path.is_file()]
        assert any(name.startswith("worker-") for name in logs), logs
        assert any(name.startswith("raylet") for name in logs), logs
        assert_clean(result, home, Path(short))
    assert_store_clean(dst)


def test_a_list_of_web_addresses_leaves_no_session_and_no_fragment(
    bucket: Any, echoing_server: str, tmp_path: Path
) -> None:
    """Every server that refuses an image is told of in its row."""
    home, dst, names = tmp_path / "home", tmp_path / "out", tmp_path / "list.txt"
    entries = (f"a.jpg;jsessionid={WORD}#{WORD}", f"b.jpg#{WORD}", f"c.jpg?id=7&token={WORD}&X-Amz-Signature={WORD}")
    names.write_text("".join(f"http://{echoing_server}/{entry}\n" for entry in entries))
    result = hdrfleet("convert", names, dst, *OPTIONS, "--json", home=home)
    assert result.returncode == 3, result.stderr
    assert_clean(result, home, dst)
    rows = open_manifest(open_store(str(dst), StorageConfig())).current.to_pylist()
    assert {row["source"] for row in rows} == {
        f"http://{echoing_server}/{name}" for name in ("a.jpg", "b.jpg", "c.jpg?id=7")
    }
    assert is_clean(str(rows))


@pytest.fixture(scope="module")
def echoing_server() -> Iterator[str]:
    """Refuses every request and echoes what it was sent, as S3 does with a signature that does not match."""

    class Echo(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = "\n".join(f"{name}:{value}" for name, value in self.headers.items())
            body = (
                '<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code>'
                f"<Message>The signature of {ACCESS_KEY} does not match: {sent} {GOOGLE}</Message>"
                f"<AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId><StringToSign>{sent}</StringToSign></Error>"
            ).encode()
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)) as server:
        yield f"127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("SRC", "DST", "--src-endpoint-url", f"http://{USERINFO}SERVER"),
        ("SRC", "DST", "--dst-endpoint-url", f"http://{USERINFO}SERVER"),
        ("SRC", "DST", "--src-endpoint-url", f"{USERINFO}SERVER"),
        ("SRC", "DST", "--dst-endpoint-url", f"{USERINFO}SERVER"),
        ("SRC", "DST", "--dst-endpoint-url", f"//{USERINFO}SERVER"),
        ("SRC", "DST", "--dst-endpoint-url", f"ftp://{USERINFO}SERVER"),
        ("SRC", "DST", "--src-endpoint-url", "http://SERVER"),
        ("photos", "DST", "--dst-endpoint-url", "http://SERVER"),
        (f"s3://{ACCESS_KEY}:{SECRET}@BUCKET/in", "DST"),
        ("SRC", f"s3://{ACCESS_KEY}:{SECRET}@BUCKET/out"),
        (f"http://SERVER/BUCKET/in/a.jpg{QUERY}", "DST"),
        ("SRC", f"http://SERVER/BUCKET/out{QUERY}"),
        ("SRC", "DST", "--weights", f"https://{USERINFO}SERVER/hdrunet.pth"),
        ("SRC", "DST", "--weights", f"http://SERVER/hdrunet.pth{QUERY}"),
        ("SRC", "DST", "--weights", "http://SERVER/hdrunet.pth"),
        ("list.txt", "DST"),
        (f"s3://no-such-bucket/in{QUERY}", "DST"),
    ],
)
def test_no_refusal_repeats_a_secret(
    arguments: tuple[str, ...], bucket: Any, echoing_server: str, tmp_path: Path
) -> None:
    home, photos, names = tmp_path / "home", tmp_path / "photos", tmp_path / "list.txt"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(jpeg(picture(9, 9)))
    names.write_text(f"{photos}/a.jpg\nhttps://{USERINFO}host/b.jpg{QUERY}\n")
    places = {
        "SRC": f"s3://{bucket.name}/in",
        "DST": f"s3://{bucket.name}/out",
        "photos": str(photos),
        "list.txt": str(names),
    }
    given = [
        places.get(argument, argument).replace("SERVER", echoing_server).replace("BUCKET", bucket.name)
        for argument in arguments
    ]
    result = hdrfleet("convert", *given, "--executor", "local", home=home, env=QUICK_FAILURE)
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert_clean(result, home)


def test_an_endpoint_of_the_environment_may_hold_a_password(bucket: Any, echoing_server: str, tmp_path: Path) -> None:
    for host in (echoing_server, "127.0.0.1:9"):
        env = {"AWS_ENDPOINT_URL": f"http://{USERINFO}{host}", **QUICK_FAILURE}
        result = hdrfleet(
            "convert", f"s3://{bucket.name}/in", tmp_path / "out", *OPTIONS, home=tmp_path / "home", env=env
        )
        assert result.returncode == 2, result.stderr
        assert_clean(result, tmp_path)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", pytest.param("AWS_ENDPOINT_URL_S3", marks=pytest.mark.long)])
@pytest.mark.parametrize("command", ["convert", pytest.param("verify", marks=pytest.mark.long)])
def test_an_endpoint_of_the_environment_without_a_scheme_is_refused(
    bucket: Any, tmp_path: Path, variable: str, command: str
) -> None:
    place = f"s3://{bucket.name}/in"
    arguments = (place, tmp_path / "out", *OPTIONS) if command == "convert" else (place,)
    env = {variable: f"{USERINFO}127.0.0.1:9"}
    result = hdrfleet(command, *arguments, home=tmp_path / "home", env=env)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert f"{variable}: an endpoint is a URL that begins with http:// or https://" in line
    assert_clean(result, tmp_path)


@pytest.mark.parametrize("command", ["status", "verify", "query", "retry", "repair", "compact", "gc"])
def test_an_endpoint_without_a_scheme_is_refused_by_every_command(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for endpoint in (f"{USERINFO}127.0.0.1:9", f"//{USERINFO}127.0.0.1:9"):
        assert hdrfleet_here(command, "s3://bucket/out", "--endpoint-url", endpoint) == 2
        told = capfd.readouterr()
        assert "an endpoint is a URL that begins with http:// or https://" in told.err
        assert is_clean(told.err + told.out)


def test_a_profile_whose_endpoint_has_no_scheme_shows_no_password(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared files are botocore's to read, and its message repeats the endpoint."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws/config").write_text(f"[profile odd]\nendpoint_url = {USERINFO}127.0.0.1:9\n")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    result = hdrfleet("verify", f"s3://{bucket.name}/out", "--profile", "odd", home=home, env=QUICK_FAILURE)
    assert result.returncode == 2, result.stderr
    assert_clean(result)
