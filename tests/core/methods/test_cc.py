"""CC against the formulas with plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from core.catalog.methods.cc import CCParams
from core.distill.features.cc import CC
from core.distill.objective import Objective
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

STUDENT = {"features": (5,)}
TEACHER = {"features": (7,)}
VARIANTS = ["paper", "public_code"]


def _kernel(x: Array, y: Array, gamma: float, order: int) -> float:
    product = float((x * y).sum()) / math.sqrt(float((x**2).sum()) * float((y**2).sum()))
    terms = [(2 * gamma) ** p / math.factorial(p) * product**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * sum(terms)


def oracle(
    student: Mapping[str, Array], teacher: Mapping[str, Array], gamma: float, order: int, weight: Any = None
) -> float:
    s, t = student["features"], teacher["features"]
    weights = [1.0] * len(s) if weight is None else weight
    present = [i for i in range(len(s)) if weights[i] > 0]
    total = 0.0
    for i in present:
        for j in present:
            difference = _kernel(s[i], s[j], gamma, order) - _kernel(t[i], t[j], gamma, order)
            total += weights[i] * weights[j] * difference**2
    return total / sum(weights) ** 2


def neighbours_oracle(
    objective: Objective, student: Mapping[str, Array], teacher: Mapping[str, Array], weight: Any = None
) -> float:
    assert isinstance(objective, CC)
    s, t = student["features"], teacher["features"]
    layers = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in (objective.student_layer, objective.teacher_layer)
    ]
    weights = [1.0] * len(s) if weight is None else weight
    present = [i for i in range(len(s)) if weights[i] > 0]
    (a, b), (c, d) = layers
    size = {i: np.abs(a @ s[i] + b - c @ t[i] - d) for i in present}
    total, norm = 0.0, 0.0
    for i, j in itertools.pairwise(present):
        total += weights[i] * weights[j] * sum(size[i][k] * size[j][k] for k in range(len(b)))
        norm += weights[i] * weights[j]
    return total / norm


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (1.5, 5)])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.0, 0.5]])
def test_value_and_gradient_are_those_of_the_paper(gamma: float, order: int, weight: Any) -> None:
    student, teacher = random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2)
    if weight:
        teacher["features"][2] = np.nan
    objective = build("cc", STUDENT, TEACHER, gamma=gamma, order=order)
    assert_follows(objective, "cc", student, teacher, lambda taps: oracle(taps, teacher, gamma, order, weight), weight)


def test_series_of_high_order_is_the_gaussian_kernel() -> None:
    x, y = np.array([0.6, 0.8]), np.array([1.0, 0.0])
    assert _kernel(x, y, 0.4, 20) == pytest.approx(math.exp(-0.4 * float(((x - y) ** 2).sum())))


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.0, 0.0, 0.5], [0.0, 1.0, 3.0, 0.0, 0.0]])
def test_value_and_gradient_are_those_of_the_public_code(weight: Any) -> None:
    student, teacher = random_taps(5, STUDENT, 1), random_taps(5, TEACHER, 2)
    objective = build("cc", STUDENT, TEACHER, variant="public_code", width=6).double()

    def expected(taps: Mapping[str, Array]) -> float:
        return neighbours_oracle(objective, taps, teacher, weight)

    assert_follows(objective, "cc", student, teacher, expected, weight)


def test_both_layers_of_the_public_code_are_trained() -> None:
    objective = build("cc", STUDENT, TEACHER, variant="public_code").double()
    step = step_of(random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2))
    objective(step).total.backward()
    gradients = {name: parameter.grad for name, parameter in objective.named_parameters()}
    assert set(gradients) == {
        "student_layer.weight",
        "student_layer.bias",
        "teacher_layer.weight",
        "teacher_layer.bias",
    }
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())
    assert not list(build("cc", STUDENT, TEACHER).parameters())


def test_weights_are_those_of_the_public_code_of_each_variant() -> None:
    assert CCParams().strength == 100
    assert CCParams(variant="public_code").strength == 0.02
    assert CCParams(variant="public_code", weight=3.0).strength == 3.0


def test_rotation_and_scale_of_each_feature_vector_do_not_matter() -> None:
    objective = build("cc", STUDENT, TEACHER)
    student, teacher = random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((5, 5)))
    scale = np.array([[1.0], [2.0], [0.1], [30.0]])
    value, gradients = term_and_gradients(objective, step_of(student, teacher), "cc")
    rotated = {"features": scale * student["features"] @ rotation}
    other, turned = term_and_gradients(objective, step_of(rotated, teacher), "cc")
    assert other == pytest.approx(value)
    np.testing.assert_allclose(scale * turned["features"], gradients["features"] @ rotation, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("rows", "weight"), [(1, None), (1, [2.0]), (2, [0.0, 0.0]), (3, [0.0, 1.0, 0.0])])
def test_single_samples_have_no_relations(variant: str, rows: int, weight: Any) -> None:
    student, teacher = random_taps(rows, STUDENT, 1), random_taps(rows, TEACHER, 2)
    objective = build("cc", STUDENT, TEACHER, variant=variant).double()
    value, gradients = term_and_gradients(objective, step_of(student, teacher, weight), "cc")
    assert value == pytest.approx(0, abs=1e-15)
    assert not gradients["features"].round(12).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_sixteen_bits_are_near_float32(variant: str) -> None:
    torch.manual_seed(0)
    objective = build("cc", STUDENT, TEACHER, variant=variant)
    assert_sixteen_bits(objective, "cc", random_taps(5, STUDENT, 1), random_taps(5, TEACHER, 2))


class TestCC(MethodContract):
    method = "cc"
