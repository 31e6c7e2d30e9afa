"""A conversion on a real Ray head, scraped by a real Prometheus: every query of the dashboard is answered with data."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from commands import descendants, rows_of, start_hdrfleet, wait_until
from photographs import jpeg, picture
from servers.ports import free_ports
from servers.ray_head import RayHead, ray_head

from jobs.observability import DASHBOARD, FOLDER, RULES, alerts
from pipeline.execution.metrics import DEFINITIONS, FAILURES, IMAGES, SHARDS_COMPLETED, WORKERS_LOST

NUM_PHOTOS, PHOTOS_PER_SHARD = 239, 4
NUM_SHARDS = 60
NUM_BROKEN = 1
# One report and one scrape a second, so that a job of a minute has a history.
REPORT_MS, SCRAPE = "1000", "1s"
RATE_INTERVAL = "20s"

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"),
]


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expr: str) -> list[float]:
        """What an instant query gives that is a number; the quantile of nothing is none."""
        found = [float(series["value"][1]) for series in self.get("query", query=expr)["result"]]
        return [value for value in found if math.isfinite(value)]

    def is_up(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        except requests.RequestException:
            return False


@contextmanager
def prometheus(folder: Path, discovery_file: Path) -> Iterator[Prometheus]:
    """Prometheus with the configuration that is checked in, but for paths and intervals."""
    folder.mkdir()
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    config["rule_files"] = [str(FOLDER / RULES)]
    (scrape,) = config["scrape_configs"]
    (discovery,) = scrape["file_sd_configs"]
    discovery["files"] = [str(discovery_file)]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    words = ("--config.file", "prometheus.yml", "--storage.tsdb.path", "data", "--web.listen-address", address)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *words], cwd=folder, stdout=log, stderr=log)
    try:
        server = Prometheus(f"http://{address}")
        wait_until(server.is_up, "Prometheus starts")
        yield server
    finally:
        process.terminate()
        process.wait(20)


def of_head(head: RayHead, option: str) -> str:
    (value,) = [word.removeprefix(option) for word in head.process.cmdline() if word.startswith(option)]
    return value


def dashboard_queries() -> dict[str, str]:
    """Every query as Grafana would ask it for all jobs."""
    panels = json.loads((FOLDER / DASHBOARD).read_text())["panels"]
    return {
        panel["title"]: target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$job_id", ".+")
        for panel in panels
        for target in panel["targets"]
    }


def test_every_query_of_the_dashboard_is_answered_while_a_job_runs(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(NUM_PHOTOS):
        (tmp_path / f"in/{index:03d}.jpg").write_bytes(jpeg(picture(200, 200, seed=index)))
    (tmp_path / "in/000-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    options = ("--weights", "identity", "--precision", "fp32", "--device", "cpu", "--workers", "1", "--limit", "240")
    env = {"RAY_metrics_report_interval_ms": REPORT_MS}
    with ray_head(tmp_path / "head", env) as head:
        discovery_file = Path(of_head(head, "--temp-dir=")) / "prom_metrics_service_discovery.json"
        wait_until(discovery_file.exists, "Ray writes the list of its nodes")
        with prometheus(tmp_path / "prometheus", discovery_file) as server:
            job = start_hdrfleet(
                *("convert", tmp_path / "in", tmp_path / "out", "--address", f"127.0.0.1:{of_head(head, '--port=')}"),
                *(*options, "--shard-images", str(PHOTOS_PER_SHARD), "--log-format", "json"),
                home=tmp_path / "home",
                log=tmp_path / "log",
                env={**head.env, **env},
            )
            try:
                look_at(server, head)
                assert job.wait(300) == 3, (tmp_path / "log").read_text()
            finally:
                job.kill()
                job.wait()
            # The driver ended by itself, so its last counts were reported.
            exact = f"sum(ray_{SHARDS_COMPLETED.name})"
            wait_until(lambda: server.values(exact) == [NUM_SHARDS], "the driver's last counts are exported")
    assert len(rows_of(tmp_path / "out")) == NUM_PHOTOS + NUM_BROKEN
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert [line["worker"] for line in logged if line["event"] == "worker_lost"] == ["worker-1"]
    assert [line["source"] for line in logged if line["event"] == "image_failed"] == ["000-broken.jpg"]
    completed = {line["shard"] for line in logged if line["event"] == "shard_completed"}
    assert completed == set(range(NUM_SHARDS))


def look_at(server: Prometheus, head: RayHead) -> None:
    """While the job runs: kill a worker, then ask everything until everything is answered."""
    images = f'sum(ray_{IMAGES.name}{{outcome="ok"}})'
    wait_until(lambda: server.values(images) > [5.0], "the first images are scraped", 120)
    (worker,) = descendants(head.process.pid, "RayWorker")
    worker.kill()
    wait_until(lambda: server.values(f"sum(ray_{WORKERS_LOST.name})") == [1.0], "the loss is scraped")
    before = server.values(images)
    wait_until(lambda: server.values(images) > before, "the next worker's images are scraped", 120)
    queries = dashboard_queries()
    unanswered = dict(queries)

    def ask() -> bool:
        for title, expr in list(unanswered.items()):
            if server.values(expr):
                del unanswered[title]
        return not unanswered

    try:
        wait_until(ask, "every query is answered", 60)
    finally:
        assert unanswered == {}
    assert server.values(f"sum(ray_{FAILURES.name})") == [NUM_BROKEN]
    for title, num in (("Failures in the last hour", NUM_BROKEN), ("Workers lost in the last hour", 1)):
        assert sum(server.values(queries[title])) >= num, title
    (busy,) = server.values(queries["Device busy"])
    assert 0 < busy < 1.5
    names = server.get("label/__name__/values")
    for definition in DEFINITIONS:
        assert any(name.startswith(f"ray_{definition.name}") for name in names), definition.name
    (group,) = server.get("rules")["groups"]
    assert {rule["name"]: rule["health"] for rule in group["rules"]} == {each.name: "ok" for each in alerts()}
