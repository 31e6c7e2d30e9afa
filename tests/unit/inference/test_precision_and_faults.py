from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError, DeviceLostError
from pipeline.inference import precision
from pipeline.inference.faults import Fault, classify
from pipeline.inference.precision import cpu_has_bf16, require_gpu, resolve_device, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 sha\n", True),
        ("flags : amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags : fpu avx2 avx512f avx512_bf16x\n", False),
        ("model name : bf16\nflags : avx2\n", False),
        ("", False),
    ],
)
def test_bf16_is_read_from_the_processors_flags(tmp_path: Path, text: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert cpu_has_bf16(cpuinfo) is expected


def test_a_system_without_cpuinfo_has_no_bf16(tmp_path: Path) -> None:
    assert not cpu_has_bf16(tmp_path / "none")


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: str) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("auto", CUDA) == "fp16"


def test_explicit_precision_is_kept_where_it_can_run() -> None:
    for name in ("fp32", "bf16"):
        assert resolve_precision(name, CPU) == name
    for name in ("fp32", "bf16", "fp16"):
        assert resolve_precision(name, CUDA) == name
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        resolve_precision("fp16", CPU)


def visible_cards(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_devices_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    visible_cards(monkeypatch, 0)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="built without CUDA"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ConfigError, match=r"cuda:1: no CUDA device is visible"):
        resolve_device("cuda:1")


def test_a_gpu_that_was_given_and_does_not_answer_is_a_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    visible_cards(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name in ("auto", "cuda", "cuda:1"):
        with pytest.raises(DeviceLostError, match="none answers"):
            require_gpu(name)
    require_gpu("cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    require_gpu("auto")
    visible_cards(monkeypatch, 1)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    require_gpu("cuda")


def test_devices_with_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    visible_cards(monkeypatch, 2)
    assert resolve_device("auto") == resolve_device("cuda") == CUDA
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == CPU
    with pytest.raises(ConfigError, match=r"only 2 CUDA device"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), Fault.OUT_OF_MEMORY),
        (MemoryError(), Fault.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), Fault.OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: out of memory"), Fault.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), Fault.OUT_OF_MEMORY),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), Fault.OUT_OF_MEMORY),
        (RuntimeError("GET was unable to find an engine to execute this computation"), Fault.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: device-side assert triggered"), Fault.DEVICE_LOST),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), Fault.DEVICE_LOST),
        (torch.AcceleratorError("anything"), Fault.DEVICE_LOST),
        (RuntimeError("No CUDA GPUs are available"), Fault.DEVICE_LOST),
        (RuntimeError("The size of tensor a (4) must match"), Fault.OTHER),
    ],
    ids=str,
)
def test_faults_are_told_apart(error: Exception, expected: Fault) -> None:
    assert classify(error) is expected
