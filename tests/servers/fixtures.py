"""Fixtures of the tiers that need S3: servers on loopback, a fresh bucket on each, and a proxy that breaks things."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers.expiring_keys import ExpiringKeys, MotoKeys, SwiftKeys, s3_client
from servers.ports import free_ports

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

REPOSITORY = Path(__file__).resolve().parents[2]
SWIFT_SCRIPT = REPOSITORY / "tests" / "servers" / "swift-s3"
SWIFT_VENV = REPOSITORY / ".cache" / "swift" / "venv"

# The first test on Swift may have to install it.
SWIFT_TIMEOUT_S = 600
SWIFT_INSTALL_TIMEOUT_S = 400
SWIFT_START_TIMEOUT_S = 60


@dataclass(frozen=True)
class S3Server:
    """A running S3 endpoint and the credentials it takes. `checks_secrets`: a wrong secret is refused."""

    name: str
    endpoint_url: str
    access_key: str
    secret_key: str
    region: str
    checks_secrets: bool


@dataclass(frozen=True)
class S3Bucket:
    """An empty bucket. `client` is a boto3 client that is independent of the code under test."""

    name: str
    server: S3Server
    client: Any

    @property
    def url(self) -> str:
        return f"s3://{self.name}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests on S3 servers time for the installation of Swift, unless they set their own limit."""
    for item in items:
        parameters = (
            item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        )
        on_swift = any(isinstance(parameter, str) and parameter == "swift" for parameter in parameters)
        if on_swift or "swift_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(SWIFT_TIMEOUT_S))


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """moto's S3 in a thread of this process: decides races between conditional PUTs, accepts any secret."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    assert server._server is not None
    server._server.app = _one_condition_at_a_time(server._server.app)
    host, port = server.get_host_and_port()
    yield S3Server("moto", f"http://{host}:{port}", "moto-access-key", "moto-secret-key", "us-east-1", False)
    server.stop()


@pytest.fixture(scope="session")
def swift_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where Swift keeps data, configuration and logs."""
    folder = _folder_with_attributes(tmp_path_factory)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def swift_server(swift_folder: Path) -> Iterator[S3Server]:
    """OpenStack Swift with s3api, a real S3 server: checks secrets, but races of conditional PUTs can have two winners.

    Installed once into `.cache/swift/venv`. Skips where no package index, no bash or no extended attributes are at
    hand.
    """
    _install_swift()
    port = free_ports(4)[0]
    command = [SWIFT_SCRIPT, "run", SWIFT_VENV, swift_folder, str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/info", process)
        yield S3Server("swift", f"http://127.0.0.1:{port}", "test:tester", "testing", "us-east-1", True)
    finally:
        process.terminate()  # the script stops its four servers
        process.wait(30)


@pytest.fixture(params=["moto", "swift"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each S3 server in turn; one of them with `@pytest.mark.parametrize("s3_server", ["moto"], indirect=True)`."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def s3_bucket_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[S3Server], S3Bucket]:
    """Make a fresh bucket with a random name on a server, and point the AWS environment of this process there.

    Child processes inherit that environment; no other AWS setting is left, and HOME is an empty folder.
    """

    def make(server: S3Server) -> S3Bucket:
        import boto3
        from botocore.config import Config

        for variable in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(variable)
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        monkeypatch.setenv("AWS_REGION", server.region)
        monkeypatch.setenv("AWS_DEFAULT_REGION", server.region)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
        config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
        client = boto3.Session().client("s3", region_name=server.region, config=config)
        name = f"test-{secrets.token_hex(6)}"
        client.create_bucket(Bucket=name)
        return S3Bucket(name, server, client)

    return make


@pytest.fixture
def s3_bucket(s3_server: S3Server, s3_bucket_on: Callable[[S3Server], S3Bucket]) -> S3Bucket:
    """A fresh bucket on each S3 server in turn, and the environment that reaches it (see `s3_bucket_on`)."""
    return s3_bucket_on(s3_server)


@pytest.fixture
def expiring_keys(request: pytest.FixtureRequest) -> Iterator[ExpiringKeys]:
    """Keys of the users `reader` and `writer` on the server that the parameter names, `moto` or `swift`."""
    users = ("reader", "writer")
    keys: ExpiringKeys
    if request.param == "moto":
        moto = request.getfixturevalue("moto_server")
        keys = MotoKeys(moto.endpoint_url, moto.region, users)
    else:
        swift, folder = request.getfixturevalue("swift_server"), request.getfixturevalue("swift_folder")
        client = s3_client(swift.endpoint_url, swift.access_key, swift.secret_key, region=swift.region)
        keys = SwiftKeys(SWIFT_SCRIPT, SWIFT_VENV, folder, free_ports(1)[0], client, users)
    yield keys
    keys.close()


def _one_condition_at_a_time(app: WSGIApplication) -> WSGIApplication:
    """S3 decides races of conditional PUTs; moto looks first and writes then, and two threads of it may both win."""
    lock = threading.Lock()

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with lock if "HTTP_IF_NONE_MATCH" in environ else contextlib.nullcontext():
            return app(environ, start_response)

    return call


def _install_swift() -> None:
    if not shutil.which("bash"):
        pytest.skip("Swift's start script needs bash")
    command = [SWIFT_SCRIPT, "install", SWIFT_VENV]
    environment = {**os.environ, "PYTHON": sys.executable}
    SWIFT_VENV.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (SWIFT_VENV.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one of the processes that share the tests; its own time limit ends it
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SWIFT_INSTALL_TIMEOUT_S, env=environment, check=False
            )
    except subprocess.TimeoutExpired:
        pytest.skip(f"Swift could not be installed within {SWIFT_INSTALL_TIMEOUT_S} s")
    if done.returncode:
        pytest.skip(f"Swift could not be installed, is there a package index? {done.stderr.strip()[-300:]}")


def _folder_with_attributes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = SWIFT_VENV.parent
    cache.mkdir(parents=True, exist_ok=True)
    for folder in (tmp_path_factory.mktemp("swift"), cache / f"data-{os.getpid()}"):
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            os.setxattr(folder, "user.hdrfleet", b"1")
            return folder
        shutil.rmtree(folder)
    pytest.skip("Swift keeps metadata in extended attributes, which this file system lacks")


def _wait_until_up(url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SWIFT_START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    process.terminate()
    pytest.fail(f"Swift did not answer at {url}: {process.communicate(timeout=30)[1]}")
