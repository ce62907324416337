"""CWD against an oracle, and what it does not depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.distill.features.cwd import channel_divergence
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
from tests.core.methods.slow_layers import convolve, pool_to_smaller

Array = NDArray[np.float64]
# The first level has other channels, the second other sizes; a surplus one of the teacher is left out.
STUDENT = {"p3": (3, 4, 5), "p4": (2, 4, 2)}
TEACHER = {"p2": (2, 8, 9), "p3": (2, 4, 5), "p4": (2, 2, 3)}
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem(**params: Any) -> FeatureProblem:
    chosen = {"weight": 3.0, "ce_weight": 0.5, "temperature": 2.0} | params
    return feature_problem("cwd", chosen, STUDENT, TEACHER)


def softmax(values: Array) -> Array:
    exponentials: Array = np.exp(values - values.max())
    result: Array = exponentials / exponentials.sum()
    return result


def divergence(student: Array, teacher: Array, temperature: float) -> float:
    """Return the mean over the channels of the maps (C, H, W) of an image."""
    total = 0.0
    for own, other in zip(student, teacher, strict=True):
        p, q = softmax(own.ravel() / temperature), softmax(other.ravel() / temperature)
        total += temperature**2 * float((q * np.log(q / p)).sum())
    return total / len(student)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_loss_and_gradient_are_those_of_the_formula(weight: torch.Tensor | None) -> None:
    def oracle(numbers: Numbers) -> float:
        total = 0.0
        for number, name in enumerate(STUDENT):
            student, teacher = pool_to_smaller(numbers.taps[name], numbers.teacher_taps[name])
            if not number:
                student = convolve(student, numbers.own["adapters.0.weight"], numbers.own["adapters.0.bias"])
            total += numbers.mean([divergence(*images, 2.0) for images in zip(student, teacher, strict=True)])
        return 0.5 * cross_entropy(numbers) + 3 * total

    assert_equals_oracle(problem(), oracle, weight=weight)


def test_number_that_is_added_to_a_channel_does_not_matter() -> None:
    student, teacher = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    shift = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    value = channel_divergence(student, teacher, 1.5)
    torch.testing.assert_close(channel_divergence(student + shift, teacher, 1.5), value)
    torch.testing.assert_close(channel_divergence(student, teacher + shift, 1.5), value)
    assert channel_divergence(teacher + shift, teacher, 1.5).abs().max() < 1e-12
    assert (value > 0).all()


def test_temperature_keeps_the_size_of_a_small_gradient() -> None:
    """τ² makes the gradient of a small difference independent of a high τ, as in KD."""
    teacher = 0.01 * torch.randn(1, 2, 4, 4, dtype=torch.float64)
    student = (teacher + 0.01 * torch.randn(1, 2, 4, 4, dtype=torch.float64)).requires_grad_()
    first, second = (
        torch.autograd.grad(channel_divergence(student, teacher, temperature).sum(), student)[0]
        for temperature in (20.0, 80.0)
    )
    torch.testing.assert_close(first, second, rtol=0.01, atol=0)


def test_one_row_and_16_bits() -> None:
    assert_finite_for_one_row(problem())
    assert_near_in_16_bits(problem())


def test_sizes_of_maps_may_change_from_batch_to_batch() -> None:
    objective = problem().objective
    student, teacher = ({name: (shape[0], 7, 3) for name, shape in maps.items()} for maps in (STUDENT, TEACHER))
    other = replace(feature_problem("cwd", {}, student, teacher), objective=objective)
    assert other.terms().total.isfinite()


def test_adapter_is_there_only_where_channels_differ() -> None:
    assert not list(build("cwd", {}, {"p3": (2, 4, 4)}, {"p3": (2, 4, 4)}).parameters())
    with pytest.raises(ObjectiveError, match="'p3' of the student has 3 channels"):
        build("cwd", {"adapter": False}, STUDENT, TEACHER)


class TestCWD(MethodContract):
    method = "cwd"
