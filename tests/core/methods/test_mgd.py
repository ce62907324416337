"""MGD against an oracle, and its masks."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from core.distill.features.hashing import uniform
from core.distill.features.mgd import MGD
from core.distill.objective import ObjectiveError
from core.testing import MethodContract
from tests.core.methods.feature_problem import (
    FeatureProblem,
    Numbers,
    assert_equals_oracle,
    assert_finite_for_one_row,
    assert_near_in_16_bits,
    build,
    cross_entropy,
    feature_problem,
)
from tests.core.methods.slow_layers import Array, convolve, relu

WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem(channels: int = 3, **params: Any) -> FeatureProblem:
    return feature_problem(
        "mgd",
        {"weight": 0.2, "ce_weight": 0.5, "masked": 0.4} | params,
        {"stage3": (channels, 3, 3)},
        {"stage2": (2, 3, 3)},
    )


def kept(seed: int, epoch: int, sample: int, channel: int, masked: float) -> bool:
    """Whether a channel of a sample is not masked: the hash in Python's integers."""

    def mixed(state: int) -> int:
        state = ((state ^ (state >> 16)) * 0x7FEB352D) % 2**32
        state = ((state ^ (state >> 15)) * 0x45D9F3B) % 2**32
        return state ^ (state >> 16)

    state = mixed(seed)
    for key in (epoch, sample, channel):
        state = mixed(((state ^ key) + 0x9E3779B9) % 2**32)
    return (state >> 8) / 2**24 >= masked


@pytest.mark.parametrize("epoch", [None, 3])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize("channels", [2, 3])
def test_loss_and_gradient_are_those_of_the_formula(
    channels: int, weight: torch.Tensor | None, epoch: int | None
) -> None:
    tested = problem(channels)

    def oracle(numbers: Numbers) -> float:
        own, maps = numbers.own, numbers.taps["stage3"]
        if channels != 2:
            maps = convolve(maps, own["align.weight"], own["align.bias"])
        mask = np.zeros_like(maps)
        for row, sample in enumerate(tested.index.tolist()):
            for channel in range(2):
                mask[row, channel] = kept(int(own["seed"]), epoch or 0, sample, channel, 0.4)
        hidden = relu(convolve(maps * mask, own["generation.0.weight"], own["generation.0.bias"], padding=1))
        generated: Array = convolve(hidden, own["generation.2.weight"], own["generation.2.bias"], padding=1)
        squares = (generated - numbers.teacher_taps["stage2"]) ** 2
        return 0.5 * cross_entropy(numbers) + 0.2 * numbers.mean([float(row.sum()) for row in squares])

    assert_equals_oracle(tested, oracle, weight=weight, epoch=epoch)


class TestMask:
    def test_share_of_masked_channels_is_that_of_the_parameter(self) -> None:
        mask = MGD._kept(*masked_step(samples=500))
        assert float(mask.float().mean()) == pytest.approx(1 - 0.4, abs=0.03)
        assert mask.float().mean(0).numpy() == pytest.approx(1 - 0.4, abs=0.08)
        assert np.corrcoef(mask.float().numpy().T) == pytest.approx(np.eye(8), abs=0.2)

    def test_mask_changes_with_the_epoch_and_not_with_the_place_in_the_batch(self) -> None:
        method, step, channels = masked_step(samples=50)
        first, again = method._kept(step, channels), method._kept(step, channels)
        assert torch.equal(first, again)
        order = torch.randperm(50)
        shuffled = masked_step(samples=50, order=order)[1]
        assert torch.equal(method._kept(shuffled, channels), first[order])
        later = masked_step(samples=50, epoch=1)[1]
        assert 0.3 < float((method._kept(later, channels) != first).float().mean()) < 0.7

    def test_methods_of_two_seeds_have_different_masks(self) -> None:
        _, step, channels = masked_step(samples=50)
        masks = [build_mgd(seed)._kept(step, channels) for seed in (0, 1)]
        assert not torch.equal(*masks)

    def test_seed_is_in_the_checkpoint(self) -> None:
        assert "seed" in build_mgd(0).state_dict()

    def test_numbers_are_uniform(self) -> None:
        numbers = uniform(torch.tensor(7), torch.arange(20_000)).double().numpy()
        assert 0 <= numbers.min() < numbers.max() < 1
        counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
        assert np.square(counts - 1000).sum() / 1000 < 43.8  # the 99.9 % quantile of χ² with 19 degrees of freedom


def build_mgd(seed: int) -> MGD:
    objective = build("mgd", {"masked": 0.4}, {"stage1": (8, 2, 2)}, {"stage1": (8, 2, 2)}, seed=seed)
    assert isinstance(objective, MGD)
    return objective


def masked_step(samples: int, order: torch.Tensor | None = None, epoch: int = 0) -> tuple[MGD, Any, int]:
    rows = feature_problem("mgd", {"masked": 0.4}, {"stage1": (8, 1, 1)}, {"stage1": (8, 1, 1)}, rows=samples)
    chosen = rows.part(torch.arange(samples).tolist() if order is None else order.tolist())
    return build_mgd(0), chosen.step(epoch=epoch), 8


def test_one_row_and_16_bits() -> None:
    assert_finite_for_one_row(problem())
    assert_near_in_16_bits(problem())


def test_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(
        ObjectiveError, match=r"student_tap: 'stage1' gives \(3, 4, 4\), and teacher_tap: 'stage1' \(3, 2, 2\)"
    ):
        build("mgd", {}, {"stage1": (3, 4, 4)}, {"stage1": (3, 2, 2)})


class TestMGD(MethodContract):
    method: ClassVar[Any] = {"name": "mgd", "params": {"teacher_tap": "stage2", "weight": 1e-3}}
