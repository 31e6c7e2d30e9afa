"""One step: what it changes, what it skips, where it starts, in which arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import tiny_network
from safetensors.torch import save as save_safetensors
from torch import Tensor
from training_runs import NumberedPatches, tiny_config

from pipeline.errors import ConfigError, WeightsError
from pipeline.training.average import WeightAverage
from pipeline.training.learner import Learner, LossFunction
from pipeline.training.loss_config import LossConfig
from pipeline.training.losses import training_loss
from pipeline.training.peers import Peers
from pipeline.training.precision import MixedPrecisionNetwork, resolve_training_precision
from pipeline.training.start import starting_network

CPU = torch.device("cpu")


def learner(loss: LossFunction = training_loss, **values: object) -> Learner:
    config = tiny_config(**values)
    network = starting_network("identity", None, width=8, seed=0)
    return Learner(config, network, device=CPU, precision="fp32", peers=Peers(), loss=loss)


def batch(number: int = 0) -> tuple[Tensor, Tensor]:
    patches = NumberedPatches()
    pairs = [patches[number], patches[number + 1]]
    return torch.stack([ldr for ldr, _ in pairs]), torch.stack([truth for _, truth in pairs])


def test_the_identity_start_returns_its_input_and_every_layer_learns_from_the_third_step_on() -> None:
    network = starting_network("identity", None, width=8, seed=3)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network(x), x)
    # The first step moves the output layers, the second what modulates features, the third what modulation rests on.
    for _ in range(2):
        (network(x) - 1.1 * x).abs().mean().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(parameter.grad, alpha=0.1)
                parameter.grad = None
    (network(x) - 1.1 * x).abs().mean().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in network.parameters())


def test_a_start_depends_on_the_seed_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (starting_network("identity", None, width=8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.conv_first.weight, again.conv_first.weight)
    assert not torch.equal(first.conv_first.weight, other.conv_first.weight)


def test_a_start_from_a_file_needs_its_width() -> None:
    network = tiny_network()
    data = save_safetensors(network.state_dict())
    loaded = starting_network("w.safetensors", data, width=8, seed=0)
    assert torch.equal(loaded.conv_last.weight, network.conv_last.weight)
    with pytest.raises(WeightsError, match="train with --width 8"):
        starting_network("w.safetensors", data, width=16, seed=0)
    with pytest.raises(WeightsError, match="no such built-in"):
        starting_network("nonsense", None, width=8, seed=0)


def test_learning_lowers_the_loss() -> None:
    taught = learner()
    ldr, _ = batch()
    losses = [taught.learn((ldr, ldr.float() / 255 * 1.3), 3e-3).loss for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]


def test_large_gradients_are_clipped_to_the_norm() -> None:
    def steep(output: Tensor, truth: Tensor, ldr: Tensor, config: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
        return 1e3 * (output - truth).abs().mean(), {}

    taught = learner(steep, grad_clip_norm=0.5)
    gradients: list[float] = []
    step = taught._optimiser.step

    def measured(*args: object, **kwargs: object) -> object:
        parameters = list(taught._network.parameters())
        gradients.append(math.sqrt(sum(float(p.grad.square().sum()) for p in parameters)))
        return step(*args, **kwargs)

    taught._optimiser.step = measured
    result = taught.learn(batch(), 1e-3)
    assert result.grad_norm > 100
    assert gradients == pytest.approx([0.5], rel=1e-3)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_leaves_everything_as_it_was(poison: str) -> None:
    def poisoned(output: Tensor, truth: Tensor, ldr: Tensor, config: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = training_loss(output, truth, ldr, config)
        if poison == "loss":
            return loss * math.nan, parts
        # The derivative of sqrt at 0 is infinite, its value is not.
        return loss + torch.sqrt(output.sum() * 0), parts

    taught = learner()
    taught.learn(batch(), 1e-3)
    before = {name: tensor.clone() for name, tensor in taught._network.state_dict().items()}
    average = {name: tensor.clone() for name, tensor in taught.averaged_network.state_dict().items()}
    taught._loss = poisoned
    assert taught.learn(batch(2), 1e-3).is_skipped
    assert all(torch.equal(before[name], tensor) for name, tensor in taught._network.state_dict().items())
    assert all(torch.equal(average[name], tensor) for name, tensor in taught.averaged_network.state_dict().items())
    taught._loss = training_loss
    assert not taught.learn(batch(4), 1e-3).is_skipped


def test_the_average_follows_the_formula() -> None:
    network = tiny_network(seed=1).requires_grad_(True)
    average = WeightAverage(network)
    expected = network.conv_last.weight.detach().clone()
    with torch.no_grad():
        for decay in (0.1, 0.9, 0.5):
            network.conv_last.weight += 1
            average.update(network, decay)
            expected = decay * expected + (1 - decay) * network.conv_last.weight
    assert torch.allclose(average.network.conv_last.weight, expected, atol=1e-6)
    assert average.num_updates == 3
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_in_fp32_the_mixed_network_is_the_network() -> None:
    network = tiny_network()
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(MixedPrecisionNetwork(network, "fp32")(x), network(x))


def test_in_bf16_the_output_stage_stays_in_float32() -> None:
    network = tiny_network()
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    output = MixedPrecisionNetwork(network, "bf16")(x)
    assert output.dtype == torch.float32
    assert 0 < float((output - network(x)).abs().mean()) < 0.05
    # bf16 has 8 significant bits: almost no float32 result would survive the round trip through it.
    assert float((output.bfloat16().float() == output).float().mean()) < 0.05


def test_precision_on_a_cpu() -> None:
    assert resolve_training_precision("auto", CPU) in {"fp32", "bf16"}
    assert resolve_training_precision("bf16", CPU) == "bf16"
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        resolve_training_precision("fp16", CPU)
