"""FT against an oracle, in both variants and both stages."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

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
from tests.core.methods.slow_layers import (
    Array,
    batch_norm,
    convolve,
    convolve_transposed,
    leaky_relu,
    pool_to_smaller,
)

WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem(variant: str = "paper", size: int = 3, **params: Any) -> FeatureProblem:
    chosen = {"variant": variant, "weight": 5.0, "ce_weight": 0.5, "rate": 0.7, "init_epochs": 2} | params
    return feature_problem("ft", chosen, {"stage1": (2, size, size)}, {"stage3": (3, 3, 3)})


def convolutions(numbers: Numbers, name: str, maps: Array, *, normalised: bool = False) -> Array:
    step = 3 if normalised else 2
    for layer in range(3):
        own = {key.removeprefix(f"{name}."): value for key, value in numbers.own.items()}
        weight, bias = own[f"{step * layer}.weight"], own[f"{step * layer}.bias"]
        if name == "decoder":
            maps = convolve_transposed(maps, weight, bias, stride=1, padding=1)
        else:
            maps = convolve(maps, weight, bias, padding=1)
        if normalised:
            norm = f"{step * layer + 1}"
            maps = batch_norm(maps, own[f"{norm}.weight"], own[f"{norm}.bias"], numbers.share)
        maps = leaky_relu(maps, 0.1)
    return maps


def reconstruction(numbers: Numbers) -> float:
    maps = numbers.teacher_taps["stage3"]
    error = convolutions(numbers, "decoder", convolutions(numbers, "encoder", maps)) - maps
    return numbers.mean([float((row**2).mean()) for row in error])


def transfer(numbers: Numbers, variant: str, power: int) -> float:
    public = variant == "public_code"
    own = convolutions(numbers, "translator", numbers.taps["stage1"], normalised=public)
    other = convolutions(numbers, "encoder", numbers.teacher_taps["stage3"])
    rows = []
    for student, teacher in zip(*pool_to_smaller(own, other), strict=True):
        factors = [(factor**2).mean(0) if public else factor for factor in (student, teacher)]
        first, second = (factor / np.sqrt((factor**2).sum()) for factor in factors)
        rows.append(float((np.abs(first - second) ** power).mean()))
    return numbers.mean(rows)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_first_stage_is_the_reconstruction(weight: Tensor | None) -> None:
    tested = problem()
    assert_equals_oracle(tested, reconstruction, weight=weight, epoch=1)
    found = tested.gradients(epoch=1)
    assert {name.split(".")[0] for name in found} == {"own encoder", "own decoder"}
    assert tested.objective.trains(1) == "none"


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize(("variant", "power", "size"), [("paper", 1, 3), ("paper", 2, 2), ("public_code", 1, 4)])
def test_second_stage_is_that_of_the_formula(variant: str, power: int, size: int, weight: Tensor | None) -> None:
    tested = problem(variant, size, power=power)

    def oracle(numbers: Numbers) -> float:
        frozen = {name: value for name, value in start.items() if name.startswith("encoder")}
        fixed = Numbers(**{**numbers.__dict__, "own": numbers.own | frozen})
        return 0.5 * cross_entropy(numbers) + 5 * transfer(fixed, variant, power)

    start = tested.numbers().own
    assert_equals_oracle(tested, oracle, weight=weight, epoch=2)
    found = {name.split(".")[0] for name in tested.gradients(epoch=2)}
    assert found == {"logits", "tap stage1", "own translator"}
    assert tested.objective.trains(2) == "all"


def test_factors_have_the_chosen_rate_of_channels() -> None:
    objective = build("ft", {"rate": 0.5}, {"stage1": (2, 3, 3)}, {"stage1": (6, 3, 3)})
    assert objective.get_parameter("encoder.4.weight").shape == (3, 3, 3, 3)
    assert objective.get_parameter("decoder.4.weight").shape == (6, 6, 3, 3)


@pytest.mark.parametrize("epoch", [0, None])
@pytest.mark.parametrize("variant", ["paper", "public_code"])
def test_one_row_and_16_bits(variant: str, epoch: int | None) -> None:
    assert_finite_for_one_row(problem(variant), epoch)
    assert_near_in_16_bits(problem(variant), epoch)


def test_features_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="teacher_tap: 'features' gives"):
        build("ft", {}, {"stage1": (2, 4, 4)}, {"features": (3,)})


class TestFT(MethodContract):
    method: ClassVar[Any] = {"name": "ft", "params": {"init_epochs": 1, "teacher_tap": "stage1", "weight": 50.0}}


class TestFTWithBatchNorm(MethodContract):
    method: ClassVar[Any] = {
        "name": "ft",
        "params": {"init_epochs": 1, "teacher_tap": "stage1", "variant": "public_code"},
    }


class TestFTFirstStage(MethodContract):
    method: ClassVar[Any] = {"name": "ft", "params": {"init_epochs": 1, "teacher_tap": "stage1", "rate": 0.3}}
    epoch = 0
    # Whole trainings, on two ranks too, are in test_two_stages.
    test_two_ranks_equal_one = None  # type: ignore[assignment]
    test_run_stopped_at_any_step_continues_bit_for_bit = None  # type: ignore[assignment]
