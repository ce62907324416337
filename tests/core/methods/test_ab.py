"""AB against an oracle, in both stages."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from core.distill.features.ab import boundary_cost
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
from tests.core.methods.slow_layers import Array, batch_norm, convolve, convolve_transposed

# A map of equal shape, one of twice the size, and one of half the size.
STUDENT = {"stage1": (2, 3, 3), "stage2": (3, 4, 4), "stage3": (2, 1, 1)}
TEACHER = {"stage1": (2, 3, 3), "stage2": (2, 2, 2), "stage3": (3, 2, 2)}
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem(**params: Any) -> FeatureProblem:
    return feature_problem("ab", {"weight": 300.0, "margin": 0.7, "init_epochs": 3} | params, STUDENT, TEACHER)


def connected(numbers: Numbers, number: int) -> Array:
    own = {key.removeprefix(f"connectors.{number}."): value for key, value in numbers.own.items()}
    maps = numbers.taps[f"stage{number + 1}"]
    if number == 0:
        return maps
    if number == 1:
        maps = convolve(maps, own["0.weight"], own["0.bias"], stride=2, padding=1)
    else:
        maps = convolve_transposed(maps, own["0.weight"], own["0.bias"], stride=2, padding=1)
    return batch_norm(maps, own["1.weight"], own["1.bias"], numbers.share)


def cost(student: float, teacher: float, margin: float) -> float:
    if teacher > 0:
        return (student - margin) ** 2 if student <= margin else 0.0
    return (student + margin) ** 2 if student > -margin else 0.0


def ab(numbers: Numbers) -> float:
    total = 0.0
    for number, teacher in enumerate(numbers.teacher_taps.values()):
        maps = connected(numbers, number)
        pairs = [zip(own.flat, other.flat, strict=True) for own, other in zip(maps, teacher, strict=True)]
        rows = [sum(cost(s, t, 0.7) for s, t in pair) for pair in pairs]
        total += numbers.mean(rows) * 2.0 ** (number - 2) * 3 / 1000
    return total


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
def test_first_stage_is_that_of_the_formula(weight: Tensor | None) -> None:
    tested = problem()
    assert_equals_oracle(tested, lambda numbers: 300 * ab(numbers), weight=weight, epoch=2)
    assert "logits" not in tested.gradients(epoch=2)
    assert tested.terms(epoch=2).parts.keys() == {"ab"}


@pytest.mark.parametrize("epoch", [3, None])
def test_second_stage_reads_the_logits_alone(epoch: int | None) -> None:
    tested = problem(ce_weight=0.5)
    assert_equals_oracle(tested, lambda numbers: 0.5 * cross_entropy(numbers), epoch=epoch)
    assert tested.gradients(epoch=epoch).keys() == {"logits"}
    assert problem().terms(epoch=epoch).parts.keys() == {"ce"}


def test_neurons_beyond_the_margin_cost_nothing() -> None:
    student = torch.tensor([1.0, 2.0, 0.5, -3.0, -1.0, 0.0]).view(6, 1, 1, 1)
    teacher = torch.tensor([0.1, 9.0, 0.1, 0.1, 0.0, -5.0]).view(6, 1, 1, 1)
    assert boundary_cost(student, teacher, 1.0).flatten().tolist() == [0.0, 0.0, 0.25, 16.0, 0.0, 1.0]


def test_sign_of_the_teacher_is_all_that_counts() -> None:
    tested = problem()
    scaled = {name: tap * 7.3 for name, tap in tested.teacher.taps.items()}
    expected = tested.terms(epoch=0).total
    tested.teacher.taps.update(scaled)  # type: ignore[attr-defined]
    assert torch.equal(tested.terms(epoch=0).total, expected)


@pytest.mark.parametrize("epoch", [0, None])
def test_one_row_and_16_bits(epoch: int | None) -> None:
    assert_finite_for_one_row(problem(), epoch)
    assert_near_in_16_bits(problem(), epoch)


def test_maps_that_cannot_be_joined_are_refused() -> None:
    with pytest.raises(
        ObjectiveError, match="student_taps 'stage1' and teacher_taps 'stage2': the student's maps of 1×1"
    ):
        build("ab", {}, {"stage1": (2, 1, 1)}, {"stage2": (2, 3, 3)})


class TestAB(MethodContract):
    method: ClassVar[Any] = {"name": "ab", "params": {"init_epochs": 1}}


class TestABFirstStage(MethodContract):
    method: ClassVar[Any] = {
        "name": "ab",
        "params": {"init_epochs": 1, "weight": 30.0, "student_taps": ["stem", "stage1:preact"]},
    }
    epoch = 0
    # Whole trainings, on two ranks too, are in test_two_stages.
    test_two_ranks_equal_one = None  # type: ignore[assignment]
    test_run_stopped_at_any_step_continues_bit_for_bit = None  # type: ignore[assignment]
