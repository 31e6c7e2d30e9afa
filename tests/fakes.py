"""Stand-ins that many tests share: small, deterministic, and honest about the contracts they fill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.inference.base import Inference, LdrPixels
from pipeline.records import InferenceInfo
from pipeline.storage import ObjectInfo, ObjectStore
from pipeline.storage.keys import ListingObserver

if TYPE_CHECKING:
    from pipeline.models.hdrunet import HDRUNet


@dataclass(frozen=True)
class FakeEngine:
    """An Engine without a network: a 2.24 decode, and samples at full scale doubled, as if highlights came back."""

    device: str = "cpu"
    precision: str = "fp32"

    def infer(self, pixels: LdrPixels) -> Inference:
        if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            msg = f"pixels must be (H, W, 3) uint8 or uint16, not {pixels.shape} {pixels.dtype}"
            raise ValueError(msg)
        full_scale = np.iinfo(pixels.dtype).max
        linear = (pixels.astype(np.float64) / full_scale) ** 2.24 * np.where(pixels == full_scale, 2.0, 1.0)
        info = InferenceInfo(self.device, self.precision, num_tiles=1, tile_px=max(pixels.shape[:2]))
        return Inference(np.ascontiguousarray(linear, dtype=np.float32), info)


def tiny_network(seed: int = 0, nf: int = 8) -> HDRUNet:
    """Return a narrow HDRUNet with random weights: the same graph and receptive field as the real one, much faster.

    Scaled so that outputs are of order 1 and far context matters (a 48 px halo errs by about 1e-3): PyTorch's default
    initialisation fades so fast with depth that tests on it would pass with almost any fault.
    """
    import torch
    from torch import nn

    from pipeline.models.hdrunet import HDRUNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = HDRUNet(nf=nf).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight).mul_(0.7)
                nn.init.normal_(module.bias, std=0.1)
    return network


class HookedStore:
    """Passes everything on; calls `before(operation, key)` ahead of it, which may raise or act."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.url = inner.url
        self.has_atomic_create = inner.has_atomic_create
        self.before: Callable[[str, str], None] = lambda _operation, _key: None

    def read(self, key: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        self.before("read", key)
        return self.inner.read(key, if_match=if_match, max_bytes=max_bytes)

    def read_range(self, key: str, start: int, num_bytes: int) -> bytes:
        self.before("read", key)
        return self.inner.read_range(key, start, num_bytes)

    def create(self, key: str, data: bytes, *, metadata: Mapping[str, str] | None = None) -> ObjectInfo:
        self.before("create", key)
        return self.inner.create(key, data, metadata=metadata)

    def delete(self, key: str) -> None:
        self.before("delete", key)
        self.inner.delete(key)

    def list(self, prefix: str = "", observer: ListingObserver | None = None) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix, observer)

    def stat(self, key: str) -> ObjectInfo:
        return self.inner.stat(key)

    def replace(self, key: str, data: bytes) -> ObjectInfo:
        return self.inner.replace(key, data)

    def unfinished(self, prefix: str = "") -> Iterator[str]:
        return self.inner.unfinished(prefix)

    def discard_unfinished(self, key: str) -> None:
        self.inner.discard_unfinished(key)

    def once(self, operation: str, text: str, action: Callable[[], object]) -> None:
        """Run `action` ahead of the first such operation, and none after."""

        def before(found: str, key: str) -> None:
            if found == operation and text in key:
                self.before = lambda _operation, _key: None
                action()

        self.before = before

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        return {info.key: self.inner.read(info.key) for info in self.inner.list(prefix)}
