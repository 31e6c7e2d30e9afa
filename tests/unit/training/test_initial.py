from __future__ import annotations

import colour
import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.codecs.color import network_to_linear
from pipeline.models.hdrunet import HDRUNet
from pipeline.training.initial import initialise_hidden_layers, start_as_identity, start_as_srgb
from pipeline.training.loss_config import LossConfig
from pipeline.training.losses import training_loss
from pipeline.training.start import starting_network

# The layers that `start_as_identity` sets; whatever feeds a layer of zeros gets no gradient in the first step.
OUTPUTS = {"conv_last.weight", "conv_last.bias", "mask_est.6.weight", "mask_est.6.bias"}


def fresh_network(width: int = 8, seed: int = 0) -> HDRUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HDRUNet(nf=width)


def random_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ldr = torch.rand((2, 3, 32, 32), generator=generator)
    return ldr, ldr * torch.rand(ldr.shape, generator=generator) * 3


def names_with_gradient(network: HDRUNet) -> set[str]:
    return {name for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())}


def step(network: HDRUNet) -> None:
    """One step of plain gradient descent on a batch that the network gets wrong; gradients stay for inspection."""
    network.zero_grad()
    ldr, truth = random_batch()
    training_loss(network(ldr), truth, ldr, LossConfig())[0].backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)


def all_names(network: HDRUNet) -> set[str]:
    return {name for name, _ in network.named_parameters()}


def test_identity_is_the_2_24_decode() -> None:
    network = fresh_network()
    start_as_identity(network)
    ldr, _ = random_batch()
    with torch.no_grad():
        output = network(ldr)
    assert torch.equal(output, ldr)
    np.testing.assert_allclose(network_to_linear(output.numpy()), ldr.numpy() ** 2.24, rtol=1e-4, atol=1e-7)


def test_identity_keeps_the_hidden_layers_and_lets_them_learn_from_the_second_step_on() -> None:
    network, untouched = fresh_network(), fresh_network()
    start_as_identity(network)
    states = network.state_dict(), untouched.state_dict()
    assert {name for name in states[0] if not torch.equal(states[0][name], states[1][name])} == OUTPUTS
    step(network)
    assert names_with_gradient(network) == OUTPUTS
    step(network)
    assert names_with_gradient(network) == all_names(network)


def error_of_greys(network: HDRUNet) -> float:
    """Mean |output - exact sRGB decode| in the gamma domain, over flat pictures of every grey but black."""
    greys = np.arange(1, 256, dtype=np.float32) / 255
    pictures = torch.from_numpy(greys)[:, None, None, None].expand(-1, 3, 8, 8)
    with torch.no_grad():
        inner = network(pictures)[:, :, 4, 4].numpy()
    exact = colour.models.eotf_sRGB(greys.astype(float)) ** (1 / 2.24)
    return float(np.abs(inner - exact[:, None]).mean())


def test_the_srgb_fit_nears_the_exact_decode_and_says_how_near() -> None:
    identity, fitted = fresh_network(16), fresh_network(16)
    start_as_identity(identity)
    stated = start_as_srgb(fitted, seed=1, num_steps=200)
    assert 0 < stated < 0.007
    assert error_of_greys(fitted) < error_of_greys(identity) / 2


def test_the_srgb_fit_depends_on_the_network_and_the_seed_alone() -> None:
    networks = [fresh_network() for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        torch.rand(5)  # the global generator must not matter
        start_as_srgb(network, seed, num_steps=3)
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["mask_est.0.weight"], states[2]["mask_est.0.weight"])


def test_the_srgb_fit_changes_the_mask_alone_and_leaves_no_gradient_behind() -> None:
    network, untouched = fresh_network(), fresh_network()
    start_as_identity(untouched)
    start_as_srgb(network, seed=1, num_steps=3)
    states = network.state_dict(), untouched.state_dict()
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert changed == {name for name in states[0] if name.startswith("mask_est.")}
    # A gradient that is left would be added to that of the first step of training.
    assert all(parameter.grad is None for parameter in network.parameters())


def test_after_the_srgb_fit_the_mask_learns_at_once_and_the_rest_from_the_second_step_on() -> None:
    network = fresh_network()
    start_as_srgb(network, seed=1, num_steps=20)
    step(network)
    masks = {name for name in all_names(network) if name.startswith("mask_est.")}
    assert names_with_gradient(network) == masks | OUTPUTS
    step(network)
    assert names_with_gradient(network) == all_names(network)


def initialised_network(width: int = 8) -> HDRUNet:
    network = fresh_network(width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        initialise_hidden_layers(network)
    return network


def test_initialised_layers_carry_the_picture_through_the_network() -> None:
    ldr, _ = random_batch()
    with torch.no_grad():
        ours, default = (
            float(network._features(ldr).std(dim=(2, 3)).mean())
            for network in (initialised_network(32), fresh_network(32))
        )
    assert 0.05 < ours < 1
    assert ours > 3 * default, "with PyTorch's default the picture fades and biases remain"


def test_initialised_layers_all_learn_from_the_third_step_on() -> None:
    network = initialised_network()
    start_as_identity(network)
    for _ in range(3):
        step(network)
    assert names_with_gradient(network) == all_names(network)


def test_the_network_that_training_starts_from_is_initialised_by_its_seed() -> None:
    states = [starting_network("identity", None, width=8, seed=seed).state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["HR_conv1.weight"], states[2]["HR_conv1.weight"])
    assert not states[0]["recon_trunk2.0.sft1.SFT_scale_conv1.weight"].any()
    assert not states[0]["HR_conv1.bias"].any()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_srgb_fit_of_the_published_width_errs_by_less_than_0_002() -> None:
    network = fresh_network(64)
    assert start_as_srgb(network, seed=0) < 2e-3
    assert error_of_greys(network) < 2e-3
