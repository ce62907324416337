"""OFD against an oracle, its margins, and the teachers that have none."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from core.distill.features.ofd import margins, partial_distance
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
from tests.core.methods.slow_layers import batch_norm, convolve, pool_to_smaller

STUDENT = {"stage1:preact": (2, 4, 4), "stage2:preact": (3, 2, 2)}
TEACHER = {"stage1:preact": (2, 2, 2), "stage2:preact": (3, 4, 4), "stage3:preact": (2, 2, 2)}
PAIRS = (("stage1:preact", "stage2:preact"), ("stage2:preact", "stage3:preact"))
NORM = {
    "stage2:preact": (torch.tensor([1.0, -0.5, 0.2]), torch.tensor([0.3, 0.0, 5.0])),
    "stage3:preact": (torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 0.5])),
}
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem() -> FeatureProblem:
    return feature_problem("ofd", {"weight": 0.3, "ce_weight": 0.5}, STUDENT, TEACHER, norm=NORM)


def distance(student: float, teacher: float, margin: float) -> float:
    """The three cases of the paper, one by one."""
    if teacher <= margin:
        return (student - margin) ** 2 if student > margin else 0.0
    if teacher <= 0:
        return (student - teacher) ** 2 if student > teacher else 0.0
    return (student - teacher) ** 2


def oracle(numbers: Numbers) -> float:
    total = 0.0
    for number, (name, target) in enumerate(PAIRS):
        own = numbers.own
        maps, teacher = pool_to_smaller(numbers.taps[name], numbers.teacher_taps[target])
        mapped = convolve(maps, own[f"connectors.{number}.0.weight"])
        scale, shift = (own[f"connectors.{number}.1.{kind}"] for kind in ("weight", "bias"))
        mapped = batch_norm(mapped, scale, shift, numbers.share)
        rows = []
        for row in range(len(mapped)):
            costs = 0.0
            for channel, margin in enumerate(own[f"margin{number}"]):
                for s, t in zip(mapped[row, channel].flat, teacher[row, channel].flat, strict=True):
                    costs += distance(s, t, margin)
            rows.append(costs)
        total += numbers.mean(rows) * 2.0 ** (number + 1 - len(PAIRS))
    return 0.5 * cross_entropy(numbers) + 0.3 * total


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_loss_and_gradient_are_those_of_the_formula(weight: Tensor | None) -> None:
    assert_equals_oracle(problem(), oracle, weight=weight)


@pytest.mark.parametrize(("gamma", "beta"), [(1.0, 0.0), (-0.7, 0.4), (2.0, -3.0), (0.5, 1.2)])
def test_margin_is_the_mean_of_the_negative_part_of_the_gaussian(gamma: float, beta: float) -> None:
    values = np.linspace(beta - 12 * abs(gamma), 0, 400_001)
    density = np.exp(-(((values - beta) / gamma) ** 2) / 2)
    expected = (values * density).sum() / density.sum()
    assert float(margins(torch.tensor([gamma]), torch.tensor([beta]))) == pytest.approx(expected, rel=1e-4)


def test_margin_where_nothing_is_negative_is_three_deviations() -> None:
    """P(x < 0) is 0.001 at β = 3.09·|γ|."""
    weight = torch.tensor([1.0, -0.5, 0.0, 0.0])
    found = margins(weight, torch.tensor([3.2, 4.0, 1.0, -1.0]))
    assert found.tolist() == pytest.approx([-3.0, -1.5, 0.0, -1.0], abs=1e-9)
    assert float(margins(torch.tensor([1.0]), torch.tensor([3.05]))) > -1.0


def test_student_below_a_negative_target_costs_nothing() -> None:
    student = torch.tensor([-5.0, -0.6, -0.4, 0.2, -5.0]).view(5, 1, 1, 1)
    teacher = torch.tensor([-2.0, -0.5, -0.5, -0.5, 0.1]).view(5, 1, 1, 1)
    expected = [0.0, 0.0, 0.01, 0.49, 5.1**2]
    assert partial_distance(student, teacher, torch.tensor([-1.0])).flatten().tolist() == pytest.approx(expected)


def test_one_row_and_16_bits() -> None:
    assert_finite_for_one_row(problem())
    assert_near_in_16_bits(problem())


def test_teacher_without_a_known_batch_norm_is_refused() -> None:
    with pytest.raises(
        ObjectiveError, match=r"teacher_taps: OFD computes its margins .* before 'stage3:preact' of the teacher"
    ):
        build("ofd", {}, STUDENT, TEACHER, norm={name: NORM[name] for name in ("stage2:preact",)})


def test_negative_deviations_are_those_of_public_code() -> None:
    """The formula of the authors' code, with their rounding of the density."""
    gamma, beta = 1.3, 0.7
    cdf = 0.5 * (1 + math.erf(-beta / gamma / math.sqrt(2)))
    expected = -gamma * math.exp(-((beta / gamma) ** 2) / 2) / math.sqrt(2 * math.pi) / cdf + beta
    assert float(margins(torch.tensor([gamma]), torch.tensor([beta]))) == pytest.approx(expected, rel=1e-6)


class TestOFD(MethodContract):
    method: ClassVar[Any] = {"name": "ofd", "params": {"weight": 0.1}}
