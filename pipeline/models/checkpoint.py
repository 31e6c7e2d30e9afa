"""Reading HDRUNet weights safely, and saying exactly what they are.

`.pth` files go through `torch.load(weights_only=True)`, which builds tensors and plain containers and runs no code from
the file; `.safetensors` files hold no code. Every fault becomes one WeightsError that names the file and the fault.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pipeline.errors import WeightsError, first_line
from pipeline.models.descriptor import HDRUNET
from pipeline.models.hdrunet import HDRUNet

IDENTITY = "identity"
MAX_WIDTH = 1024

# BasicSR stores averaged weights beside the raw ones; they are the ones meant for inference.
_WRAPPERS = ("params_ema", "params", "state_dict")
_PREFIX = "module."
_MAX_NAMED = 3
# How torch's restricted unpickler names what it would have had to import and call.
_REFUSED_GLOBAL = re.compile(r"GLOBAL (\S+)")


@dataclass(frozen=True)
class LoadedWeights:
    """A validated HDRUNet state.

    `sha256` is of the file's bytes, or of the canonical state for built-in weights. `state` maps parameter names to
    float32 CPU tensors. `width` is nf. `is_released` is True for the checkpoint that the authors published.
    """

    name: str
    sha256: str
    state: dict[str, Tensor]
    num_parameters: int
    width: int
    is_released: bool


@dataclass(frozen=True, slots=True)
class WeightsSummary:
    """What `hdrfleet weights inspect` prints. `dtype` is that of the stored tensors; ids are lower-case hex."""

    name: str
    format: str
    num_bytes: int
    num_parameters: int
    width: int
    dtype: str
    sha256: str
    git_blob_id: str | None
    is_released: bool


def load_weights(name: str, data: bytes | None) -> LoadedWeights:
    """Load weights from a file's bytes, or the built-in `identity` with None.

    `name` is what messages show: it must hold no credentials. Raises WeightsError.
    """
    if data is None:
        return _built_in(name)
    state = _normalise(name, _parse(name, data))
    width = _check_shapes(name, state)
    return LoadedWeights(
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        state={key: _to_float32(name, key, tensor) for key, tensor in state.items()},
        num_parameters=sum(tensor.numel() for tensor in state.values()),
        width=width,
        is_released=git_blob_id(data) == HDRUNET.released_git_blob,
    )


def inspect_weights(name: str, data: bytes | None) -> WeightsSummary:
    """Load weights as `load_weights` does and describe them. Raises WeightsError."""
    weights = load_weights(name, data)
    stored = weights.state if data is None else _normalise(name, _parse(name, data))
    return WeightsSummary(
        name=name,
        format="built-in" if data is None else _format_of(data),
        num_bytes=0 if data is None else len(data),
        num_parameters=weights.num_parameters,
        width=weights.width,
        dtype=", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stored.values()})),
        sha256=weights.sha256,
        git_blob_id=None if data is None else git_blob_id(data),
        is_released=weights.is_released,
    )


def build_network(weights: LoadedWeights) -> HDRUNet:
    """Build the network in the width of the weights, in evaluation mode, float32, on the CPU."""
    with torch.device("meta"):
        network = HDRUNet(nf=weights.width)
    network.load_state_dict({key: tensor.clone() for key, tensor in weights.state.items()}, assign=True)
    return network.eval().requires_grad_(False)


def git_blob_id(data: bytes) -> str:
    """Return git's blob id: SHA-1 over `blob <size>\\0` and the bytes."""
    digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return a digest of names, shapes and float32 little-endian values, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        values = state[key].detach().to(torch.float32).contiguous().numpy().astype("<f4")
        digest.update(f"{key} {list(values.shape)}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _built_in(name: str) -> LoadedWeights:
    if name != IDENTITY:
        raise WeightsError(f"{name}: no such built-in weights; give {IDENTITY!r} or a .pth or .safetensors file")
    state = {key: torch.zeros(shape) for key, shape in _expected_shapes(HDRUNET.width).items()}
    state["mask_est.6.bias"].fill_(1.0)
    num_parameters = sum(tensor.numel() for tensor in state.values())
    return LoadedWeights(name, state_sha256(state), state, num_parameters, HDRUNET.width, is_released=False)


def _format_of(data: bytes) -> str:
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return "safetensors"
    return "pytorch" if data.startswith(b"PK\x03\x04") else "pytorch (legacy)"


def _parse(name: str, data: bytes) -> object:
    if not data:
        raise WeightsError(f"{name}: the file is empty")
    if data.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{name}: this is a Git LFS pointer, not the weights; run 'git lfs pull'")
    if data.lstrip()[:1] == b"<":
        raise WeightsError(f"{name}: this is an HTML or XML page, not weights; the download went wrong")
    if _format_of(data) == "safetensors":
        try:
            return load_safetensors(data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise WeightsError(f"{name}: damaged safetensors file ({_described(error)})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: the outcome says enough
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler fed damaged or hostile bytes can raise anything
        raise WeightsError(f"{name}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    refused = _REFUSED_GLOBAL.search(str(error))
    if refused:
        return f"refused, because loading it would run code from the file ({_printable(refused[1], 80)})"
    # torch's text for other pickle faults is advice to load the file unsafely.
    fault = type(error).__name__ if isinstance(error, pickle.UnpicklingError) else _described(error)
    return f"truncated, damaged or neither a PyTorch nor a safetensors file ({fault})"


def _described(error: Exception) -> str:
    # torch goes on with advice that is cut somewhere.
    name, text = type(error).__name__, first_line(error).partition(". ")[0]
    return name if text == name else f"{name}: {_printable(text, 120)}"


def _printable(text: str, max_chars: int) -> str:
    """Escape and cut text that may come from a hostile file: no control character reaches a terminal or a log."""
    return ascii(text)[1:-1][:max_chars]


def _normalise(name: str, loaded: object) -> dict[str, Tensor]:
    """Unwrap the containers that training tools add and check that what remains maps names to dense float tensors."""
    if isinstance(loaded, Mapping):
        loaded = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(f"{name}: holds {type(loaded).__name__}, not a state dict of named tensors")
    if not all(isinstance(key, str) for key in loaded):
        raise WeightsError(f"{name}: holds parameters whose names are not text")
    if all(key.startswith(_PREFIX) for key in loaded):
        loaded = {key.removeprefix(_PREFIX): value for key, value in loaded.items()}
    bad = [key for key, value in loaded.items() if not _is_dense_float(value)]
    if bad:
        raise WeightsError(f"{name}: not dense floating-point tensors: {_name_some(bad)}")
    return dict(loaded)


def _is_dense_float(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
    )


def _check_shapes(name: str, state: Mapping[str, Tensor]) -> int:
    first = state.get("conv_first.weight")
    width = HDRUNET.width if first is None or first.ndim != 4 else first.shape[0]
    if width < 2 or width % 2 or width > MAX_WIDTH:
        raise WeightsError(f"{name}: width {width} is not an even number from 2 to {MAX_WIDTH}")
    expected = _expected_shapes(width)
    faults = [
        ("missing", [key for key in expected if key not in state]),
        ("unexpected", [key for key in state if key not in expected]),
        (
            "wrong shape",
            [
                f"{key} is {list(state[key].shape)}, not {list(shape)}"
                for key, shape in expected.items()
                if key in state and state[key].shape != shape
            ],
        ),
    ]
    found = [f"{fault}: {_name_some(names)}" for fault, names in faults if names]
    if found:
        raise WeightsError(f"{name}: not HDRUNet weights; " + "; ".join(found))
    return width


def _expected_shapes(width: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: tensor.shape for key, tensor in HDRUNet(nf=width).state_dict().items()}


def _to_float32(name: str, key: str, tensor: Tensor) -> Tensor:
    values = tensor.detach().to(torch.float32).clone(memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(values).all()):
        raise WeightsError(f"{name}: {key} holds NaN or infinite values")
    return values


def _name_some(names: list[str]) -> str:
    """Name the first few."""
    shown = ", ".join(_printable(name, 80) for name in names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"
