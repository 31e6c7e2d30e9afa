"""Job servers that are none, or fall silent: one line each time, and no other cluster than the one that was named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest
from commands import hdrfleet_here
from photographs import jpeg, picture
from servers.job_server import VERSION, Server
from servers.ports import free_ports

import jobs.submission
from jobs.submission import JobServer, job_id

ID = job_id("s3://b/out", 1)
RUNNING = {
    "type": "SUBMISSION",
    "submission_id": ID,
    "status": "RUNNING",
    "entrypoint": "x",
    "metadata": {"hdrfleet_src": "s3://b/in", "hdrfleet_dst": "s3://b/out"},
}
ON_G6 = ("s3://b/in", "s3://b/out", "--max-cost", "5", "--node-type", "g6.2xlarge")
AT_A = ("--src-endpoint-url", "http://a.example.com")
TRACE = "Traceback (most recent call last):\n  File x, line 1\nValueError: the reason"

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:
        yield lambda **answers: stack.enter_context(
            Server({"/api/version": (200, VERSION)} | {f"/api/{path}": answer for path, answer in answers.items()})
        )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(jpeg(picture(16, 16)))
    table = (files("jobs") / "data/node_types.toml").read_text().splitlines(keepends=True)
    (tmp_path / "no-spot.toml").write_text("".join(line for line in table if not line.startswith("spot_price")))
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"version": (200, '{"other": 1}')}, "does not answer as Ray's job server does"),
        ({"version": (200, "[1, 2]")}, "does not answer as Ray's job server does"),
        ({"version": (200, "<html>")}, "does not answer as Ray's job server does"),
        ({"version": (200, '{"ray_version": "x"}')}, "does not answer as Ray's job server does"),
        ({"version": (500, TRACE)}, "500 Server Error"),
        ({"version": (404, "")}, "Version check returned 404"),
        ({"jobs/": (200, "null")}, "does not answer as Ray's job server does"),
        ({"jobs/": (200, "[1]")}, "does not answer as Ray's job server does"),
        ({"jobs/": (200, '[{"a": 1}]')}, "does not answer as Ray's job server does"),
        ({"jobs/": (200, "no JSON")}, "does not answer as Ray's job server does"),
        ({"jobs/": (500, TRACE)}, "ValueError: the reason"),
        ({"jobs/": (403, "no")}, "refused us: "),
    ],
)
@pytest.mark.parametrize("command", ["jobs", "submit", "stop"])
def test_a_server_that_is_none_is_said_in_one_line(
    serve: Callable[..., Server],
    photos: Path,
    answers: dict[str, tuple[int, str]],
    says: str,
    command: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"jobs": ["jobs"], "submit": ["submit", photos, photos.parent / "out"], "stop": ["stop", "s3://b/out"]}
    assert hdrfleet_here(*words[command], "--address", serve(**answers).url) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.parametrize("variable", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_the_address_that_was_given_is_the_one_that_is_asked(
    serve: Callable[..., Server], variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's client prefers the environment: it would stop a job on another cluster than the one that was named."""
    meant = serve(**{"jobs/": (200, "[]")})
    other = serve(**{"jobs/": (200, "[]")})
    monkeypatch.setenv(variable, other.url)
    assert hdrfleet_here("jobs", "--address", meant.url, "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert "/api/jobs/" in meant.asked
    assert other.asked == []


def test_a_server_that_falls_silent_is_not_waited_for_without_end(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs.submission, "SILENCE_S", 0.2)
    server = serve(**{"jobs/": (200, json.dumps([RUNNING])), f"jobs/{ID}": (200, json.dumps(RUNNING))})
    asked = 0

    def write(text: str) -> None:
        nonlocal asked
        assert text == "one word\n"
        asked = len(server.asked)
        server.answers[f"/api/jobs/{ID}"] = (503, "gone")

    following = JobServer(server.url)
    job = following.find(ID)
    monkeypatch.setattr("sys.stdout", Written(write))
    assert hdrfleet_here("logs", "-f", ID, "--address", server.url) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "gone" in line
    assert f"{job.id} may go on" in line
    assert "[lost_sight]" in line
    assert len(server.asked) > asked


def test_a_job_that_ended_while_its_log_was_silent_is_no_loss(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.submission, "SILENCE_S", 0.2)
    ended = RUNNING | {"status": "SUCCEEDED", "driver_exit_code": 3}
    server = serve(**{f"jobs/{ID}": (200, json.dumps(RUNNING))})
    following = JobServer(server.url)
    job = following.find(ID)

    def write(text: str) -> None:
        server.answers[f"/api/jobs/{ID}"] = (200, json.dumps(ended))

    assert following.follow(job, write).exit_code == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{photos}", ""], "DST is empty; give one"),
        (["{photos}", "s3://"], "an S3 URL has the form"),
        (["{photos}", "ftq://h/out"], "ftq"),
        (["{photos}", "{photos}"], "SRC is DST or lies inside it"),
        (["{photos}/a", "{photos}"], "SRC is DST or lies inside it"),
        (["s3://b/in", "s3://b"], "SRC is DST or lies inside it"),
        (["s3://b", "s3a://b", *AT_A, "--dst-endpoint-url", "http://A.example.com/"], "SRC is DST or lies inside it"),
        (["https://h/l.csv?X-Amz-Signature=abcdef", "s3://b/out"], "SRC: holds a signature"),
        (["s3://b/in", "s3://b/out", "--weights", "https://h/w.pth?sig=abc"], "--weights: holds a signature"),
        (["s3://b/in", "s3://b/out", "--weights", "https://h/w.pth?v=1"], "a weights URL cannot have a query"),
        (["s3://b/in", "s3://b/out", "--json", "--follow"], "--json and --follow contradict each other"),
        (["s3://b/in", "s3://b/out", "--log-format", "xml"], "--log-format must be text or json"),
        (["s3://b/in", "s3://b/out", "--max-cost", "5"], "--max-cost needs --node-type"),
        (["s3://b/in", "s3://b/out", "--node-type", "x"], "give it, too"),
        (["s3://b/in", "s3://b/out", "--max-workers", "2", "--budget", "5"], "--budget needs a price"),
        ([*ON_G6, "--throughput-from", "s3://b/old?X-Amz-Signature=abcdef"], "--throughput-from: holds a signature"),
        ([*ON_G6, "--throughput-from", "s3://me:secret@b/old"], "--throughput-from: holds a signature or a key"),
        (["s3://b/in", "s3://b/out", "--src-endpoint-url", "http://me:secret@h"], "must not hold credentials"),
        (["s3://b/in", "s3://b/out", "--max-cost", "5", "--node-type", "x"], "--node-type x: not in the table"),
        (["s3://b/in", "s3://b/out", "--max-cost", "5", "--node-type", "x", "--prices", "none"], "--prices none: "),
        ([*ON_G6, "--prices", "{photos}/../no-spot.toml", "--spot"], "g6.2xlarge has no spot price"),
        (["s3://b/in", "s3://b/out", "--address", "http://a:b@h"], "must not hold credentials"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_usage_is_said_before_anything_is_sent(
    serve: Callable[..., Server], photos: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve()
    filled = [word.format(photos=photos) for word in words]
    given = [] if "--address" in filled else ["--address", server.url]
    assert hdrfleet_here("submit", *filled, *given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert server.asked == []


def test_local_files_go_along_and_are_part_of_what_the_conversion_is(
    serve: Callable[..., Server], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dst = str(tmp_path / "out")
    new = job_id(dst, 1)
    weights, prices = tmp_path / "identity", tmp_path / "mine.toml"  # a file's name may be that of a built-in
    prices.write_bytes((files("jobs") / "data/node_types.toml").read_bytes())
    cost = ("--max-cost", "9", "--node-type", "g6.2xlarge", "--prices", prices)
    cost = (*cost, "--max-workers", "2", "--budget", "5")
    digests = []
    for content in (b"some", b"others", b"some"):
        weights.write_bytes(content)
        server = serve(**{"jobs/": (200, "[]"), f"jobs/{new}": (200, json.dumps(RUNNING | {"submission_id": new}))})
        server.when_posted["/api/jobs/"] = json.dumps({"job_id": new, "submission_id": new})
        words = ("submit", photos, dst, "--weights", weights, *cost, "--log-format", "json", "--address", server.url)
        assert hdrfleet_here(*words) == 0, capsys.readouterr().err
        sent = json.loads(server.got["/api/jobs/"])
        digests.append(sent["metadata"]["hdrfleet_command_sha256"])
        command = sent["entrypoint"].split()
        assert {"--weights=weights/identity", "--prices=prices/mine.toml", "--log-format=json"} <= set(command)
        assert {"--max-cost=9.0", "--node-type=g6.2xlarge", "--budget=5.0"} <= set(command)
        assert any(word.startswith("--price-per-worker-hour=0.") for word in command), "reckoned here"
        (package,) = [body for path, body in server.got.items() if path.startswith("/api/packages/")]
        with ZipFile(BytesIO(package)) as archive:
            assert archive.read("weights/identity") == content
            assert archive.read("prices/mine.toml") == prices.read_bytes()
            assert {"pipeline/__init__.py", "jobs/supervise.py"} <= set(archive.namelist())
    assert digests[0] == digests[2] != digests[1]


def test_where_the_cluster_is_gone_status_asks_for_the_destination(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert hdrfleet_here("status", ID, "--address", f"http://127.0.0.1:{port}") == 2
    assert "; given the job's DST instead of its id, this needs no cluster [job_server]" in capsys.readouterr().err


SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAVERYSECRETKEYID1",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-canary",
    "AWS_SESSION_TOKEN": "aws-session-canary",
    "AZURE_STORAGE_ACCOUNT_KEY": "azure-key-canary",
    "GOOGLE_API_KEY": "google-key-canary",
    "HDRFLEET_DESTINATION__STORAGE__SECRET": "our-own-canary",
}


@pytest.mark.parametrize("place", [(), ("--use-image",)], ids=["packaged", "of the image"])
def test_no_credential_of_this_machine_is_sent(
    serve: Callable[..., Server],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[str, ...],
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    keys, home = "keys-in-a-file-canary", tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws/credentials").write_text(f"[default]\naws_access_key_id=x\naws_secret_access_key={keys}\n")
    monkeypatch.setenv("HOME", str(home))
    src, dst = ("s3://b/in", "s3://b/out") if place else (str(photos), str(tmp_path / "out"))
    new = job_id(dst, 1)
    server = serve(**{"jobs/": (200, "[]"), f"jobs/{new}": (200, json.dumps(RUNNING | {"submission_id": new}))})
    server.when_posted["/api/jobs/"] = json.dumps({"job_id": new, "submission_id": new})
    assert hdrfleet_here("submit", src, dst, *place, "--address", server.url) == 0
    sent = json.loads(server.got["/api/jobs/"])
    assert set(sent["runtime_env"]) <= {"working_dir"}, "nothing of the environment goes along"
    packages = [body for path, body in server.got.items() if path.startswith("/api/packages/")]
    assert len(packages) == (0 if place else 1)
    told = (
        [server.got["/api/jobs/"].encode()] if isinstance(server.got["/api/jobs/"], str) else [server.got["/api/jobs/"]]
    )
    for package in packages:
        with ZipFile(BytesIO(package)) as archive:
            told += [name.encode() for name in archive.namelist()]
            told += [archive.read(name) for name in archive.namelist()]
    for secret in (*SECRETS.values(), keys):
        assert not [text for text in told if secret.encode() in text], secret


@pytest.mark.parametrize("is_the_same", [True, False])
def test_of_two_that_submit_at_the_same_time_one_has_the_job(
    serve: Callable[..., Server], is_the_same: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is at work when it is looked; when it is sent, the name is taken."""
    words = ("submit", "s3://b/in", "s3://b/out", "--use-image")
    first = serve(**{"jobs/": (200, "[]"), f"jobs/{ID}": (200, json.dumps(RUNNING))})
    first.when_posted["/api/jobs/"] = json.dumps({"job_id": ID, "submission_id": ID})
    assert hdrfleet_here(*words, "--address", first.url) == 0
    digest = json.loads(first.got["/api/jobs/"])["metadata"]["hdrfleet_command_sha256"]
    metadata = RUNNING["metadata"] | {"hdrfleet_command_sha256": digest if is_the_same else "other"}
    taken = json.dumps([RUNNING | {"metadata": metadata}])
    capsys.readouterr()

    second = serve(**{"jobs/": (200, "[]")})
    said = f"ValueError: Job with submission_id {ID} already exists"
    second.refusals["/api/jobs/"] = (500, said, {"/api/jobs/": (200, taken)})
    code = hdrfleet_here(*words, "--address", second.url)
    err = capsys.readouterr().err
    assert (code, "is at work on it already" in err) == ((0, True) if is_the_same else (2, False)), err
    assert is_the_same or f"{ID} is at work on s3://b/out with other options" in err


def test_a_slash_at_the_end_of_a_prefix_makes_no_other_conversion(
    serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first submission's digest stands on the server; where a slash has a meaning, it is another one."""

    def submit(src: str, dst: str, digest: str | None) -> tuple[int, str, Server]:
        new = job_id(dst, 1)
        job = RUNNING | {"submission_id": new}
        job |= {"metadata": {"hdrfleet_src": src, "hdrfleet_dst": dst, "hdrfleet_command_sha256": digest or ""}}
        server = serve(**{"jobs/": (200, json.dumps([job] if digest else [])), f"jobs/{new}": (200, json.dumps(job))})
        server.when_posted["/api/jobs/"] = json.dumps({"job_id": new, "submission_id": new})
        code = hdrfleet_here("submit", src, dst, "--use-image", "--address", server.url)
        return code, capsys.readouterr().err, server

    for src in ("s3://b/in", "s3://b/lists/a.txt", "s3://b/*"):
        code, _, server = submit(src, "s3://b/out", None)
        assert code == 0
        sent = json.loads(server.got["/api/jobs/"])
        digest = sent["metadata"]["hdrfleet_command_sha256"]
        code, said, _ = submit(src, "s3://b/out/", digest)
        assert (code, "is at work on it already" in said) == (0, True), said
        code, said, _ = submit(f"{src}/", "s3://b/out", digest)
        if src == "s3://b/in":
            assert (code, "is at work on it already" in said) == (0, True), said
        else:
            assert (code, "with other options" in said) == (2, True), said


def test_what_a_driver_says_makes_no_other_conversion(
    serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    new = job_id("s3://b/out", 1)
    found: list[str] = []
    for said in ([], ["-q"], ["--log-format", "json"], ["--quiet", "--log-format", "json"]):
        server = serve(**{"jobs/": (200, "[]"), f"jobs/{new}": (200, json.dumps(RUNNING))})
        server.when_posted["/api/jobs/"] = json.dumps({"job_id": new, "submission_id": new})
        words = ("submit", "s3://b/in", "s3://b/out", *said, "--use-image", "--address", server.url)
        assert hdrfleet_here(*words) == 0, capsys.readouterr().err
        sent = json.loads(server.got["/api/jobs/"])
        found.append(sent["metadata"]["hdrfleet_command_sha256"])
        assert ("--quiet" in sent["entrypoint"]) == any(word in {"-q", "--quiet"} for word in said)
        assert ("--log-format=json" in sent["entrypoint"]) == ("json" in said)
    assert len(set(found)) == 1


@pytest.mark.parametrize("said", [AT_A, (*AT_A, "--dst-endpoint-url", "http://b.example.com")])
def test_buckets_of_one_name_at_two_endpoints_are_sent(
    serve: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: tuple[str, ...],
) -> None:
    """The environment here says nothing of the cluster's, whose driver looks again."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", AT_A[1])
    new = job_id("s3://b", 1)
    job = RUNNING | {"submission_id": new, "metadata": {"hdrfleet_src": "s3://b", "hdrfleet_dst": "s3://b"}}
    server = serve(**{"jobs/": (200, "[]"), f"jobs/{new}": (200, json.dumps(job))})
    server.when_posted["/api/jobs/"] = json.dumps({"job_id": new, "submission_id": new})
    code = hdrfleet_here("submit", "s3://b", "s3://b", *said, "--use-image", "--address", server.url)
    assert code == 0, capsys.readouterr().err
    assert f"--src-endpoint-url={AT_A[1]}" in json.loads(server.got["/api/jobs/"])["entrypoint"]


class Written:
    """A standard output that hands on."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def write(self, text: str) -> int:
        self._write(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""
