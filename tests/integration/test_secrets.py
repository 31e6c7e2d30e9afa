"""Secrets are planted wherever a user or a server can put them, and looked for in every byte that a run leaves."""

from __future__ import annotations

import http.server
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import hdrfleet, hdrfleet_here
from photographs import jpeg, picture

from pipeline.config import StorageConfig
from pipeline.manifest import open_manifest
from pipeline.storage import open_store

# All canaries hold this word, so that one search finds each of them, whole or in part.
WORD = "CaNaRy"
ACCESS_KEY, SECRET, TOKEN, PASSWORD, SIGNATURE = (
    f"AKIA{WORD.upper()}234567",
    f"{WORD}/secret+key/0123456789abcdefghijklmn",
    f"{WORD}-session-token//0123456789==",
    f"{WORD}-password",
    f"{WORD}0123456789abcdef",
)
# Google's: an OAuth token, the id of an HMAC key, and a service account's key.
GOOGLE = (
    f"token ya29.{WORD}0123456789, GOOG1E{WORD.upper()}0123456789ABCDEF, "
    f'{{"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE{WORD}\\n-----END PRIVATE KEY-----\\n"}}'
)
USERINFO = f"{WORD}-user:{PASSWORD}@"
QUERY = f"?X-Amz-Credential={ACCESS_KEY}%2F20260101&X-Amz-Security-Token={TOKEN}&X-Amz-Signature={SIGNATURE}"
OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--executor", "local")
QUICK_FAILURE = {"AWS_MAX_ATTEMPTS": "1", "AWS_RETRY_MODE": "standard"}


def is_clean(text: bytes | str) -> bool:
    data = text.encode() if isinstance(text, str) else text
    return WORD.lower().encode() not in data.lower()


def assert_clean(result: subprocess.CompletedProcess[str], *folders: Path) -> None:
    assert is_clean(result.stdout), result.stdout
    assert is_clean(result.stderr), result.stderr
    for folder in folders:
        for path in folder.rglob("*"):
            assert is_clean(str(path.relative_to(folder)))
            assert not path.is_file() or is_clean(path.read_bytes()), path


@pytest.fixture
def bucket(s3_bucket_on: Callable[[Any], Any], moto_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket with three photographs, one of them cut, and an environment full of canaries."""
    made = s3_bucket_on(moto_server)
    photo = jpeg(picture(24, 32))
    for name, data in {"a.jpg": photo, "b.jpg": photo[:300], "c.jpg": jpeg(picture(24, 32, 1))}.items():
        made.client.put_object(Bucket=made.name, Key=f"in/{name}", Body=data)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    return made


@pytest.fixture
def photo_list(bucket: Any) -> str:
    """A list whose entries hold every kind of canary; one of its images is cut, and one is missing."""
    entries = [
        f"s3://{bucket.name}/in/a.jpg{QUERY}",
        f"s3://{ACCESS_KEY}:{SECRET}@{bucket.name}/in/b.jpg",
        f"s3://{USERINFO}{bucket.name}/in/c.jpg{QUERY}",
        f"s3://{USERINFO}{bucket.name}/in/missing.jpg{QUERY}",
    ]
    bucket.client.put_object(Bucket=bucket.name, Key="lists/photos.txt", Body="\n".join(entries).encode())
    return f"s3://{bucket.name}/lists/photos.txt"


def assert_store_clean(dst: str) -> None:
    store = open_store(dst, StorageConfig())
    kept = {info.key: store.read(info.key) for info in store.list()}
    assert {key.partition("/")[0] for key in kept} == {"_hdrfleet", "images", "manifest"}
    for key, data in kept.items():
        assert is_clean(key)
        assert is_clean(data), key
        assert is_clean(str(store.stat(key).metadata))
    # Parquet compresses: what a reader sees is looked at as well.
    assert is_clean(str(open_manifest(store).history.to_pylist()))
    assert is_clean("".join(str(plan) for plan in read_plans(kept)))


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


def read_plans(kept: dict[str, bytes]) -> list[Any]:
    import io

    import pyarrow.parquet as pq

    return [
        pq.read_table(io.BytesIO(data)).to_pylist()
        for key, data in kept.items()
        if key.startswith("_hdrfleet/plan") and key.endswith(".parquet")
    ]


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

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)


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
