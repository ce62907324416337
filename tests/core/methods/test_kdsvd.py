"""KDSVD against the formula with plain loops, and the gradient of singular vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.distill.features.singular_vectors import right_singular_vectors
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

# The first stage has more positions than channels, the second more channels than positions.
STUDENT = {"stage1": (5, 3, 3), "stage2": (6, 2, 2)}
TEACHER = {"stage1": (5, 4, 3), "stage2": (6, 2, 3)}
VARIANTS = ["paper", "public_code"]


def _vectors(matrix: Array, count: int) -> tuple[list[Array], list[float]]:
    _, values, rows = np.linalg.svd(matrix, full_matrices=False)
    return [row if row.sum() >= 0 else -row for row in rows[:count]], [float(value) for value in values[:count]]


def _matrix(maps: Array, variant: str) -> Array:
    channels, height, width = maps.shape
    if variant == "public_code":
        return maps.reshape(channels * height, width)
    return maps.reshape(channels, height * width).T


def _relation(first: list[Array], second: list[Array]) -> Array:
    relation = np.zeros((len(first[0]), len(second[0]), len(first)))
    for a in range(len(first[0])):
        for b in range(len(second[0])):
            for v in range(len(first)):
                relation[a, b, v] = math.exp(-((first[v][a] - second[v][b]) ** 2) / 8)
    return relation


def oracle(
    student: Mapping[str, Array], teacher: Mapping[str, Array], variant: str, k: int = 1, weight: Any = None
) -> float:
    count = len(student["stage1"])
    weights = [1.0] * count if weight is None else weight
    total = 0.0
    for row in range(count):
        if weights[row] == 0:
            continue
        scaled: dict[str, tuple[list[Array], list[Array]]] = {}
        for name in student:
            target, values = _vectors(_matrix(teacher[name][row], variant), k)
            offered, _ = _vectors(_matrix(student[name][row], variant), k + 3)
            norm = math.sqrt(sum(value**2 for value in values))
            chosen = []
            for vector in target:
                best = max(offered, key=lambda candidate: abs(float(candidate @ vector)))
                chosen.append(best * np.sign(float(best @ vector)))
            scaled[name] = (
                [vector * value / norm for vector, value in zip(chosen, values, strict=True)],
                [vector * value / norm for vector, value in zip(target, values, strict=True)],
            )
        (s1, t1), (s2, t2) = scaled["stage1"], scaled["stage2"]
        total += weights[row] / sum(weights) * float(((_relation(s1, s2) - _relation(t1, t2)) ** 2).sum())
    return total


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.5]])
def test_value_and_gradient_are_those_of_the_formula(k: int, weight: Any) -> None:
    student, teacher = random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2)
    if weight:
        teacher["stage1"][1] = np.nan
    objective = build("kdsvd", STUDENT, TEACHER, vectors=k)
    assert_follows(objective, "kdsvd", student, teacher, lambda taps: oracle(taps, teacher, "paper", k, weight), weight)


def test_value_and_gradient_are_those_of_the_public_code() -> None:
    shapes = {"stage1": (2, 4, 5), "stage2": (3, 3, 4)}
    student, teacher = random_taps(2, shapes, 1), random_taps(2, shapes, 2)
    objective = build("kdsvd", shapes, shapes, variant="public_code")
    assert_follows(objective, "kdsvd", student, teacher, lambda taps: oracle(taps, teacher, "public_code"))


def test_larger_maps_are_averaged_to_the_smaller_in_the_public_code() -> None:
    small, large = {"stage1": (2, 4, 5), "stage2": (3, 3, 4)}, {"stage1": (3, 8, 5), "stage2": (7, 3, 4)}
    student, teacher = random_taps(2, small, 1), random_taps(2, large, 2)
    halved = teacher | {"stage1": teacher["stage1"].reshape(2, 3, 4, 2, 5).mean(3)}
    value, _ = term_and_gradients(
        build("kdsvd", small, large, variant="public_code"), step_of(student, teacher), "kdsvd"
    )
    assert value == pytest.approx(oracle(student, halved, "public_code"))


def test_order_of_the_positions_and_scale_do_not_matter() -> None:
    objective = build("kdsvd", STUDENT, TEACHER)
    student, teacher = random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2)
    value, _ = term_and_gradients(objective, step_of(student, teacher), "kdsvd")
    changed = {name: 4.0 * np.flip(tap, 3) for name, tap in student.items()}
    assert term_and_gradients(objective, step_of(changed, teacher), "kdsvd")[0] == pytest.approx(value)


def test_student_that_equals_the_teacher_has_no_distance() -> None:
    taps = random_taps(3, STUDENT, 1)
    value, _ = term_and_gradients(build("kdsvd", STUDENT, STUDENT), step_of(taps, taps), "kdsvd")
    assert value == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["zeros", "equal values", "rank one", "ones"])
def test_degenerate_maps_give_finite_gradients(case: str, dtype: torch.dtype) -> None:
    student, teacher = random_taps(2, STUDENT, 1), random_taps(2, TEACHER, 2)
    maps = student["stage1"].reshape(2, 5, 9)
    maps[:] = {
        "zeros": np.zeros((5, 9)),
        "equal values": np.eye(5, 9),
        "rank one": np.arange(5)[:, None] * np.arange(1, 10),
        "ones": np.ones((5, 9)),
    }[case]
    step = step_of(student, teacher, dtype=dtype)
    value, gradients = term_and_gradients(build("kdsvd", STUDENT, TEACHER), step, "kdsvd")
    assert np.isfinite(value)
    for gradient in gradients.values():
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() < 1e3


def test_maps_that_are_not_finite_do_not_stop_the_training_here() -> None:
    student, teacher = random_taps(2, STUDENT, 1), random_taps(2, TEACHER, 2)
    student["stage1"][0] = np.nan
    value, _ = term_and_gradients(build("kdsvd", STUDENT, TEACHER), step_of(student, teacher), "kdsvd")
    assert np.isfinite(value)


def test_sixteen_bits_are_near_float32() -> None:
    student, teacher = random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2)
    assert_sixteen_bits(build("kdsvd", STUDENT, TEACHER), "kdsvd", student, teacher)


def test_batch_of_one() -> None:
    student, teacher = random_taps(1, STUDENT, 1), random_taps(1, TEACHER, 2)
    value, _ = term_and_gradients(build("kdsvd", STUDENT, TEACHER), step_of(student, teacher), "kdsvd")
    assert value == pytest.approx(oracle(student, teacher, "paper"))


def test_unequal_channels_are_refused_with_both_names() -> None:
    with pytest.raises(ObjectiveError, match=r"'stage2' of the student has 6 channels .* has 8 channels"):
        build("kdsvd", STUDENT, {"stage1": (5, 4, 4), "stage2": (8, 2, 2)})


def test_one_stage_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="needs two"):
        build("kdsvd", {"stage1": (2, 4, 4)}, {"stage1": (2, 4, 4)})


@pytest.mark.parametrize("shape", [(3, 8, 5), (3, 5, 8), (3, 6, 6)])
def test_gradient_of_the_vectors_is_that_of_torch_where_that_one_exists(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, shape[2], 4, generator=generator, dtype=torch.float64)

    def gradient(vectors: Tensor) -> Tensor:
        (result,) = torch.autograd.grad((vectors * weight).sum(), matrices)
        return result

    ours, values = right_singular_vectors(matrices, 4)
    _, singular, rows = torch.linalg.svd(matrices, full_matrices=False)
    expected = rows[:, :4].mT * torch.where(rows[:, :4].mT.sum(1, keepdim=True) < 0, -1.0, 1.0)
    torch.testing.assert_close(values, singular[:, :4].detach())
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient(ours), gradient(expected), rtol=1e-4, atol=1e-6)


class TestKDSVD(MethodContract):
    method = "kdsvd"
    networks = ("resnet8", "resnet8")
