"""FitNet against an oracle, in both variants and both stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from core.catalog.methods.fitnet import FitNetParams
from core.distill.features.fitnet import FitNet
from core.distill.objective import NetworkShape, ObjectiveError, Setting
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
from tests.core.methods.slow_layers import Array, batch_norm, convolve, convolve_transposed, relu

SIZES = {"equal": (4, 4), "larger": (7, 5), "double": (8, 8), "half": (2, 2)}
WEIGHT = torch.tensor([1.0, 0.0, 2.5, 0.5], dtype=torch.float64)


def problem(variant: str, size: tuple[int, int], **params: Any) -> FeatureProblem:
    return feature_problem("fitnet", {"variant": variant} | params, {"stage2": (3, *size)}, {"stage2": (2, 4, 4)})


def guided(numbers: Numbers, variant: str, size: tuple[int, int]) -> Array:
    maps, own = numbers.taps["stage2"], numbers.own
    weight, bias = own["regressors.0.0.weight"], own["regressors.0.0.bias"]
    if variant == "paper":
        return relu(convolve(maps, weight, bias))
    if size == SIZES["double"]:
        mapped = convolve(maps, weight, bias, stride=2, padding=1)
    elif size == SIZES["half"]:
        mapped = convolve_transposed(maps, weight, bias, stride=2, padding=1)
    else:
        mapped = convolve(maps, weight, bias)
    return relu(batch_norm(mapped, own["regressors.0.1.weight"], own["regressors.0.1.bias"], numbers.share))


def hint(numbers: Numbers, variant: str, size: tuple[int, int]) -> float:
    distances = (guided(numbers, variant, size) - numbers.teacher_taps["stage2"]) ** 2
    return numbers.mean([float(row.mean()) for row in distances])


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["equal", "weighted"])
@pytest.mark.parametrize(
    ("variant", "size"),
    [
        ("paper", "equal"),
        ("paper", "larger"),
        ("public_code", "equal"),
        ("public_code", "double"),
        ("public_code", "half"),
    ],
)
def test_loss_and_gradient_are_those_of_the_formula(variant: str, size: str, weight: torch.Tensor | None) -> None:
    def oracle(numbers: Numbers) -> float:
        return 0.5 * cross_entropy(numbers) + 7 * hint(numbers, variant, SIZES[size])

    assert_equals_oracle(problem(variant, SIZES[size], weight=7.0, ce_weight=0.5), oracle, weight=weight)


def test_stages_of_the_paper() -> None:
    staged = problem("paper", (4, 4), hint_epochs=2)
    assert_equals_oracle(staged, lambda numbers: 100 * hint(numbers, "paper", (4, 4)), epoch=1)
    assert "logits" not in staged.gradients(epoch=1)
    assert_equals_oracle(staged, cross_entropy, epoch=2)
    assert staged.gradients(epoch=2).keys() == {"logits"}
    assert staged.objective.trains(1) == "some"
    assert staged.objective.trains(2) == "all"


@pytest.mark.parametrize("variant", ["paper", "public_code"])
def test_one_row_and_16_bits(variant: str) -> None:
    assert_finite_for_one_row(problem(variant, (4, 4)))
    assert_near_in_16_bits(problem(variant, (4, 4)))


def test_single_number_of_a_channel_has_no_variance() -> None:
    single = feature_problem("fitnet", {"variant": "public_code"}, {"stage2": (3, 1, 1)}, {"stage2": (2, 1, 1)}).part(
        [0]
    )
    numbers = single.numbers()
    expected = (relu(numbers.own["regressors.0.1.bias"]) - numbers.teacher_taps["stage2"][0, :, 0, 0]) ** 2
    assert float(single.terms().values["fitnet"]) == pytest.approx(float(np.mean(expected)))


@pytest.mark.parametrize(
    ("variant", "student", "teacher", "message"),
    [
        (
            "paper",
            (3, 2, 2),
            (2, 4, 4),
            "student_tap 'stage2' and teacher_tap 'stage2': the student's maps of 2×2 are",
        ),
        ("paper", (3, 2, 2), (2, 4, 4), "variant public_code also joins maps of half the size"),
        ("public_code", (3, 3, 3), (2, 4, 4), "the student's maps of 3×3 are smaller than the teacher's maps of 4×4"),
        ("paper", (3,), (2, 4, 4), "student_tap: 'stage2' gives outputs of the shape (3,), not maps"),
        ("paper", (3, 4, 4), (2,), "teacher_tap: 'stage2' gives outputs of the shape (2,), not maps"),
    ],
)
def test_maps_that_cannot_be_joined_are_refused(
    variant: str, student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ObjectiveError) as refused:
        build("fitnet", {"variant": variant}, {"stage2": student}, {"stage2": teacher})
    assert message in str(refused.value)


def test_every_layer_has_a_regressor_of_its_own() -> None:
    levels = {"p3": (3, 5, 4), "p4": (2, 3, 2)}
    tested = feature_problem("fitnet", {"weight": 7.0, "ce_weight": 0.5}, levels, {"p3": (2, 5, 4), "p4": (2, 3, 2)})

    def oracle(numbers: Numbers) -> float:
        total = 0.0
        for number, name in enumerate(levels):
            weight, bias = (numbers.own[f"regressors.{number}.0.{part}"] for part in ("weight", "bias"))
            distances = (relu(convolve(numbers.taps[name], weight, bias)) - numbers.teacher_taps[name]) ** 2
            total += numbers.mean([float(row.mean()) for row in distances])
        return 0.5 * cross_entropy(numbers) + 7 * total

    assert_equals_oracle(tested, oracle, weight=WEIGHT)
    larger = feature_problem("fitnet", {}, {"p3": (3, 7, 9), "p4": (2, 4, 5)}, {"p3": (2, 7, 9), "p4": (2, 4, 5)})
    assert replace(larger, objective=tested.objective).terms().total.isfinite()


def test_sizes_that_vary_have_to_be_equal() -> None:
    def setting(size: int, *, vary: bool) -> Setting:
        student, teacher = (
            NetworkShape(3, {"stage2": torch.Size((2, height, height))}, sizes_vary=vary) for height in (size, 4)
        )
        return Setting(student, teacher, 20)

    FitNet(FitNetParams(), setting(4, vary=True))
    FitNet(FitNetParams(), setting(8, vary=False))
    with pytest.raises(ObjectiveError, match="FitNet with images of several sizes needs maps of one size"):
        FitNet(FitNetParams(), setting(8, vary=True))


class TestFitNet(MethodContract):
    method: ClassVar[Any] = {"name": "fitnet", "params": {"student_tap": "stage1", "teacher_tap": "stage2"}}


class TestFitNetWithBatchNorm(MethodContract):
    method: ClassVar[Any] = {
        "name": "fitnet",
        "params": {"variant": "public_code", "student_tap": "stage1", "teacher_tap": "stage1"},
    }


class TestFitNetHintStage(MethodContract):
    method: ClassVar[Any] = {
        "name": "fitnet",
        "params": {"student_tap": "stem", "teacher_tap": "stage2", "hint_epochs": 1, "weight": 1.0},
    }
    epoch = 0
    # Whole trainings, on two ranks too, are in test_two_stages.
    test_two_ranks_equal_one = None  # type: ignore[assignment]
    test_run_stopped_at_any_step_continues_bit_for_bit = None  # type: ignore[assignment]
