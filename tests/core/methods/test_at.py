"""AT against the formula with plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from core.distill.objective import ObjectiveError
from core.testing import MethodContract
from tests.core.methods.tapped import (
    Array,
    assert_follows,
    assert_sixteen_bits,
    build,
    random_taps,
    step_of,
    term_and_gradients,
)

STUDENT = {"stage1": (2, 4, 4), "stage2": (3, 2, 2)}
TEACHER = {"stage1": (3, 4, 4), "stage2": (5, 2, 2)}
VARIANTS = ["paper", "public_code"]


def _attention(maps: Array, power: float) -> list[float]:
    channels, height, width = maps.shape
    sums = [
        sum(abs(maps[c, y, x]) ** power for c in range(channels)) / channels
        for y in range(height)
        for x in range(width)
    ]
    norm = math.sqrt(sum(value**2 for value in sums))
    return [value / norm for value in sums]


def oracle(
    student: Mapping[str, Array], teacher: Mapping[str, Array], variant: str, power: float = 2.0, weight: Any = None
) -> float:
    names = list(student)
    count = len(student[names[0]])
    weights = [1.0] * count if weight is None else weight
    total = 0.0
    for name in names:
        for row in range(count):
            if weights[row] == 0:
                continue
            s, t = _attention(student[name][row], power), _attention(teacher[name][row], power)
            squared = sum((a - b) ** 2 for a, b in zip(s, t, strict=True))
            distance = squared if variant == "public_code" else 0.5 * math.sqrt(squared)
            total += weights[row] / sum(weights) * distance / len(s)
    return total


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("power", [2.0, 3.0])
@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.5]])
def test_value_and_gradient_are_those_of_the_formula(variant: str, power: float, weight: Any) -> None:
    objective = build("at", STUDENT, TEACHER, variant=variant, power=power)
    student, teacher = random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2)
    if weight:
        teacher["stage1"][1] = np.nan  # a row of weight 0 may hold anything
    assert_follows(
        objective, "at", student, teacher, lambda taps: oracle(taps, teacher, variant, power, weight), weight
    )


def test_larger_maps_are_averaged_to_the_smaller() -> None:
    student, teacher = random_taps(2, {"stage1": (2, 2, 4)}, 1), random_taps(2, {"stage1": (3, 4, 4)}, 2)
    halved = teacher["stage1"].reshape(2, 3, 2, 2, 4).mean(3)
    objective = build("at", {"stage1": (2, 2, 4)}, {"stage1": (3, 4, 4)})
    assert_follows(objective, "at", student, teacher, lambda taps: oracle(taps, {"stage1": halved}, "paper"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_positive_scale_does_not_matter(variant: str) -> None:
    objective = build("at", STUDENT, TEACHER, variant=variant)
    student, teacher = random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2)
    value, gradients = term_and_gradients(objective, step_of(student, teacher), "at")
    scaled = {name: 7.0 * tap for name, tap in student.items()}
    scaled_value, scaled_gradients = term_and_gradients(objective, step_of(scaled, teacher), "at")
    assert scaled_value == pytest.approx(value)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(7.0 * scaled_gradients[name], gradient, rtol=1e-9, atol=1e-15)


def test_surplus_shallow_stages_of_the_teacher_are_left_out() -> None:
    deeper = {"stage1": (3, 8, 8), "stage2": TEACHER["stage1"], "stage3": TEACHER["stage2"]}
    student, teacher = random_taps(2, STUDENT, 1), random_taps(2, deeper, 2)
    used = {"stage1": teacher["stage2"], "stage2": teacher["stage3"]}
    value, _ = term_and_gradients(build("at", STUDENT, deeper), step_of(student, teacher), "at")
    assert value == pytest.approx(oracle(student, used, "paper"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_student_that_equals_the_teacher_has_a_finite_gradient(variant: str) -> None:
    taps = random_taps(2, STUDENT, 1)
    taps["stage2"][0] = 0  # a stage without activity
    value, gradients = term_and_gradients(build("at", STUDENT, STUDENT, variant=variant), step_of(taps, taps), "at")
    assert value == 0
    assert all(not gradient.any() for gradient in gradients.values())


def test_sixteen_bits_are_near_float32() -> None:
    assert_sixteen_bits(build("at", STUDENT, TEACHER), "at", random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2))


def test_batch_of_one() -> None:
    student, teacher = random_taps(1, STUDENT, 1), random_taps(1, TEACHER, 2)
    value, _ = term_and_gradients(build("at", STUDENT, TEACHER), step_of(student, teacher), "at")
    assert value == pytest.approx(oracle(student, teacher, "paper"))


def test_vectors_are_refused() -> None:
    with pytest.raises(ObjectiveError, match=r"teacher_taps: 'features' gives outputs of the shape \(8,\), not maps"):
        build("at", STUDENT, {"features": (8,)})


class TestAT(MethodContract):
    method = "at"
