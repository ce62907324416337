"""FSP against the formula with plain loops."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.catalog.methods.fsp import FSPParams
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

SHAPES = {"stage1": (2, 4, 4), "stage2": (3, 2, 2), "stage3": (4, 2, 1)}
VARIANTS = ["paper", "public_code"]


def _reduced(maps: Array, height: int, width: int, variant: str) -> Array:
    channels, h, w = maps.shape
    result = np.zeros((channels, height, width))
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                # The bounds of adaptive pooling.
                top, bottom = y * h // height, -(-(y + 1) * h // height)
                left, right = x * w // width, -(-(x + 1) * w // width)
                part = maps[c, top:bottom, left:right]
                result[c, y, x] = part.max() if variant == "paper" else part.mean()
    return result


def _matrix(first: Array, second: Array, variant: str) -> Array:
    height, width = min(first.shape[1], second.shape[1]), min(first.shape[2], second.shape[2])
    first, second = _reduced(first, height, width, variant), _reduced(second, height, width, variant)
    matrix = np.zeros((len(first), len(second)))
    for a in range(len(first)):
        for b in range(len(second)):
            matrix[a, b] = sum(first[a, y, x] * second[b, y, x] for y in range(height) for x in range(width))
    return np.asarray(matrix / (height * width))


def oracle(student: Mapping[str, Array], teacher: Mapping[str, Array], variant: str, weight: Any = None) -> float:
    names = list(student)
    count = len(student[names[0]])
    weights = [1.0] * count if weight is None else weight
    total = 0.0
    for one, two in itertools.pairwise(names):
        for row in range(count):
            if weights[row] > 0:
                s = _matrix(student[one][row], student[two][row], variant)
                squares = (s - _matrix(teacher[one][row], teacher[two][row], variant)) ** 2
                distance = squares.sum() if variant == "paper" else squares.mean()
                total += weights[row] / sum(weights) * float(distance)
    return total


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.5]])
def test_value_and_gradient_are_those_of_the_formula(variant: str, weight: Any) -> None:
    student, teacher = random_taps(3, SHAPES, 1), random_taps(3, SHAPES, 2)
    if weight:
        teacher["stage1"][1] = np.nan
    objective = build("fsp", SHAPES, SHAPES, variant=variant)
    assert_follows(objective, "fsp", student, teacher, lambda taps: oracle(taps, teacher, variant, weight), weight)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_that_do_not_divide_each_other(variant: str) -> None:
    small, large = {"stage1": (2, 3, 5), "stage2": (3, 2, 2)}, {"stage1": (2, 5, 4), "stage2": (3, 3, 3)}
    student, teacher = random_taps(2, small, 1), random_taps(2, large, 2)
    objective = build("fsp", small, large, variant=variant)
    assert_follows(objective, "fsp", student, teacher, lambda taps: oracle(taps, teacher, variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_order_of_the_positions_in_both_stages_does_not_matter(variant: str) -> None:
    shapes = {"stage1": (2, 2, 2), "stage2": (3, 2, 2)}
    student, teacher = random_taps(2, shapes, 1), random_taps(2, shapes, 2)
    objective = build("fsp", shapes, shapes, variant=variant)
    value, _ = term_and_gradients(objective, step_of(student, teacher), "fsp")
    turned = {name: np.rot90(tap, axes=(2, 3)).copy() for name, tap in student.items()}
    assert term_and_gradients(objective, step_of(turned, teacher), "fsp")[0] == pytest.approx(value)


def test_first_stage_has_the_distance_alone_and_the_second_the_labels_alone() -> None:
    student, teacher = random_taps(3, SHAPES, 1), random_taps(3, SHAPES, 2)
    staged, together = build("fsp", SHAPES, SHAPES, init_epochs=2), build("fsp", SHAPES, SHAPES)
    step = step_of(student, teacher)
    both = together(step).parts
    first, second = (staged(replace(step, epoch=epoch)) for epoch in (1, 2))
    assert first.parts.keys() == {"fsp"}
    assert second.parts.keys() == {"ce"}
    assert first.total.item() == pytest.approx(both["fsp"].item())
    assert second.total.item() == pytest.approx(both["ce"].item())
    assert [staged.trains(epoch) for epoch in (1, 2)] == ["some", "all"]


def test_weights_of_both_variants_are_alike_for_the_first_stages_of_a_resnet() -> None:
    paper, public = FSPParams(), FSPParams(variant="public_code")
    assert public.strength == 50
    assert paper.strength * 16 * 32 == pytest.approx(public.strength, rel=0.05)
    assert FSPParams(weight=2.0).strength == 2.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_sixteen_bits_are_near_float32(variant: str) -> None:
    objective = build("fsp", SHAPES, SHAPES, variant=variant)
    assert_sixteen_bits(objective, "fsp", random_taps(3, SHAPES, 1), random_taps(3, SHAPES, 2))


def test_batch_of_one() -> None:
    student, teacher = random_taps(1, SHAPES, 1), random_taps(1, SHAPES, 2)
    value, _ = term_and_gradients(build("fsp", SHAPES, SHAPES), step_of(student, teacher), "fsp")
    assert value == pytest.approx(oracle(student, teacher, "paper"))


def test_unequal_channels_are_refused_with_both_names() -> None:
    other = {"stage1": (2, 4, 4), "stage2": (6, 2, 2), "stage3": (4, 2, 1)}
    text = (
        r"student_taps: 'stage2' of the student has 3 channels \(3, 2, 2\), and teacher_taps: 'stage2' of the teacher"
    )
    with pytest.raises(ObjectiveError, match=text):
        build("fsp", SHAPES, other)


def test_one_stage_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="needs two"):
        build("fsp", {"stage1": (2, 4, 4)}, SHAPES)


class TestFSP(MethodContract):
    method = "fsp"
    networks = ("resnet8", "resnet8")
