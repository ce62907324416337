"""PKT against the formula with plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from core.catalog.methods.pkt import PKTParams
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


def _neighbours(vectors: Array, own: bool) -> Array:
    count = len(vectors)
    p = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            if own or i != j:
                product = float((vectors[i] * vectors[j]).sum())
                p[i, j] = (product / math.sqrt((vectors[i] ** 2).sum() * (vectors[j] ** 2).sum()) + 1) / 2
        p[i] /= p[i].sum()
    return p


def oracle(student: Mapping[str, Array], teacher: Mapping[str, Array], variant: str) -> float:
    own = variant == "public_code"
    p, q = _neighbours(student["features"], own), _neighbours(teacher["features"], own)
    total, count = 0.0, len(p)
    for i in range(count):
        for j in range(count):
            if own or i != j:
                total += q[i, j] * math.log((q[i, j] + 1e-7) / (p[i, j] + 1e-7))
    return total / count**2 if own else total


@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradient_are_those_of_the_formula(variant: str) -> None:
    student, teacher = random_taps(5, STUDENT, 1), random_taps(5, TEACHER, 2)
    objective = build("pkt", STUDENT, TEACHER, variant=variant)
    assert_follows(objective, "pkt", student, teacher, lambda taps: oracle(taps, teacher, variant))


def test_whole_numbers_as_weights_are_repeated_rows_but_for_one_division_by_their_number() -> None:
    times = [2, 0, 1, 3]
    student, teacher = random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2)
    teacher["features"][1] = np.nan
    objective = build("pkt", STUDENT, TEACHER, variant="public_code")
    value, _ = term_and_gradients(objective, step_of(student, teacher, times), "pkt")
    own, other = ({name: np.repeat(tap, times, 0) for name, tap in taps.items()} for taps in (student, teacher))
    assert value == pytest.approx(oracle(own, other, "public_code") * 6 * 14 / 36, rel=1e-5)


def test_variants_have_the_published_strength_in_batches_of_64() -> None:
    paper, public = PKTParams(), PKTParams(variant="public_code")
    assert public.strength == 30000
    student, teacher = random_taps(64, STUDENT, 1), random_taps(64, TEACHER, 2)
    parts = [params.strength * oracle(student, teacher, params.variant) for params in (paper, public)]
    assert parts[0] == pytest.approx(parts[1], rel=0.1)
    assert PKTParams(weight=2.0).strength == 2.0
    with pytest.raises(ValidationError):
        PKTParams(weight=-1.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rotation_and_scale_of_each_feature_vector_do_not_matter(variant: str) -> None:
    objective = build("pkt", STUDENT, TEACHER, variant=variant)
    student, teacher = random_taps(5, STUDENT, 1), random_taps(5, TEACHER, 2)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((5, 5)))
    scale = np.array([[1.0], [2.0], [0.1], [30.0], [4.0]])
    value, gradients = term_and_gradients(objective, step_of(student, teacher), "pkt")
    rotated = {"features": scale * student["features"] @ rotation}
    other, turned = term_and_gradients(objective, step_of(rotated, teacher), "pkt")
    assert other == pytest.approx(value)
    np.testing.assert_allclose(scale * turned["features"], gradients["features"] @ rotation, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("weight", [None, [2.0], [0.0]])
def test_batch_of_one_has_no_divergence(variant: str, weight: Any) -> None:
    student, teacher = random_taps(1, STUDENT, 1), random_taps(1, TEACHER, 2)
    objective = build("pkt", STUDENT, TEACHER, variant=variant)
    value, gradients = term_and_gradients(objective, step_of(student, teacher, weight), "pkt")
    assert value == pytest.approx(0, abs=1e-12)
    assert np.isfinite(gradients["features"]).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_opposite_and_absent_features_give_finite_gradients(variant: str) -> None:
    student, teacher = random_taps(4, STUDENT, 1), random_taps(4, TEACHER, 2)
    student["features"][1] = -student["features"][0]  # the cosine is −1, and the student's probability 0
    student["features"][2] = 0
    objective = build("pkt", STUDENT, TEACHER, variant=variant)
    value, gradients = term_and_gradients(objective, step_of(student, teacher), "pkt")
    assert np.isfinite(value)
    assert np.isfinite(gradients["features"]).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_sixteen_bits_are_near_float32(variant: str) -> None:
    objective = build("pkt", STUDENT, TEACHER, variant=variant)
    assert_sixteen_bits(objective, "pkt", random_taps(5, STUDENT, 1), random_taps(5, TEACHER, 2))


class TestPKT(MethodContract):
    method = "pkt"
