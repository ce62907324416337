"""MGD against an oracle, and its masks."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from core.distill.features.hashing import uniform
from core.distill.features.mgd import MGD
from core.distill.objective import ObjectiveError, Step
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


def kept(seed: int, keys: tuple[int, ...], masked: float) -> bool:
    """Whether a channel or a position of a sample is not masked: the hash in Python's integers."""

    def mixed(state: int) -> int:
        state = ((state ^ (state >> 16)) * 0x7FEB352D) % 2**32
        state = ((state ^ (state >> 15)) * 0x45D9F3B) % 2**32
        return state ^ (state >> 16)

    state = mixed(seed)
    for key in keys:
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
            maps = convolve(maps, own["align.0.weight"], own["align.0.bias"])
        mask = np.zeros_like(maps)
        for row, sample in enumerate(tested.index.tolist()):
            for channel in range(2):
                mask[row, channel] = kept(int(own["seed"]), (epoch or 0, sample, channel), 0.4)
        hidden = relu(convolve(maps * mask, own["generation.0.0.weight"], own["generation.0.0.bias"], padding=1))
        generated: Array = convolve(hidden, own["generation.0.2.weight"], own["generation.0.2.bias"], padding=1)
        squares = (generated - numbers.teacher_taps["stage2"]) ** 2
        return 0.5 * cross_entropy(numbers) + 0.2 * numbers.mean([float(row.sum()) for row in squares])

    assert_equals_oracle(tested, oracle, weight=weight, epoch=epoch)


def test_every_level_has_its_own_layers_and_its_own_mask_of_positions() -> None:
    levels = {"p3": (3, 2, 3), "p4": (2, 2, 2)}
    params = {"weight": 0.2, "ce_weight": 0.5, "masked": 0.4, "mask": "positions"}
    tested = feature_problem("mgd", params, levels, {"p3": (2, 2, 3), "p4": (2, 2, 2)})

    def oracle(numbers: Numbers) -> float:
        own, total = numbers.own, 0.0
        for level, name in enumerate(levels):
            maps = numbers.taps[name]
            if not level:
                maps = convolve(maps, own["align.0.weight"], own["align.0.bias"])
            mask = np.zeros_like(maps)
            for row, sample in enumerate(tested.index.tolist()):
                for y in range(maps.shape[2]):
                    for x in range(maps.shape[3]):
                        mask[row, :, y, x] = kept(int(own["seed"]), (3, sample, level, y, x), 0.4)
            layers = [own[f"generation.{level}.{number}.{part}"] for number in (0, 2) for part in ("weight", "bias")]
            hidden = relu(convolve(maps * mask, layers[0], layers[1], padding=1))
            generated = convolve(hidden, layers[2], layers[3], padding=1)
            squares = (generated - numbers.teacher_taps[name]) ** 2
            total += numbers.mean([float(row.sum()) for row in squares])
        return 0.5 * cross_entropy(numbers) + 0.2 * total

    assert_equals_oracle(tested, oracle, weight=WEIGHT, epoch=3)


class TestMask:
    def test_share_of_masked_channels_is_that_of_the_parameter(self) -> None:
        mask = of_channels(*masked_step(samples=500))
        assert float(mask.float().mean()) == pytest.approx(1 - 0.4, abs=0.03)
        assert mask.float().mean(0).numpy() == pytest.approx(1 - 0.4, abs=0.08)
        assert np.corrcoef(mask.float().numpy().T) == pytest.approx(np.eye(8), abs=0.2)

    @pytest.mark.parametrize("of", ["channels", "positions"])
    def test_mask_changes_with_the_epoch_and_not_with_the_place_in_the_batch(self, of: str) -> None:
        mask_of = of_channels if of == "channels" else of_positions
        method, step = masked_step(samples=50)
        first, again = mask_of(method, step), mask_of(method, step)
        assert torch.equal(first, again)
        order = torch.randperm(50)
        assert torch.equal(mask_of(method, masked_step(samples=50, order=order)[1]), first[order])
        later = mask_of(method, masked_step(samples=50, epoch=1)[1])
        assert 0.3 < float((later != first).float().mean()) < 0.7

    def test_mask_of_a_position_does_not_depend_on_the_size_of_the_batch(self) -> None:
        method, step = masked_step(samples=50)
        small, large = method._kept_positions(step, 0, 3, 4), method._kept_positions(step, 0, 5, 9)
        assert torch.equal(large[:, :, :3, :4], small)
        assert float(large.float().mean()) == pytest.approx(1 - 0.4, abs=0.03)

    def test_masks_of_levels_differ(self) -> None:
        method, step = masked_step(samples=50)
        for first, second in (
            (method._kept_channels(step, 0, 8), method._kept_channels(step, 8, 8)),
            (method._kept_positions(step, 0, 3, 4), method._kept_positions(step, 1, 3, 4)),
        ):
            assert 0.3 < float((first != second).float().mean()) < 0.7

    def test_methods_of_two_seeds_have_different_masks(self) -> None:
        _, step = masked_step(samples=50)
        for mask_of in (of_channels, of_positions):
            masks = [mask_of(build_mgd(seed), step) for seed in (0, 1)]
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


def masked_step(samples: int, order: torch.Tensor | None = None, epoch: int = 0) -> tuple[MGD, Step]:
    rows = feature_problem("mgd", {"masked": 0.4}, {"stage1": (8, 1, 1)}, {"stage1": (8, 1, 1)}, rows=samples)
    chosen = rows.part(torch.arange(samples).tolist() if order is None else order.tolist())
    return build_mgd(0), chosen.step(epoch=epoch)


def of_channels(method: MGD, step: Step) -> torch.Tensor:
    return method._kept_channels(step, 0, 8)[:, :, 0, 0]


def of_positions(method: MGD, step: Step) -> torch.Tensor:
    return method._kept_positions(step, 0, 3, 4)


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


class TestMGDOfPositions(MethodContract):
    method: ClassVar[Any] = {
        "name": "mgd",
        "params": {
            "mask": "positions",
            "masked": 0.5,
            "weight": 1e-3,
            "student_tap": ["stage1", "stage2"],
            "teacher_tap": ["stage1", "stage2"],
        },
    }
    networks: ClassVar[Any] = ("resnet8", "resnet8")
