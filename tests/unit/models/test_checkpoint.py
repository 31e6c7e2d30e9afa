"""Weights files: every published container loads, every broken one gives one line, and no hostile one runs code."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import tiny_network
from safetensors.torch import save as save_safetensors

from pipeline.errors import WeightsError
from pipeline.models.checkpoint import build_network, git_blob_id, inspect_weights, load_weights, state_sha256
from pipeline.models.descriptor import HDRUNET

# Part of every manifest row of an identity conversion: it may not change.
IDENTITY_SHA256 = "9530cd1383dd48e17bb33b086d448e2877f0c15b63d71904772809f73ab778c5"


def state() -> dict[str, torch.Tensor]:
    return tiny_network(seed=2).state_dict()


def pth(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


CONTAINERS = {
    "plain": lambda: pth(state()),
    "legacy": lambda: pth(state(), legacy=True),
    "ordered": lambda: pth(OrderedDict(state())),
    "module prefix": lambda: pth({f"module.{key}": value for key, value in state().items()}),
    "params": lambda: pth({"params": state()}),
    "params_ema before params": lambda: pth(
        {"params": {key: torch.zeros_like(value) for key, value in state().items()}, "params_ema": state()}
    ),
    "state_dict": lambda: pth(
        {"state_dict": {f"module.{key}": value for key, value in state().items()}, "epoch": 7, "lr": 1e-4}
    ),
    "safetensors": lambda: save_safetensors(state()),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_loads_the_same_network(container: str) -> None:
    data = CONTAINERS[container]()
    weights = load_weights("some/file", data)
    assert weights.width == 8
    assert weights.sha256 == hashlib.sha256(data).hexdigest()
    assert not weights.is_released
    network, image = build_network(weights), torch.rand(1, 3, 8, 8)
    assert not network.training
    assert torch.equal(network(image), tiny_network(seed=2)(image))
    assert weights.num_parameters == sum(parameter.numel() for parameter in network.parameters())


def test_half_precision_files_become_float32() -> None:
    weights = load_weights("half.pth", pth({key: value.half() for key, value in state().items()}))
    assert {tensor.dtype for tensor in weights.state.values()} == {torch.float32}


def test_networks_do_not_share_memory_with_their_weights() -> None:
    weights = load_weights("w.pth", pth(state()))
    build_network(weights).conv_first.weight.zero_()
    assert weights.state["conv_first.weight"].abs().sum() > 0


def test_identity_is_the_full_network_with_a_stable_digest() -> None:
    weights, again = load_weights("identity", None), load_weights("identity", None)
    assert (weights.name, weights.width, weights.num_parameters) == ("identity", 64, HDRUNET.num_parameters)
    assert weights.sha256 == again.sha256 == IDENTITY_SHA256
    assert not weights.is_released


def test_the_digest_of_a_state_sees_names_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    digest = state_sha256(base)
    assert state_sha256(dict(reversed(base.items()))) == digest
    assert state_sha256({**base, "a": torch.arange(6.0).reshape(2, 3)}) != digest
    assert state_sha256({**base, "b": torch.tensor([1.0, 2.0])}) != digest
    assert state_sha256({"a": base["a"], "c": base["b"]}) != digest


def test_git_blob_id_is_gits(tmp_path: Path) -> None:
    assert git_blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_released_checkpoint_is_known_by_its_blob_id(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pth(state())
    assert HDRUNET.released_git_blob == "c3eebd40ba4341925a407b7dbac4b8051910a8bd"
    assert not load_weights("w.pth", data).is_released
    released = dataclasses.replace(HDRUNET, released_git_blob=git_blob_id(data))
    monkeypatch.setattr("pipeline.models.checkpoint.HDRUNET", released)
    assert load_weights("w.pth", data).is_released


def test_inspect_says_what_the_file_is() -> None:
    data = save_safetensors({key: value.bfloat16() for key, value in state().items()})
    summary = inspect_weights("w.safetensors", data)
    assert (summary.name, summary.format, summary.dtype) == ("w.safetensors", "safetensors", "bfloat16")
    assert (summary.num_bytes, summary.width) == (len(data), 8)
    assert summary.sha256 == hashlib.sha256(data).hexdigest()
    assert summary.git_blob_id == git_blob_id(data)
    assert inspect_weights("w.pth", pth(state())).format == "pytorch"
    assert inspect_weights("w.pth", pth(state(), legacy=True)).format == "pytorch (legacy)"
    built_in = inspect_weights("identity", None)
    assert (built_in.format, built_in.git_blob_id, built_in.num_bytes, built_in.dtype) == (
        "built-in",
        None,
        0,
        "float32",
    )


def without(key: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state().items() if name != key}


def with_nan() -> dict[str, torch.Tensor]:
    broken = state()
    broken["HR_conv2.weight"][0, 0, 0, 0] = torch.nan
    return broken


FAULTS = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"not a checkpoint at all", "neither a PyTorch nor a safetensors file"),
    "half a zip": (lambda: pth(state())[: len(pth(state())) // 2], r"\(RuntimeError: [^.]*\)$"),
    "html": (lambda: b"<!DOCTYPE html><html>", "HTML"),
    "lfs pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "truncated zip": (lambda: pth(state())[:-5000], "truncated"),
    "truncated legacy": (lambda: pth(state(), legacy=True)[:2000], "truncated"),
    "truncated safetensors": (lambda: save_safetensors(state())[:-100], "damaged safetensors"),
    "missing key": (lambda: pth(without("conv_last.bias")), "missing: conv_last.bias"),
    "missing first layer": (lambda: pth(without("conv_first.weight")), "missing: conv_first.weight"),
    "unexpected key": (lambda: pth({**state(), "extra.weight": torch.ones(1)}), "unexpected: extra.weight"),
    "another network": (
        lambda: pth({f"layer{i}.weight": torch.ones(1) for i in range(100)}),
        "missing: conv_first.weight, conv_first.bias, SFT_layer1.SFT_scale_conv0.weight and 295 more",
    ),
    "wrong shape": (
        lambda: pth({**state(), "conv_last.weight": torch.ones(3, 8, 1, 1)}),
        r"wrong shape: conv_last.weight is \[3, 8, 1, 1\], not \[3, 8, 3, 3\]",
    ),
    "odd width": (lambda: pth({**state(), "conv_first.weight": torch.ones(7, 3, 3, 3)}), "width 7"),
    "absurd width": (
        lambda: pth({**state(), "conv_first.weight": torch.ones(1).expand(2**20, 3, 3, 3)}),
        "width 1048576",
    ),
    "NaN": (lambda: pth(with_nan()), "HR_conv2.weight holds NaN"),
    "integers": (lambda: pth({**state(), "conv_last.bias": torch.ones(3, dtype=torch.int64)}), "floating-point"),
    "sparse": (lambda: pth({**state(), "conv_last.bias": torch.ones(3).to_sparse()}), "dense"),
    "no tensors": (lambda: pth({"conv_first.weight": "x"}), "floating-point"),
    "number keys": (lambda: pth({1: torch.ones(1)}), "names are not text"),
    "list": (lambda: pth([torch.ones(1)]), "not a state dict"),
    "empty dict": (lambda: pth({}), "not a state dict"),
    "ugly names": (lambda: pth({**state(), "a\nb\x1b[31m" + "x" * 500: torch.ones(1)}), r"unexpected: a\\nb\\x1b"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_line_that_names_file_and_fault(fault: str) -> None:
    make, expected = FAULTS[fault]
    with pytest.raises(WeightsError, match=expected) as caught:
        load_weights("models/broken.pth", make())
    message = str(caught.value)
    assert message.startswith("models/broken.pth: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 400
    assert message.isprintable()


def test_built_in_names_are_known_ones() -> None:
    with pytest.raises(WeightsError, match="no such built-in"):
        load_weights("identitty", None)


class Hostile:
    """Unpickling it calls `function(argument)`."""

    def __init__(self, function: object, argument: str) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, os.system, subprocess.getoutput, eval, exec])
@pytest.mark.parametrize("wrap", ["zip", "legacy", "bare pickle", "inside a good state"])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, function: object, wrap: str) -> None:
    proof = tmp_path / "proof"
    arguments = {os.mkdir: str(proof), eval: f"__import__('os').mkdir({str(proof)!r})"}
    arguments[exec] = arguments[eval]
    hostile = Hostile(function, arguments.get(function, f"mkdir {proof}"))
    data = {
        "zip": lambda: pth(hostile),
        "legacy": lambda: pth(hostile, legacy=True),
        "bare pickle": lambda: pickle.dumps(hostile),
        "inside a good state": lambda: pth({**state(), "conv_last.bias": hostile}),
    }[wrap]()
    with pytest.raises(WeightsError, match=r"^evil\.pth: ") as caught:
        load_weights("evil.pth", data)
    assert len(str(caught.value).splitlines()) == 1
    assert not proof.exists()
    if wrap == "bare pickle":
        pickle.loads(data)  # the same bytes do run code where pickle is trusted: the proof can fail
        assert proof.exists()


def test_a_refused_global_is_named() -> None:
    with pytest.raises(WeightsError, match=r"refused, because loading it would run code from the file \(.*system\)"):
        load_weights("evil.pth", pth(Hostile(os.system, "true")))


@pytest.mark.parametrize("container", ["plain", "legacy", "safetensors"])
def test_damaged_bytes_load_or_fail_in_one_printable_line(container: str) -> None:
    good, rng = CONTAINERS[container](), np.random.default_rng(7)
    messages = []
    for i in range(40):
        damaged = bytearray(good)
        for at in rng.integers(0, 4000 if i % 2 else len(good), 30):
            damaged[at] = rng.integers(256)
        if i % 4 == 0:
            del damaged[int(rng.integers(len(good))) :]
        try:
            load_weights("w", bytes(damaged))
        except WeightsError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(message.isprintable() and len(message) < 400 for message in messages)
