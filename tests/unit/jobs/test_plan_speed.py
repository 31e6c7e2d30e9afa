from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.plan_measured import Measured, fit_line
from jobs.plan_prices import NodeType, choose, load_node_types, tflop_per_megapixel
from jobs.plan_source import SourceEstimate
from jobs.plan_speed import believed_on, measured_speed, node_speed, predict, workload
from pipeline.config import ConversionConfig, build_config
from pipeline.errors import ConfigError
from pipeline.execution.base import WorkSize
from pipeline.execution.tail import num_worth_starting

SOURCE = SourceEstimate(10_000, 50_000_000_000, 0, 0, 0, 160, 200, 0, 0, (), 120_000.0, 110_000.0, 130_000.0, 120_000.0)
NODE = NodeType(
    name="two",
    gpus=2,
    cpus=16,
    network_gbit_per_s=10,
    price_per_h=3.0,
    spot_price_per_h=1.0,
    megapixels_per_s=5.0,
    source="measured",
    start_s=120,
)


def config(**encode: object) -> ConversionConfig:
    return build_config(source={"url": "/photos"}, destination={"url": "/out"}, encode=encode)


def test_a_slow_network_is_the_limit() -> None:
    speed = node_speed(workload(SOURCE, config(), None), NODE, config())
    assert (speed.limit, speed.worker_s) == ("network", 24_000.0)
    assert speed.worker_s_low < 24_000 < speed.worker_s_high


def test_a_fast_card_waits_for_its_encode_threads() -> None:
    fast = NODE.model_copy(update={"megapixels_per_s": 500.0})
    speed = node_speed(workload(SOURCE, config(), None), fast, config())
    assert (speed.limit, speed.worker_s) == ("7 encode threads", pytest.approx(120_000 / (7 * 4.0)))
    few = fast.model_copy(update={"cpus": 2})
    assert node_speed(workload(SOURCE, config(), None), few, config()).limit == "1 cores"


def test_as_many_threads_are_reckoned_with_as_workers_take() -> None:
    fast = NODE.model_copy(update={"megapixels_per_s": 500.0, "cpus": 64})
    work = workload(SOURCE, config(), None)
    assert node_speed(work, fast, config()).limit == "16 encode threads"
    given = build_config(source={"url": "/photos"}, destination={"url": "/out"}, execution={"num_encode_threads": 3})
    assert node_speed(work, fast, given).limit == "3 encode threads"
    on_cpu = fast.model_copy(update={"gpus": 0})
    assert node_speed(work, on_cpu, config()).limit == "2 encode threads"


def test_a_thin_line_is_the_limit() -> None:
    thin = NODE.model_copy(update={"network_gbit_per_s": 0.1})
    work = workload(SOURCE, config(), None)
    speed = node_speed(work, thin, config())
    assert speed.limit == "bandwidth"
    assert speed.worker_s == pytest.approx((50e9 + 3.58e6 * 120_000) / (0.1e9 / 8 * 0.7 / 2))


def test_a_peak_becomes_a_rate_by_the_flops_of_a_pixel() -> None:
    card = NodeType(
        name="c", gpus=1, cpus=8, network_gbit_per_s=10, price_per_h=1, peak_tflops=71.0272, source="estimated"
    )
    assert tflop_per_megapixel(64) == pytest.approx(0.710272)
    assert card.network_megapixels_per_s(64) == pytest.approx((30.0, 15.0, 50.0))


def test_time_and_cost_of_workers_and_whole_nodes() -> None:
    work = workload(SOURCE, config(), None)
    speed = node_speed(work, NODE, config())
    one, three = predict(work, speed, NODE, 1), predict(work, speed, NODE, 3)
    assert one.wall_s == 120 + 24_000
    assert one.cost == pytest.approx(3.0 * 24_120 / 3600)
    assert three.num_nodes == 2
    assert three.wall_s == pytest.approx(120 + 8000 + 4 / 2 * 2 / 3)  # the rest is parted
    assert three.cost == pytest.approx(2 * 3.0 * three.wall_s / 3600)
    assert three.spot_cost == pytest.approx(2 * 1.0 * three.wall_s / 3600)
    assert (
        predict(work, speed, NODE, 1000).num_workers == 300
    )  # 20 s of work for each, of a card believed to do 20 MP/s


def one_shard(num_images: int, megapixels: float) -> SourceEstimate:
    return replace(
        SOURCE,
        num_images=num_images,
        num_shards=1,
        megapixels=megapixels,
        megapixels_low=megapixels,
        megapixels_high=megapixels,
        megapixels_by_bytes=megapixels,
    )


def test_a_shard_that_is_parted_takes_the_workers_that_the_scheduler_starts() -> None:
    """With a start of four minutes, five nodes for 261 s each are no node for 347 s."""
    node = NODE.model_copy(update={"gpus": 0, "cpus": 8, "megapixels_per_s": 2.4, "start_s": 240.0})
    source = one_shard(64, 256.0)
    assert believed_on(node, config()) == pytest.approx(2.4)
    work = workload(source, config(), None)
    eight = predict(work, node_speed(work, node, config()), node, 8)
    started = num_worth_starting(WorkSize(64, 256.0), 1, 2.4)
    assert (eight.num_workers, eight.num_nodes) == (started, started) == (5, 5)
    assert eight.wall_s == pytest.approx(240 + 256 / 2.4 / 5, rel=0.01)
    assert eight.cost == pytest.approx(5 * 3.0 * eight.wall_s / 3600)


def test_what_is_never_parted_ends_last() -> None:
    """Shards of one image, and images that take a worker minutes each."""
    node = NODE.model_copy(update={"gpus": 0, "megapixels_per_s": 0.25})
    work = workload(one_shard(4, 400.0), config(), None)
    speed = node_speed(work, node, config())
    assert predict(work, speed, node, 8).num_workers == 4
    assert predict(work, speed, node, 2).wall_s == pytest.approx(120 + 800 + 400 / 2 * 1 / 2)


def test_cards_that_workers_share_are_believed_to_do_a_part_each() -> None:
    def believed(**parts: object) -> float:
        return believed_on(NODE, build_config(source={"url": "/in"}, destination={"url": "/out"}, **parts))

    assert believed() == 20.0
    assert believed(execution={"placement": {"workers_per_gpu": 4}}) == 5.0
    assert believed(inference={"device": "cpu"}) == pytest.approx(8 * 0.3)


def test_workers_that_share_a_card_part_its_speed_and_the_cores_of_its_node() -> None:
    """As much work for as much money on the same nodes: only a part of a job may show that sharing pays."""
    work = workload(SOURCE, config(), None)
    alone, shared = NODE, NODE.shared(2)
    assert (alone.num_workers, shared.num_workers) == (NODE.gpus, 2 * NODE.gpus)
    one, two = node_speed(work, alone, config()), node_speed(work, shared, config())
    assert one.limit == two.limit == "network"
    assert (two.worker_s, two.worker_s_low) == pytest.approx((2 * one.worker_s, 2 * one.worker_s_low))
    by_cards, by_workers = predict(work, one, alone, alone.num_workers), predict(work, two, shared, shared.num_workers)
    assert by_workers.num_nodes == by_cards.num_nodes == 1
    assert by_workers.cost == pytest.approx(by_cards.cost, rel=0.01)
    assert NODE.num_workers == NODE.gpus


@given(st.integers(1, 500), st.integers(1, 500))
def test_more_workers_are_never_slower(num_workers: int, more: int) -> None:
    work = workload(SOURCE, config(), None)
    speed = node_speed(work, NODE, config())
    assert (
        predict(work, speed, NODE, num_workers + more).wall_s <= predict(work, speed, NODE, num_workers).wall_s + 1e-6
    )


def test_output_by_compression_and_pixel_type() -> None:
    def megabytes(**encode: object) -> float:
        return workload(SOURCE, config(**encode), None).output_bytes / 1e6 / SOURCE.megapixels

    assert megabytes() == pytest.approx(3.58)
    assert megabytes(compression="dwaa:15") == pytest.approx(1.78)
    assert megabytes(compression="none", pixel_type="float") == pytest.approx(12.08)


MEASURED = Measured("/out", "cpu", "fp32", 100, 50.0, 1.2, 0.1, 5.0, 0.05, 4.0, "zip", "half", 4e6)


def test_a_measured_job_stands_for_time_and_size() -> None:
    work = workload(SOURCE, config(), MEASURED)
    assert work.output_bytes == 4e6 * 120_000
    assert workload(SOURCE, config(compression="piz"), MEASURED).output_bytes == pytest.approx(3.53e6 * 120_000)
    speed = measured_speed(work, MEASURED, 4.0)
    assert speed.worker_s == pytest.approx(1.2 * (0.1 * 10_000 + 5.0 * 120_000))
    assert speed.worker_s_low == pytest.approx(0.95 * 1.2 * (0.1 * 10_000 + 5.0 * 110_000))
    assert predict(work, speed, None, 1).cost is None
    assert speed.believed_megapixels_per_s == pytest.approx(120_000 / speed.worker_s)


@given(st.floats(0, 10), st.floats(0.01, 10))
def test_a_line_is_found_again(base: float, slope: float) -> None:
    megapixels = np.linspace(0.5, 20, 30)
    assert fit_line(megapixels, base + slope * megapixels) == pytest.approx((base, slope), abs=1e-6)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 100)), min_size=2, max_size=30))
def test_a_fit_is_never_negative(points: list[tuple[float, float]]) -> None:
    megapixels, seconds = np.array(points).T
    base, slope = fit_line(megapixels, seconds)
    assert base >= 0
    assert slope >= 0


def test_the_table_that_comes_along_is_sound_and_claims_no_measurement() -> None:
    types = load_node_types(None)
    assert len(types) >= 4
    assert {node.source for node in types} == {"estimated"}
    assert choose(types, types[1].name) == (types[1],)
    with pytest.raises(ConfigError, match=r"--node-type x1: not in the table; there are: g4dn"):
        choose(types, "x1")


GOOD = 'name="a"\ngpus=1\ncpus=4\nnetwork_gbit_per_s=5\nprice_per_h=1\nsource="estimated"\n'
OTHER = GOOD.replace('"a"', '"b"')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[node_type", "no TOML"),
        ("x = 1", r"has no \[\[node_type\]\]"),
        (f"[[node_type]]\n{GOOD}", "node_type 1: a: give one of megapixels_per_s and peak_tflops"),
        (f"[[node_type]]\n{GOOD}peak_tflops=1\nmegapixels_per_s=1", "give one of"),
        (f"[[node_type]]\n{GOOD}peak_tflops=-1", "node_type 1: peak_tflops: .*greater than or equal to 0.001"),
        (f"[[node_type]]\n{GOOD}peak_tflops=1\ncolour='red'", "node_type 1: colour: "),
        (f"[[node_type]]\n{GOOD.replace('estimated', 'measured')}peak_tflops=1", "is estimated, not measured"),
        (f"[[node_type]]\n{GOOD}peak_tflops=1\n" * 2, "a is there twice"),
        (f"[[node_type]]\n{GOOD}peak_tflops=inf", "node_type 1: peak_tflops: .*less than"),
        (f"[[node_type]]\n{GOOD}peak_tflops=1\nstart_s=inf", "node_type 1: start_s: .*less than"),
        (f"[[node_type]]\n{GOOD}peak_tflops=1\nspot_price_per_h=inf", "spot_price_per_h: .*less"),
        ("a = " + "[" * 5000 + "]" * 5000, "no TOML"),
        (
            f'[[node_type]]\n{GOOD}peak_tflops=1\ncurrency="EUR"\n[[node_type]]\n{OTHER}peak_tflops=1\n',
            "prices in EUR and USD cannot be compared",
        ),
    ],
)
def test_a_table_with_a_fault_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_node_types(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_node_types(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="has more than 4 MiB; that is no price table"):
        load_node_types(Path("/dev/zero"))
