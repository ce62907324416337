"""ReviewKD against an oracle, and its ramp."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from core.distill.features.reviewkd import hierarchical_distance
from core.distill.objective import ObjectiveError
from core.specs import ExperimentSpec, parse_experiment
from core.specs.warnings import warnings_of
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
from tests.core.methods.slow_layers import Array, batch_norm, convolve, pool, resize_nearest

# The surplus first stage is left out; at the second, the student's maps are smaller than the teacher's.
STUDENT = {"stage1": (2, 6, 6), "stage2": (3, 3, 3), "stage3": (2, 2, 2), "features": (4,)}
TEACHER = {"stage1:preact": (2, 6, 6), "stage2:preact": (3, 2, 2), "features": (3,)}
LEVELS = (("features", "features"), ("stage3", "stage2:preact"), ("stage2", "stage1:preact"))
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem(**params: Any) -> FeatureProblem:
    chosen = {"weight": 3.0, "ce_weight": 0.5, "mid_channels": 2, "ramp_epochs": 4} | params
    return feature_problem("reviewkd", chosen, STUDENT, TEACHER, rows=4)


def hcl(numbers: Numbers, student: Array, teacher: Array) -> float:
    levels, weights = [((student - teacher) ** 2).mean((1, 2, 3))], [1.0]
    for size in (4, 2, 1):
        if size < student.shape[2]:
            difference = pool(student, (size, size)) - pool(teacher, (size, size))
            levels.append((difference**2).mean((1, 2, 3)))
            weights.append(weights[-1] / 2)
    rows = sum(weight * level for weight, level in zip(weights, levels, strict=True)) / sum(weights)
    return numbers.mean([float(row) for row in np.asarray(rows)])


def as_map(tap: Array) -> Array:
    return tap[:, :, None, None] if tap.ndim == 2 else tap


def reviewkd(numbers: Numbers, levels: tuple[tuple[str, str], ...] = LEVELS) -> float:
    total, deeper = 0.0, None
    for number, (name, target) in enumerate(levels):
        own = {key.removeprefix(f"fusions.{number}."): value for key, value in numbers.own.items()}
        maps, teacher = as_map(numbers.taps[name]), as_map(numbers.teacher_taps[target])
        fused = convolve(maps, own["reduce.0.weight"])
        fused = batch_norm(fused, own["reduce.1.weight"], own["reduce.1.bias"], numbers.share)
        if deeper is not None:
            deeper = resize_nearest(deeper, fused.shape[2:])
            scores = convolve(np.concatenate((fused, deeper), 1), own["attention.weight"], own["attention.bias"])
            attention = 1 / (1 + np.exp(-scores))
            fused = fused * attention[:, :1] + deeper * attention[:, 1:]
        deeper = fused = resize_nearest(fused, teacher.shape[2:])
        mapped = convolve(fused, own["expand.0.weight"], padding=1)
        mapped = batch_norm(mapped, own["expand.1.weight"], own["expand.1.bias"], numbers.share)
        total += hcl(numbers, mapped, teacher)
    return total


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize(("epoch", "factor"), [(None, 1.0), (0, 0.0), (1, 0.25), (9, 1.0)])
def test_loss_and_gradient_are_those_of_the_formula(weight: Tensor | None, epoch: int | None, factor: float) -> None:
    def oracle(numbers: Numbers) -> float:
        return 0.5 * cross_entropy(numbers) + 3 * factor * reviewkd(numbers)

    assert_equals_oracle(problem(), oracle, weight=weight, epoch=epoch)


def test_levels_of_a_pyramid_need_no_pooled_features_and_no_fixed_size() -> None:
    def pyramid(height: int, width: int) -> FeatureProblem:
        levels = {f"p{n}": (2, -(-height // 2**n), -(-width // 2**n)) for n in range(3)}
        params = {"weight": 1.0, "ramp_epochs": 0, "mid_channels": 2}
        return feature_problem("reviewkd", params, levels, levels)

    first = pyramid(5, 6)
    levels = tuple((name, name) for name in ("p2", "p1", "p0"))
    assert_equals_oracle(first, lambda numbers: cross_entropy(numbers) + reviewkd(numbers, levels))
    other = replace(pyramid(9, 11), objective=first.objective)
    assert_equals_oracle(other, lambda numbers: cross_entropy(numbers) + reviewkd(numbers, levels), directions=1)


@pytest.mark.parametrize(
    ("size", "weights"), [(1, [1.0]), (2, [1.0, 0.5]), (4, [1, 0.5, 0.25]), (8, [1, 0.5, 0.25, 0.125])]
)
def test_maps_of_one_difference_have_that_distance_at_every_level(size: int, weights: list[float]) -> None:
    """A constant difference d is d² at every level, so only the normalisation could change it."""
    teacher = torch.randn(2, 3, size, size)
    assert hierarchical_distance(teacher + 1.5, teacher).tolist() == pytest.approx([2.25, 2.25], rel=1e-5)
    checkered = torch.ones(1, 1, size, size)
    checkered[..., ::2] = -1
    if size > 1:  # it is 0 in the means of every smaller level
        assert float(hierarchical_distance(checkered, 0 * checkered)) == pytest.approx(1 / sum(weights))


def test_one_row_and_16_bits() -> None:
    assert_finite_for_one_row(problem())
    assert_near_in_16_bits(problem())


def test_tap_that_is_neither_map_nor_features_is_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"teacher_taps: 'stage1' gives \(3, 4\), neither maps nor features"):
        build("reviewkd", {}, {"stage1": (2, 4, 4)}, {"stage1": (3, 4)})


def test_ramp_that_does_not_end_is_warned_about() -> None:
    def spec(epochs: int) -> ExperimentSpec:
        return parse_experiment(
            {
                "name": "ramp",
                "dataset": "digits",
                "teacher": {"model": "resnet8"},
                "student": {"model": "resnet8"},
                "methods": ["reviewkd"],
                "seeds": [0, 1, 2],
                "training": {"epochs": epochs},
            }
        )

    assert [warning.path for warning in warnings_of(spec(20))] == ["methods.0.params.ramp_epochs"]
    assert not warnings_of(spec(21))


class TestReviewKD(MethodContract):
    method: ClassVar[Any] = {"name": "reviewkd", "params": {"ramp_epochs": 1, "mid_channels": 4}}
