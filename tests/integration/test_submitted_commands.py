"""What `submit` sends is read by the same `convert` on another machine: whatever it takes, that has to take."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterator
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from commands import hdrfleet_here
from photographs import jpeg, picture
from servers.job_server import VERSION, Server
from typer.main import get_command

import jobs.convert
from jobs.cli import app
from jobs.submission import job_id
from pipeline.config import ConversionConfig

pytestmark = [pytest.mark.timeout(300)]

G6 = "g6.2xlarge"
# Everything that says what a conversion may cost, and how long it may take.
CHOICES = (
    ("--max-cost", "900"),
    ("--budget", "5"),
    ("--price-per-worker-hour", "0.75"),
    ("--deadline", "90m"),
    ("--node-type", G6),
    ("--spot",),
    ("--prices", "{prices}"),
)
# One value for each other option, none of them its default.
OTHERS = {
    "--weights": "{weights}",
    "--include": "*.jpg",
    "--exclude": "a b",
    "--limit": "3",
    "--device": "cpu",
    "--precision": "fp32",
    "--tile-px": "512",
    "--memory-budget": "4G",
    "--max-pixels": "1000000",
    "--max-bytes": "512M",
    "--isolate-decode": None,
    "--decode-timeout": "60",
    "--pixel-type": "float",
    "--compression": "dwaa:15",
    "--exposure": "-1.5",
    "--keep-gps": None,
    "--verify": "all",
    "--workers": "3",
    "--max-workers": "4",
    "--min-workers": "1",
    "--workers-per-gpu": "2",
    "--accelerator-type": "T4",
    "--label": "zone=a",
    "--fallback-label": "market=on-demand",
    "--shard-images": "8",
    "--shard-megapixels": "99.5",
    "--weak-store": None,
    "--max-failure-rate": "10%",
    "--image-timeout": "300",
    "--shard-timeout": "1000",
    "--lease-timeout": "99",
    "--log-format": "json",
    "--quiet": None,
    "--src-endpoint-url": "http://a.example.com",
    "--src-profile": "-me",
    "--src-region": "eu-1",
    "--src-anonymous": None,
    "--no-src-anonymous": None,
    "--src-requester-pays": None,
    "--no-src-requester-pays": None,
    "--src-timeout": "7",
    "--src-attempts": "2",
    "--dst-endpoint-url": "http://b.example.com",
    "--dst-profile": "other",
    "--dst-region": "eu-2",
    "--dst-timeout": "8",
    "--dst-attempts": "3",
}
NEEDS = {
    "--min-workers": ("--max-workers", "4"),
    "--fallback-label": ("--max-workers", "4"),
    "--weak-store": ("--dst-attempts", "3"),
}
# What is for the terminal, not for the job; what `CHOICES` has; and an earlier job, which would have to be there.
NOT_SENT = {"--address", "--follow", "--use-image", "--json"}
# A machine, a table and spot prices serve a limit, and a limit needs a machine; a budget needs a price of its own or a
# machine, which is then what serves it. Each with and without a deadline.
NUM_SENSIBLE = {False: 12, True: 24}
ELSEWHERE = {*NOT_SENT, *(words[0] for words in CHOICES), "--throughput-from"}


class Cluster:
    """A job server, and a machine that has what was sent and nothing else of the one that submitted."""

    def __init__(self, server: Server, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._server = server
        self._folder = folder
        self._capsys = capsys
        self.configs: list[ConversionConfig] = []

    def submit(self, *options: str) -> list[str] | None:
        """The arguments of `convert` that were sent; None where nothing was, with a reason in one line."""
        self._server.got.clear()
        dst = options[1]
        new = job_id(dst, 1)
        job = {"type": "SUBMISSION", "submission_id": new, "status": "RUNNING", "entrypoint": "x"}
        self._server.answers[f"/api/jobs/{new}"] = (200, json.dumps(job))
        self._server.when_posted["/api/jobs/"] = json.dumps({"job_id": new, "submission_id": new})
        code = hdrfleet_here("submit", *options, "--use-image", "--address", self._server.url)
        said = self._capsys.readouterr().err
        if code == 0:
            *program, command = (words := shlex.split(self._sent["entrypoint"]))[:4]
            assert (program, command) == (["python", "-m", "jobs.supervise"], "convert")
            return words[4:]
        assert code == 2, said
        assert len(said.splitlines()) == 1, said
        assert not self._server.got, "refused, and sent nevertheless"
        return None

    def convert(self, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
        """The exit code of `convert` there, up to the work itself, and what it says."""
        with monkeypatch.context() as there:
            there.chdir(self._unpacked())
            there.setattr(jobs.convert, "run_conversion", self._run)
            code = hdrfleet_here("convert", *arguments)
        return code, self._capsys.readouterr().err

    def _run(self, config: ConversionConfig, *_: object, **__: object) -> None:
        self.configs.append(config)
        raise SystemExit(0)

    @property
    def _sent(self) -> dict[str, Any]:
        sent: dict[str, Any] = json.loads(self._server.got["/api/jobs/"])
        return sent

    def _unpacked(self) -> Path:
        folder = self._folder / f"job-{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        for path, body in self._server.got.items():
            if path.startswith("/api/packages/"):
                with ZipFile(BytesIO(body)) as archive:
                    archive.extractall(folder)
        return folder


@pytest.fixture
def cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Cluster]:
    (tmp_path / "there").mkdir()
    with Server({"/api/version": (200, VERSION), "/api/jobs/": (200, "[]")}) as server:
        yield Cluster(server, tmp_path / "there", capsys)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(jpeg(picture(16, 16)))
    return tmp_path / "photos"


@pytest.mark.parametrize("limit", [(), CHOICES[0]], ids=["no limit", "limit"])
def test_what_a_submission_may_cost_is_understood_where_it_runs(
    cluster: Cluster, photos: Path, limit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All combinations: `submit` takes those that `convert` takes here, and `convert` there makes the same of them."""
    prices = photos.parent / "mine.toml"
    table = (files("jobs") / "data/node_types.toml").read_text()
    prices.write_text(table.replace("price_per_h = 0", "price_per_h = 1"))  # spot prices too
    others = CHOICES[1:]
    num_sent = 0
    for chosen in (pick for num in range(len(others) + 1) for pick in itertools.combinations(others, num)):
        words = [word.format(prices=prices) for option in (limit, *chosen) for word in option]
        words = [str(photos), str(photos.parent / "out"), "--max-workers", "4", *words]
        here, said_here = cluster.convert([*words, "--address", "auto"], monkeypatch)
        sent = cluster.submit(*words)
        assert (sent is not None) == (here == 0), (words, said_here)
        if sent is None:
            continue
        there, said_there = cluster.convert(sent, monkeypatch)
        assert (there, said_there) == (0, said_here), (words, sent)
        assert cluster.configs[-1] == cluster.configs[-2], (words, sent)
        num_sent += 1
    assert num_sent == NUM_SENSIBLE[bool(limit)]


@pytest.mark.parametrize("option", OTHERS)
def test_each_option_arrives_as_it_was_given(
    cluster: Cluster, photos: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = photos.parent / "identity"  # a file's name may be that of a built-in
    weights.write_bytes(b"some")
    value = OTHERS[option]
    given = [option] if value is None else [f"{option}={value.format(weights=weights)}"]
    is_of_a_store = option.startswith(("--src-", "--no-src-", "--dst-", "--weak-store"))
    places = ["s3://b/in", "s3://c/out"] if is_of_a_store else [str(photos), str(photos.parent / "out")]
    words = [*places, *given, *NEEDS.get(option, ())]
    if option == "--weights":
        monkeypatch.setattr("jobs.weights.read_weights", lambda name: (name, Path(name).read_bytes()))
    assert cluster.convert([*words, "--address", "auto"], monkeypatch)[0] == 0
    sent = cluster.submit(*words)
    assert sent is not None
    code, said = cluster.convert(sent, monkeypatch)
    assert code == 0, said
    here, there = cluster.configs
    if option == "--weights":
        assert there.model.weights == "weights/identity"
        there = there.model_copy(update={"model": here.model})
    assert there == here
    if option in {"--quiet", "--log-format"} or option.startswith("--no-"):  # the latter is as nothing said
        assert given[0] in sent
    else:
        assert cluster.convert([*places, "--address", "auto", *NEEDS.get(option, ())], monkeypatch)[0] == 0
        assert cluster.configs[-1] != here, "this value says nothing"


def test_no_option_is_left_out_above() -> None:
    commands: Any = get_command(app)
    options = {flag for word in commands.commands["submit"].params for flag in (*word.opts, *word.secondary_opts)}
    assert {flag for flag in options if flag.startswith("--")} - {"--help"} == OTHERS.keys() | ELSEWHERE
