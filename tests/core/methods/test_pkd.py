"""PKD against an oracle, and what it does not depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.distill.features.pkd import standardised_distance
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
EQUAL = torch.full((4,), 0.25, dtype=torch.float64)


def problem(**params: Any) -> FeatureProblem:
    return feature_problem("pkd", {"weight": 3.0, "ce_weight": 0.5} | params, STUDENT, TEACHER)


def moments(values: Array, share: Array) -> tuple[float, float]:
    """Return mean and standard deviation of a channel (R, H, W)."""
    mean = sum(float(part) * float(image.mean()) for part, image in zip(share, values, strict=True))
    variance = sum(float(part) * float(((image - mean) ** 2).mean()) for part, image in zip(share, values, strict=True))
    return mean, float(np.sqrt(variance))


def distance(student: Array, teacher: Array, share: Array) -> float:
    total = 0.0
    for channel in range(student.shape[1]):
        own, other = student[:, channel], teacher[:, channel]
        (mean, deviation), (target_mean, target_deviation) = moments(own, share), moments(other, share)
        for part, image, target in zip(share, own, other, strict=True):
            difference = (image - mean) / (deviation + 1e-6) - (target - target_mean) / (target_deviation + 1e-6)
            total += float(part) * float((difference**2).mean()) / 2
    return float(total / student.shape[1])


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_loss_and_gradient_are_those_of_the_formula(weight: torch.Tensor | None) -> None:
    def oracle(numbers: Numbers) -> float:
        total = 0.0
        for number, name in enumerate(STUDENT):
            student, teacher = pool_to_smaller(numbers.taps[name], numbers.teacher_taps[name])
            if not number:
                student = convolve(student, numbers.own["adapters.0.weight"], numbers.own["adapters.0.bias"])
            total += distance(student, teacher, numbers.share)
        return 0.5 * cross_entropy(numbers) + 3 * total

    assert_equals_oracle(problem(), oracle, weight=weight)


def test_it_is_one_minus_the_correlation_of_each_channel() -> None:
    student, teacher = torch.randn(4, 3, 5, 6, dtype=torch.float64), torch.randn(4, 3, 5, 6, dtype=torch.float64)
    channels = [np.corrcoef(student[:, c].numpy().ravel(), teacher[:, c].numpy().ravel())[0, 1] for c in range(3)]
    assert float(standardised_distance(student, teacher, EQUAL)) == pytest.approx(1 - np.mean(channels), rel=1e-5)


def test_mean_and_scale_of_a_channel_do_not_matter() -> None:
    student, teacher = torch.randn(4, 3, 5, 6, dtype=torch.float64), torch.randn(4, 3, 5, 6, dtype=torch.float64)
    value = float(standardised_distance(student, teacher, EQUAL))
    scale, shift = torch.tensor([0.5, 2.0, 30.0]).view(1, 3, 1, 1), torch.tensor([-3.0, 5.0, 0.5]).view(1, 3, 1, 1)
    for maps in ((student * scale + shift, teacher), (student, teacher * scale + shift)):
        assert float(standardised_distance(*maps, EQUAL)) == pytest.approx(value, rel=1e-5)
    opposite = float(standardised_distance(-teacher * scale + shift, teacher, EQUAL))
    assert opposite == pytest.approx(2.0, rel=1e-5)
    assert float(standardised_distance(teacher * scale + shift, teacher, EQUAL)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("constant", ["student", "teacher", "both"])
def test_channel_without_variance_has_no_gradient(constant: str) -> None:
    maps = {name: torch.randn(4, 1, 3, 3, dtype=torch.float64) for name in ("student", "teacher")}
    for name in maps:
        if constant in (name, "both"):
            maps[name] = torch.full_like(maps[name], 0.7)
    student = maps["student"].requires_grad_()
    value = standardised_distance(student, maps["teacher"], EQUAL)
    (gradient,) = torch.autograd.grad(value, student)
    assert float(value.detach()) == pytest.approx(0.0 if constant == "both" else 0.5, rel=1e-5)
    assert gradient.isfinite().all()
    assert float(gradient.abs().max()) < (1e-5 if constant != "student" else 1e6)


def test_one_row_and_16_bits() -> None:
    assert_finite_for_one_row(problem())
    assert_near_in_16_bits(problem())
    single = feature_problem("pkd", {}, {"p6": (2, 1, 1)}, {"p6": (2, 1, 1)}).part([0])
    assert float(single.terms().values["pkd"]) == 0


def test_sizes_of_maps_may_change_from_batch_to_batch() -> None:
    objective = problem().objective
    student, teacher = ({name: (shape[0], 7, 3) for name, shape in maps.items()} for maps in (STUDENT, TEACHER))
    other = replace(feature_problem("pkd", {}, student, teacher), objective=objective)
    assert other.terms().total.isfinite()


def test_adapter_is_there_only_where_channels_differ() -> None:
    assert not list(build("pkd", {}, {"p3": (2, 4, 4)}, {"p3": (2, 4, 4)}).parameters())
    assert [name for name, _ in problem().objective.named_parameters()] == ["adapters.0.weight", "adapters.0.bias"]
    with pytest.raises(ObjectiveError, match="'p3' of the student has 3 channels"):
        build("pkd", {"adapter": False}, STUDENT, TEACHER)


class TestPKD(MethodContract):
    method = "pkd"


class TestPKDWithoutAdapter(MethodContract):
    method: ClassVar[Any] = {"name": "pkd", "params": {"adapter": False}}
    networks: ClassVar[Any] = ("resnet8", "resnet8")
    # The adapter changes nothing of what a stopped run keeps, except parameters.
    test_run_stopped_at_any_step_continues_bit_for_bit = None  # type: ignore[assignment]
