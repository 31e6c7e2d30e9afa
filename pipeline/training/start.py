"""The network that training starts from."""

from __future__ import annotations

import torch

from pipeline.errors import WeightsError
from pipeline.models.checkpoint import build_network, load_weights
from pipeline.models.hdrunet import HDRUNet
from pipeline.training.initial import initialise_hidden_layers, start_as_identity, start_as_srgb

IDENTITY, SRGB = "identity", "srgb"
BUILT_IN_STARTS = (IDENTITY, SRGB)


def starting_network(name: str, data: bytes | None, *, width: int, seed: int) -> HDRUNet:
    """Build the network to train: from a checkpoint's bytes, or one of BUILT_IN_STARTS with None.

    Built-in starts have hidden layers drawn from `seed`, so that all layers learn; the built-in weights of the same
    name that `convert` knows are zero there. Raises WeightsError for other names, unusable bytes, another width.
    """
    if data is None and name in BUILT_IN_STARTS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = HDRUNet(nf=width)
            initialise_hidden_layers(network)
        if name == IDENTITY:
            start_as_identity(network)
        else:
            start_as_srgb(network, seed)
        return network
    weights = load_weights(name, data)
    if weights.width != width:
        raise WeightsError(f"{name}: its width is {weights.width}; train with --width {weights.width}")
    return build_network(weights)
