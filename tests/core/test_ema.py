"""A moving average of weights: its formula, its buffers, and its state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from core.train.ema import AveragedWeights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 4, 2)).double()


def changed(model: nn.Module, steps: int) -> list[nn.Module]:
    """Copies of a network after each of some arbitrary steps, which also change the statistics of batch norm."""
    copies = []
    for seed in range(steps):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        model(torch.randn(4, 1, 4, 4, generator=generator, dtype=torch.float64))
        copies.append(copy.deepcopy(model))
    return copies


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_averaged_weights_follow_their_formula(decay: float) -> None:
    model = network()
    average = AveragedWeights(model, decay)
    expected: list[torch.Tensor] = []
    for step in changed(model, 8):
        average.update(step)
        new = [parameter.detach() for parameter in step.parameters()]
        expected = [decay * old + (1 - decay) * one for old, one in zip(expected or new, new, strict=True)]
    for ours, theirs in zip(average.network.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_averaged_network_has_the_batch_norm_statistics_of_the_last_step() -> None:
    model = network()
    average = AveragedWeights(model, 0.99)
    for step in changed(model, 5):
        average.update(step)
    for ours, theirs in zip(average.network.buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(next(average.network.parameters()), next(model.parameters()))


def test_averaging_continues_from_its_state() -> None:
    model = network()
    steps = changed(model, 6)
    uninterrupted, first = AveragedWeights(network(), 0.9), AveragedWeights(network(), 0.9)
    for step in steps:
        uninterrupted.update(step)
    for step in steps[:3]:
        first.update(step)
    resumed = AveragedWeights(network(), 0.9)
    resumed.restore(first.state())
    for step in steps[3:]:
        resumed.update(step)
    for name, value in uninterrupted.state().items():
        assert torch.equal(resumed.state()[name], value), name


def test_averaging_leaves_the_network_unchanged_and_needs_no_gradient() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    average = AveragedWeights(model, 0.5)
    average.update(model)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
