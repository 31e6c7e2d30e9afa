"""The agent of a node, beside raylets that are nodes of their own by their loopback addresses, and metadata servers."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import environment, hdrfleet, rows_of, start_hdrfleet, wait_until
from photographs import jpeg, picture
from ray_nodes import START_TIMEOUT_S, Cluster, running_cluster
from servers.metadata import Ec2, Gce, MetadataState, metadata_server

from jobs.preemption.metadata import (
    AwsNotices,
    DetectedNotices,
    GcpNotices,
    MetadataError,
    MetadataServer,
    detect_cloud,
)

NUM_PHOTOS = 110
OPTIONS = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--shard-images", "2")


class Agent:
    """`hdrfleet node-agent` in a process of its own, and what it logs."""

    def __init__(self, folder: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "agent.log"
        self.process = start_hdrfleet("node-agent", *options, home=folder / "home", log=self.log, env=env)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def wait_for(self, event: str, timeout_s: float = 60) -> dict[str, Any]:
        def is_there() -> bool:
            assert self.process.poll() is None or self.events(event), self.log.read_text()
            return bool(self.events(event))

        wait_until(is_there, f"{event} in {self.log}", timeout_s)
        return self.events(event)[0]

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents, and makes sure that they end."""
    started: list[Agent] = []

    def start(*options: str, env: Mapping[str, str] | None = None) -> Agent:
        started.append(Agent(tmp_path / f"agent-{len(started)}", *options, env=env))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait(20)


@pytest.fixture
def token(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "token"
    path.write_text(secrets.token_hex(32))
    path.chmod(0o600)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path), "HOME": str(tmp_path / "client-home")}


@pytest.fixture
def cluster(tmp_path: Path, token: dict[str, str]) -> Iterator[Cluster]:
    """A head that asks for a token, without cores; nodes are added by `add_node`."""
    with running_cluster(tmp_path, token) as made:
        yield made


def num_alive(cluster: Cluster, ip_address: str, env: Mapping[str, str]) -> int:
    """Asked by a process of its own: Ray reads the token once in the life of one."""
    script = (
        "import sys; from pipeline.execution.ray_local_nodes import LocalNodes; "
        "print(len(LocalNodes(sys.argv[1], frozenset({sys.argv[2]})).alive()))"
    )
    command = [sys.executable, "-c", script, cluster.address, ip_address]
    told = subprocess.run(command, env=environment(Path(env["HOME"]), env), capture_output=True, timeout=60, check=True)
    return int(told.stdout)


def add_node(cluster: Cluster, ip_address: str, env: Mapping[str, str]) -> None:
    """A raylet of one core that is a machine of its own by its address."""
    cluster.nodes.append(
        cluster.start(f"--address={cluster.address}", "--num-cpus=1", f"--node-ip-address={ip_address}")
    )
    wait_until(lambda: num_alive(cluster, ip_address, env) == 1, f"a node at {ip_address}", START_TIMEOUT_S)


def wait_until_gone(cluster: Cluster, ip_address: str, env: Mapping[str, str]) -> None:
    """`ray start --block` itself stays when its raylet has left in order."""
    wait_until(lambda: num_alive(cluster, ip_address, env) == 0, f"the node at {ip_address} is gone", 100)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(NUM_PHOTOS):
        (folder / f"{index:03}.jpg").write_bytes(jpeg(picture(192, 192, seed=index)))
    return folder


class Job:
    """A conversion on all nodes of a cluster."""

    def __init__(self, cluster: Cluster, photos: Path, root: Path, env: Mapping[str, str], num_workers: int) -> None:
        self.dst, self._root, self._env = root / "out", root, env
        self._log = root / "convert.log"
        words = ("convert", photos, self.dst, *OPTIONS, "--address", cluster.address, "--log-format", "json", "--json")
        self.process = start_hdrfleet(
            *words, "--workers", str(num_workers), home=root / "convert-home", log=self._log, env=env
        )

    def wait_for_shards(self, number: int) -> None:
        def are_there() -> bool:
            assert self.process.poll() is None, self._log.read_text()
            return len(list(self.dst.glob("manifest/plan=1/*.parquet"))) >= number

        wait_until(are_there, f"{number} shards", 180)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith('{"time"')]
        return [line for line in lines if line["event"] == name]

    def require_whole(self) -> list[dict[str, object]]:
        """It ends well: every image once, by its first attempt, nothing lost and nothing adopted."""
        assert self.process.wait(300) == 0, self._log.read_text()
        rows = rows_of(self.dst)
        assert Counter(row["source"] for row in rows) == {f"{index:03}.jpg": 1 for index in range(NUM_PHOTOS)}
        assert Counter((row["status"], row["attempt"], row["adopted"]) for row in rows) == {
            ("ok", 1, False): NUM_PHOTOS
        }
        assert len(list(self.dst.glob("images/*"))) == NUM_PHOTOS
        assert self.events("worker_lost") == []
        assert self.events("lease_returned") == []
        verified = hdrfleet("verify", self.dst, "--deep", "--quiet", home=self._root / "verify-home")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        return rows


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_notice_of_ec2_and_a_sigterm_drain_their_nodes_and_the_job_loses_nothing(
    cluster: Cluster, photos: Path, tmp_path: Path, token: dict[str, str], agent: Callable[..., Agent]
) -> None:
    for ip_address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        add_node(cluster, ip_address, token)
    with metadata_server(Ec2) as ec2:
        here = ("--address", cluster.address, "--interval", "1s")
        spot = agent(*here, "--node-ip", "127.0.0.2", "--metadata-url", ec2.url, env=token)
        pod = agent(*here, "--node-ip", "127.0.0.3", "--cloud", "none", "--grace", "90s", env=token)
        (spot_node,) = spot.wait_for("node_found")["nodes"]
        (pod_node,) = pod.wait_for("node_found")["nodes"]
        assert spot.wait_for("cloud_detected")["cloud"] == "aws"
        job = Job(cluster, photos, tmp_path, token, num_workers=3)
        job.wait_for_shards(4)

        ec2.interrupt_on_ec2(left_s=120)
        said = spot.wait_for("node_draining")
        assert said["node"] == spot_node
        assert 60 < said["left_s"] <= 120
        assert spot.wait_for("notice")["kind"] == "terminate"
        wait_until_gone(cluster, "127.0.0.2", token)

        assert pod.end(timeout_s=100) == 0
        assert pod.wait_for("node_draining")["node"] == pod_node
        assert pod.wait_for("nodes_gone")["nodes"] == [pod_node]
        assert job.process.poll() is None, "the nodes left too late to test anything"
        rows = job.require_whole()
        assert len({row["worker"] for row in rows}) == 3
        assert spot.process.poll() is None
        assert len(spot.events("notice")) == 1, "the same notice was heeded twice"
    assert not any(path.startswith("401 /latest") for path in ec2.requests)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_preemption_on_compute_engine_drains_the_node_and_the_job_loses_nothing(
    cluster: Cluster, photos: Path, tmp_path: Path, token: dict[str, str], agent: Callable[..., Agent]
) -> None:
    for ip_address in ("127.0.0.2", "127.0.0.3"):
        add_node(cluster, ip_address, token)
    with metadata_server(Gce) as gce:
        spot = agent(
            *("--address", cluster.address, "--node-ip", "127.0.0.2", "--metadata-url", gce.url, "--interval", "20s"),
            env=token,
        )
        (node,) = spot.wait_for("node_found")["nodes"]
        job = Job(cluster, photos, tmp_path, token, num_workers=2)
        job.wait_for_shards(4)
        gce.preempt_on_gce()
        said = spot.wait_for("node_draining", 25)
        assert said["node"] == node
        assert 10 < said["left_s"] <= 30, "a change was not waited for"
        wait_until_gone(cluster, "127.0.0.2", token)
        job.require_whole()
    assert any("wait_for_change=true" in path for path in gce.requests)


def words_of_the_hook() -> list[str]:
    """The options of what Kubernetes runs in a pod of infra/kuberay that it is about to end, the same in all."""
    manifest = Path(__file__).parents[2] / "infra/kuberay/raycluster.yaml"
    (spec,) = (each["spec"] for each in yaml.safe_load_all(manifest.read_text()) if each["kind"] == "RayCluster")
    pods = [group["template"]["spec"] for group in spec["workerGroupSpecs"]]
    hooks = {tuple(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]) for pod in pods}
    ((program, command, *options),) = hooks
    assert (program, command) == ("hdrfleet", "node-agent")
    return options


@pytest.mark.long
@pytest.mark.timeout(300)
def test_now_drains_a_node_without_work_and_a_node_that_comes_late_is_drained(
    cluster: Cluster, token: dict[str, str], agent: Callable[..., Agent]
) -> None:
    with metadata_server(Ec2) as ec2:
        early = agent(
            *("--address", cluster.address, "--node-ip", "127.0.0.2", "--interval", "1s"),
            *("--metadata-url", ec2.url),
            env=token,
        )
        ec2.interrupt_on_ec2(left_s=120)
        early.wait_for("notice")
        # It starts though its machine is to go, and has left before anybody else looks.
        cluster.nodes.append(
            cluster.start(f"--address={cluster.address}", "--num-cpus=1", "--node-ip-address=127.0.0.2")
        )
        early.wait_for("node_draining", START_TIMEOUT_S)
        wait_until_gone(cluster, "127.0.0.2", token)
    add_node(cluster, "127.0.0.3", token)
    leaving = agent(*words_of_the_hook(), "--address", cluster.address, "--node-ip", "127.0.0.3", env=token)
    assert leaving.process.wait(60) == 0, leaving.log.read_text()
    assert len(leaving.events("nodes_gone")) == 1


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_cluster_that_does_not_answer_costs_the_grace_and_no_more(agent: Callable[..., Agent]) -> None:
    with metadata_server(Ec2) as ec2, socket.create_server(("127.0.0.1", 0)) as taken:
        silent = f"127.0.0.1:{taken.getsockname()[1]}"  # accepts, and says nothing
        ec2.interrupt_on_ec2(left_s=3600)
        spot = agent("--address", silent, "--metadata-url", ec2.url, "--interval", "1s", "--grace", "2s")
        assert spot.wait_for("notice")["kind"] == "terminate"
        spot.wait_for("cluster_silent")
        ec2.say("/latest/meta-data/spot/instance-action", "<html>what</html>")
        spot.wait_for("metadata_strange")
        ec2.tokens.clear()
        ec2.values.clear()
        spot.wait_for("notice_withdrawn")
        assert spot.end() == 0
        assert spot.events("finished")[0]["exit_code"] == 0
    assert any(path.startswith("401 ") for path in ec2.requests)


def test_what_answers_is_told_apart_and_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with metadata_server(Ec2) as ec2, metadata_server(Gce) as gce:
        assert detect_cloud(ec2.url) == "aws"
        assert detect_cloud(gce.url) == "gcp"
    assert detect_cloud(ec2.url) == "none"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert detect_cloud(f"http://127.0.0.1:{mute.getsockname()[1]}") == "none"


def test_notices_over_http() -> None:
    with metadata_server(Ec2) as ec2:
        aws = AwsNotices(MetadataServer(ec2.url), rebalance=True)
        assert aws.poll(1) is None
        ec2.tokens.clear()
        ec2.say("/latest/meta-data/events/recommendations/rebalance", '{"noticeTime": "2020-10-27T08:22:00Z"}')
        assert getattr(aws.poll(1), "kind", None) == "rebalance"
        ec2.interrupt_on_ec2(left_s=100)
        assert getattr(aws.poll(1), "kind", None) == "terminate"
    with pytest.raises(MetadataError):
        aws.poll(1)
    with metadata_server(Gce) as gce:
        gcp = GcpNotices(MetadataServer(gce.url))
        assert gcp.poll(1) is None
        assert gcp.poll(1) is None
        gce.preempt_on_gce()
        assert getattr(gcp.poll(20), "kind", None) == "preempted"


def test_a_metadata_server_that_comes_late_is_found() -> None:
    clock, found = [0.0], list[str]()
    with metadata_server(Ec2) as ec2:
        pass
    source = DetectedNotices(ec2.url, on_detected=found.append, clock=lambda: clock[0])
    assert source.poll(1) is None
    clock[0] = 59.0
    assert source.poll(1) is None
    assert found == ["none"]
    with _again(ec2) as server:
        clock[0] = 61.0
        server.interrupt_on_ec2(left_s=100)
        assert getattr(source.poll(1), "kind", None) == "terminate"
    assert found == ["none", "aws"]


def _again(state: MetadataState) -> Any:
    """The same server at the same port."""
    return metadata_server(Ec2, port=int(state.url.rpartition(":")[2]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--cloud", "azure"), "--cloud must be one of auto, aws, gcp, none"),
        (("--metadata-url", "https://h"), "--metadata-url: 'https://h' is no metadata server"),
        (("--address", "head"), "--address: 'head' is no Ray head"),
        (("--node-ip", "here"), "--node-ip: 'here'"),
        (("--interval", "0"), "--interval: '0' must be more than 0"),
        (("--grace", "2h"), "--grace: '2h' must be"),
    ],
)
def test_bad_usage_is_one_line(options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from commands import hdrfleet_here

    assert hdrfleet_here("node-agent", *options) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_an_agent_is_stopped_by_hand_without_draining(agent: Callable[..., Agent]) -> None:
    with metadata_server(Ec2) as ec2:
        watching = agent("--metadata-url", ec2.url, "--address", "127.0.0.1:1")
        watching.wait_for("cloud_detected")
        assert watching.end(signal.SIGINT) == 0
        assert watching.events("notice") == []
        assert len(watching.events("stopped")) == 1
