"""The engine on a real card: precision, tiling, copies and memory faults. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from fakes import tiny_network

from pipeline.config import InferenceConfig
from pipeline.errors import ConfigError

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("torch.cuda is not available: no CUDA device, or a CPU build of PyTorch", allow_module_level=True)

from pipeline.inference.engine import InferenceEngine  # noqa: E402 after the skip, like every import of CUDA code
from pipeline.models.checkpoint import build_network, load_weights  # noqa: E402

# Error of linear values relative to 1 + value, random weights; fp32 has TF32 turned off.
BOUND_BY_PRECISION = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.5e-1}


def engine(seed: int = 0, nf: int = 64, **config: object) -> InferenceEngine:
    return InferenceEngine(tiny_network(seed, nf), InferenceConfig.model_validate(config))


def random_pixels(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(height + width)
    return rng.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """PyTorch may use what it holds now and 300 MiB more."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 300 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_auto_is_fp16_on_the_card() -> None:
    auto = engine()
    auto.warm_up()
    assert (auto.device, auto.precision) == (f"cuda:{torch.cuda.current_device()}", "fp16")


@pytest.mark.parametrize("precision", BOUND_BY_PRECISION)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_results_agree_with_the_cpu(precision: str, dtype: type) -> None:
    pixels = random_pixels(201, 303, dtype)
    expected = engine(device="cpu", precision="fp32").infer(pixels).linear
    actual = engine(device="cuda", precision=precision).infer(pixels).linear
    assert (np.abs(actual - expected) / (1 + expected)).max() < BOUND_BY_PRECISION[precision]


@pytest.mark.parametrize("precision", BOUND_BY_PRECISION)
def test_identity_is_exact_in_every_precision(precision: str) -> None:
    pixels = random_pixels(130, 70, np.uint16)
    identity = InferenceEngine(
        build_network(load_weights("identity", None)), InferenceConfig(device="cuda", precision=precision)
    )
    np.testing.assert_allclose(identity.infer(pixels).linear, (pixels / 65535.0) ** 2.24, rtol=1e-5, atol=1e-9)


def test_tiled_equals_whole_in_fp32() -> None:
    pixels = random_pixels(517, 770)
    whole = engine(nf=8, precision="fp32").infer(pixels)
    tiled = engine(nf=8, precision="fp32", tile_px=64).infer(pixels)
    assert (whole.info.num_tiles, tiled.info.num_tiles) == (1, 9 * 13)
    np.testing.assert_allclose(tiled.linear, whole.linear, rtol=1e-5, atol=1e-5)


def test_reused_buffers_do_not_mix_images() -> None:
    shared = engine(nf=8, precision="fp32", tile_px=128)
    images = [random_pixels(height, 900 - height) for height in (700, 100, 400, 30)]
    together = [shared.infer(pixels).linear for pixels in images]
    for pixels, linear in zip(images, together, strict=True):
        np.testing.assert_array_equal(engine(nf=8, precision="fp32", tile_px=128).infer(pixels).linear, linear)


def test_out_of_memory_halves_the_tile(little_memory: None) -> None:
    pixels = random_pixels(1600, 1600)
    greedy = engine(nf=64, precision="fp16", tile_px=1600)
    result = greedy.infer(pixels)
    assert result.info.num_oom_retries >= 1
    assert result.info.tile_px < 1600
    assert np.isfinite(result.linear).all()
    assert greedy.infer(random_pixels(1000, 1000)).info.num_oom_retries == 0


def test_no_memory_at_all_is_what_the_machine_lacks(little_memory: None) -> None:
    hungry = engine(nf=64, precision="fp32", tile_px=64)
    torch.cuda.set_per_process_memory_fraction(1e-4)
    with pytest.raises(MemoryError, match="out of memory even for a tile"):
        hungry.infer(random_pixels(400, 400))


def test_a_card_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="only"):
        engine(device=f"cuda:{torch.cuda.device_count()}")
