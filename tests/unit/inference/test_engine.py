"""The engine's promises: tiled equals whole, memory faults shrink tiles, device faults stop the job."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import FakeEngine, tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.config import InferenceConfig
from pipeline.errors import ConfigError, DeviceLostError, InferenceError
from pipeline.inference import memory, tiling
from pipeline.inference.engine import InferenceEngine
from pipeline.inference.runner import TileRunner
from pipeline.models.checkpoint import build_network, load_weights
from pipeline.models.hdrunet import HDRUNet

TOLERANCE = 1e-5


def engine(network: HDRUNet | None = None, **config: object) -> InferenceEngine:
    options = {"device": "cpu", "precision": "fp32"} | config
    return InferenceEngine(network or tiny_network(), InferenceConfig.model_validate(options))


def random_pixels(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


def raw_whole(network: HDRUNet, pixels: np.ndarray) -> np.ndarray:
    """The network on the whole padded image at once, without any of the engine's code.

    channels_last as in the engine: the other layout sums in another order, which is no matter of tiles.
    """
    padded = pixels
    for axis in range(2):
        amount = -pixels.shape[axis] % 4
        margins = [(0, 0)] * 3
        margins[axis] = (0, amount)
        padded = np.pad(padded, margins, mode="reflect" if pixels.shape[axis] > amount else "edge")
    x = torch.from_numpy(padded.astype(np.float32) / np.iinfo(pixels.dtype).max)
    with torch.inference_mode():
        out = network.to(memory_format=torch.channels_last)(x.permute(2, 0, 1)[None])
    return out[0].permute(1, 2, 0).numpy()[: pixels.shape[0], : pixels.shape[1]]


def decode(raw: np.ndarray) -> np.ndarray:
    return np.maximum(raw, 0) ** 2.24


def assert_equals_whole(actual: np.ndarray, pixels: np.ndarray, network: HDRUNet) -> None:
    expected = decode(raw_whole(network, pixels))
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


NETWORK = tiny_network(seed=11)
AROUND_TILE_EDGES = st.sampled_from(
    sorted({max(edge + offset, 1) for edge in (0, 4, 64, 128, 160, 192, 256) for offset in range(-4, 6)})
)


@settings(max_examples=25, deadline=None)
@given(AROUND_TILE_EDGES, AROUND_TILE_EDGES, st.sampled_from([np.uint8, np.uint16]))
def test_tiled_equals_whole_at_sizes_around_every_edge(height: int, width: int, dtype: type) -> None:
    pixels = random_pixels(height, width, dtype)
    result = engine(tiny_network(seed=11), tile_px=64).infer(pixels)
    assert result.info.num_tiles == -(-height // 64) * -(-width // 64)
    assert_equals_whole(result.linear, pixels, NETWORK)


def test_tiled_equals_whole_at_full_width() -> None:
    pixels = random_pixels(70, 330)
    result = engine(tiny_network(seed=4, nf=64), tile_px=128).infer(pixels)
    assert result.info.num_tiles == 3
    assert_equals_whole(result.linear, pixels, tiny_network(seed=4, nf=64))


def test_this_tolerance_catches_a_halo_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan_with_half_the_halo(height: int, width: int, tile_px: int) -> tuple[tiling.Tile, ...]:
        return tiling.plan_tiles(height, width, tile_px, halo_px=48)

    monkeypatch.setattr("pipeline.inference.engine.plan_tiles", plan_with_half_the_halo)
    pixels = random_pixels(256, 256)
    with pytest.raises(AssertionError):
        assert_equals_whole(engine(tiny_network(seed=11), tile_px=128).infer(pixels).linear, pixels, NETWORK)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 1), (5, 7), (61, 130)])
def test_whole_images_of_odd_sizes(shape: tuple[int, int], dtype: type) -> None:
    pixels = random_pixels(*shape, dtype)
    result = engine(tiny_network(seed=11)).infer(pixels)
    assert result.linear.shape == (*shape, 3)
    assert result.linear.dtype == np.float32
    assert result.linear.flags.c_contiguous
    assert result.info.num_tiles == 1
    assert_equals_whole(result.linear, pixels, NETWORK)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_identity_is_a_plain_decode(precision: str) -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    identity = build_network(load_weights("identity", None))
    linear = engine(identity, precision=precision).infer(pixels).linear
    np.testing.assert_allclose(linear, (pixels / 255.0) ** 2.24, rtol=2e-6, atol=0)


def test_sixteen_bit_input_keeps_its_depth() -> None:
    pixels = np.arange(30_000, 30_000 + 256, dtype=np.uint16).repeat(3).reshape(16, 16, 3)
    linear = engine(build_network(load_weights("identity", None))).infer(pixels).linear
    np.testing.assert_allclose(linear, (pixels / 65535.0) ** 2.24, rtol=2e-6)
    assert len(np.unique(linear)) == 256


def test_views_and_read_only_arrays_convert_like_copies() -> None:
    pixels = random_pixels(64, 96)
    expected = engine().infer(np.ascontiguousarray(pixels[::-1, ::-2])).linear
    pixels.flags.writeable = False
    np.testing.assert_array_equal(engine().infer(pixels[::-1, ::-2]).linear, expected)


def test_results_do_not_share_memory_with_later_ones() -> None:
    shared, pixels = engine(), random_pixels(32, 32)
    first = shared.infer(pixels)
    before = first.linear.copy()
    shared.infer(255 - pixels)
    np.testing.assert_array_equal(first.linear, before)


class BrokenNetwork(HDRUNet):
    """Returns the input with chosen faults in its samples, whatever the weights."""

    def forward(self, x: Tensor) -> Tensor:
        out = x.clone(memory_format=torch.channels_last)
        out[:, 0, 0, 0] = torch.nan
        out[:, 1, 0, 0] = torch.inf
        out[:, 2, 0, 0] = -torch.inf
        out[:, :, 1, :2] = -0.5
        return out


def test_nan_and_inf_are_kept_and_counted_without_the_padding() -> None:
    result = engine(BrokenNetwork(nf=2)).infer(np.full((3, 1, 3), 255, np.uint8))
    assert np.isnan(result.linear[0, 0, 0])
    assert result.linear[0, 0, 1] == np.inf
    assert result.linear[0, 0, 2] == 0
    info = result.info
    assert (info.num_nan, info.num_inf, info.num_negative) == (1, 2, 1 + 3)
    assert result.num_positive_inf == 1
    assert (result.linear[1] == 0).all()
    assert (result.linear[2] == 1).all()


class GreedyNetwork(HDRUNet):
    """A sound network that runs out of memory above a number of pixels."""

    def __init__(self, max_pixels: int, error: Exception) -> None:
        super().__init__(nf=8)
        self.load_state_dict(tiny_network(seed=11).state_dict())
        self.max_pixels, self.error = max_pixels, error

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] * x.shape[3] > self.max_pixels:
            raise self.error
        return super().forward(x)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_tile_and_goes_on(error: Exception) -> None:
    greedy, pixels = engine(GreedyNetwork(300 * 300, error)), random_pixels(410, 390)
    result = greedy.infer(pixels)
    assert (result.info.num_oom_retries, result.info.tile_px, result.info.num_tiles) == (2, 96, 26)
    assert_equals_whole(result.linear, pixels, NETWORK)


def test_the_smaller_tile_is_remembered() -> None:
    greedy = engine(GreedyNetwork(300 * 300, OUT_OF_MEMORY[0]))
    greedy.infer(random_pixels(410, 390))
    later = greedy.infer(random_pixels(400, 400)).info
    assert (later.num_oom_retries, later.tile_px, later.num_tiles) == (0, 96, 25)


def test_finished_tiles_are_kept_when_a_later_one_fails() -> None:
    """Only regions in the image's middle exceed this limit, so the first tiles succeed and stay."""
    greedy, pixels = engine(GreedyNetwork(230 * 330, OUT_OF_MEMORY[0]), tile_px=128), random_pixels(384, 640)
    result = greedy.infer(pixels)
    assert result.info.num_oom_retries == 1
    assert 15 < result.info.num_tiles < 60
    assert_equals_whole(result.linear, pixels, NETWORK)


def test_memory_for_not_even_the_smallest_tile_is_what_the_machine_lacks() -> None:
    """It is as large for every image, so that it is no fault of this one."""
    greedy = engine(GreedyNetwork(100 * 100, OUT_OF_MEMORY[0]))
    with pytest.raises(MemoryError, match="out of memory even for a tile of"):
        greedy.infer(random_pixels(300, 300))
    assert greedy.infer(random_pixels(80, 90)).info.num_oom_retries == 0


def test_memory_for_the_result_is_what_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    subject = engine()
    pixels = random_pixels(8, 8)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.inference.engine.np.empty", refuse)
        with pytest.raises(MemoryError):
            subject.infer(pixels)
    assert subject.infer(random_pixels(8, 8)).info.num_tiles == 1


DEVICE_LOST = [
    RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError(f"CUDA error: {'long ' * 1000}"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
]


@pytest.mark.parametrize("error", DEVICE_LOST, ids=str)
def test_device_faults_stop_the_job(error: Exception) -> None:
    with pytest.raises(DeviceLostError) as caught:
        engine(GreedyNetwork(0, error)).infer(random_pixels(8, 8))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200
    assert caught.value.__cause__ is error


def test_other_failures_cost_the_image() -> None:
    error = RuntimeError("expected scalar type Float but found BFloat16\nmore")
    with pytest.raises(InferenceError, match=r"^cpu: expected scalar type Float but found BFloat16$"):
        engine(GreedyNetwork(0, error)).infer(random_pixels(8, 8))


def test_a_fault_that_shows_when_a_tile_is_collected_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    class LostTile:
        def result(self) -> None:
            raise DEVICE_LOST[0]

    monkeypatch.setattr(TileRunner, "launch", lambda *_: LostTile())
    with pytest.raises(DeviceLostError, match="unspecified launch failure"):
        engine().infer(random_pixels(8, 8))


def test_a_fault_while_memory_is_freed_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_device(_: TileRunner) -> None:
        raise DEVICE_LOST[0]

    monkeypatch.setattr(TileRunner, "free_memory", lose_device)
    with pytest.raises(DeviceLostError):
        engine(GreedyNetwork(0, OUT_OF_MEMORY[0])).infer(random_pixels(8, 8))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), ">u2"),
    ],
    ids=lambda pixels: f"{pixels.shape} {pixels.dtype.str}",
)
@pytest.mark.parametrize("make", [engine, FakeEngine])
def test_other_arrays_are_refused(pixels: np.ndarray, make: type) -> None:
    with pytest.raises(ValueError, match="uint8 or uint16"):
        make().infer(pixels)


def test_fake_engine_keeps_the_contract() -> None:
    pixels = np.array([[[0, 128, 255]]], np.uint8)
    result = FakeEngine().infer(pixels)
    np.testing.assert_allclose(result.linear, [[[0, (128 / 255) ** 2.24, 2.0]]], rtol=1e-6)
    assert result.linear.dtype == np.float32
    assert result.linear.flags.c_contiguous
    assert (result.info.device, result.info.precision) == (FakeEngine().device, FakeEngine().precision)


def test_budget_sets_the_tile() -> None:
    budget = 300 * 300 * memory.CPU_BYTES_PER_PIXEL
    info = engine(memory_budget_bytes=budget).infer(random_pixels(320, 400)).info
    assert info.tile_px == 108  # with the halo 300 px
    assert info.num_tiles == 12


def test_a_budget_too_small_for_any_tile_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a tile of 64 px needs 256 MiB, but inference may use 64 MiB"):
        engine(memory_budget_bytes=64 * 2**20)


def test_a_tile_that_breaks_the_stated_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="a tile of 1024 px needs"):
        engine(memory_budget_bytes=2**30, tile_px=1024)


def test_a_tile_that_memory_does_not_hold_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 300 * 300 * memory.CPU_BYTES_PER_PIXEL
    monkeypatch.setattr(memory, "cpu_budget_bytes", lambda _num_workers: budget)
    greedy, pixels = engine(tile_px=8192), random_pixels(320, 400)
    assert greedy.infer(pixels).info.tile_px == 108  # as in test_budget_sets_the_tile
    assert engine(tile_px=64).infer(pixels).info.tile_px == 64


def test_no_tile_is_larger_than_kernels_can_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cpu_budget_bytes", lambda _num_workers: 2**50)
    monkeypatch.setattr("pipeline.inference.engine._MAX_REGION_PIXELS", 300 * 300)
    assert engine(tile_px=8192).infer(random_pixels(320, 400)).info.tile_px == 108


def test_workers_share_the_node() -> None:
    with pytest.raises(ConfigError, match="fewer workers"):
        InferenceEngine(tiny_network(), InferenceConfig(device="cpu", precision="fp32"), num_workers=10**9)


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        engine(num_threads=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_warm_up_and_names() -> None:
    warm = engine(precision="bf16")
    warm.warm_up()
    assert (warm.device, warm.precision) == ("cpu", "bf16")
    info = warm.infer(random_pixels(8, 8)).info
    assert (info.device, info.precision) == ("cpu", "bf16")
