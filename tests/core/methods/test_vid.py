"""VID against an oracle, in both variants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
from tests.core.methods.slow_layers import convolve, pool_to_smaller, relu

# Of the four stages the first has no partner; the others are larger, equal and smaller than the teacher's.
STUDENT = {"stage1": (2, 6, 6), "stage2": (2, 4, 4), "stage3": (3, 2, 2), "stage4": (2, 1, 2)}
TEACHER = {"stage1": (2, 2, 2), "stage2": (3, 2, 2), "stage3": (2, 2, 3)}
PAIRS = (("stage2", "stage1"), ("stage3", "stage2"), ("stage4", "stage3"))
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem(variant: str) -> FeatureProblem:
    return feature_problem("vid", {"variant": variant, "weight": 3.0, "ce_weight": 0.5}, STUDENT, TEACHER)


def oracle(numbers: Numbers) -> float:
    total = 0.0
    for number, (name, target) in enumerate(PAIRS):
        maps, teacher = pool_to_smaller(numbers.taps[name], numbers.teacher_taps[target])
        first, second, third = (numbers.own[f"regressors.{number}.{layer}.weight"] for layer in (0, 2, 4))
        mean = convolve(relu(convolve(relu(convolve(maps, first)), second)), third)
        rows = []
        for own, other in zip(mean, teacher, strict=True):
            costs = []
            for channel, rho in enumerate(numbers.own[f"rho{number}"]):
                variance = np.log(1 + np.exp(rho)) + 1e-5
                costs.append(0.5 * ((own[channel] - other[channel]) ** 2 / variance + np.log(variance)))
            rows.append(float(np.mean(costs)))
        total += numbers.mean(rows)
    return 0.5 * cross_entropy(numbers) + 3 * total


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize("variant", ["paper", "public_code"])
def test_loss_and_gradient_are_those_of_the_formula(variant: str, weight: torch.Tensor | None) -> None:
    assert_equals_oracle(problem(variant), oracle, weight=weight)


@pytest.mark.parametrize(("variant", "trained"), [("paper", True), ("public_code", False)])
def test_variances_start_at_5_and_are_trained_as_in_the_paper(variant: str, trained: bool) -> None:
    objective = build("vid", {"variant": variant}, STUDENT, TEACHER)
    assert {"rho0", "rho1", "rho2"} <= objective.state_dict().keys()
    assert ("rho0" in dict(objective.named_parameters())) == trained
    if not trained:  # random numbers were given to the parameters that are trained
        variances = [np.log1p(np.exp(objective.get_buffer(f"rho{n}").double().numpy())) + 1e-5 for n in range(3)]
        assert np.concatenate(variances) == pytest.approx(5.0)


def test_least_loss_has_the_variance_of_the_error() -> None:
    """½·[e²/σ² + log σ²] is least at σ² = e², so a constant regressor's variance becomes that of the teacher."""
    only = feature_problem("vid", {"ce_weight": 0.0}, {"stage1": (2, 2, 2)}, {"stage1": (1, 2, 2)})
    for parameter in only.objective.get_submodule("regressors").parameters():
        torch.nn.init.zeros_(parameter)
    variance = only.teacher.taps["stage1"].square().mean() - 1e-5
    only.objective.get_parameter("rho0").data.fill_(float(variance.expm1().log()))
    assert float(only.gradients()["own rho0"]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("variant", ["paper", "public_code"])
def test_one_row_and_16_bits(variant: str) -> None:
    assert_finite_for_one_row(problem(variant))
    assert_near_in_16_bits(problem(variant))


def test_features_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="teacher_taps: 'features' gives"):
        build("vid", {}, {"stage1": (2, 4, 4)}, {"features": (3,)})


class TestVID(MethodContract):
    method = "vid"
