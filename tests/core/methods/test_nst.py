"""NST against the formula with plain loops."""

from __future__ import annotations

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

# The first stage has fewer channels than positions, the second fewer positions than channels.
STUDENT = {"stage1": (2, 4, 4), "stage2": (6, 1, 2)}
TEACHER = {"stage1": (3, 4, 4), "stage2": (5, 1, 2)}


def _kernel(first: Array, second: Array) -> float:
    total = 0.0
    for a in first:
        for b in second:
            product = float((a * b).sum()) / np.sqrt(float((a * a).sum()) * float((b * b).sum()))
            total += product**2
    return total / (len(first) * len(second))


def oracle(student: Mapping[str, Array], teacher: Mapping[str, Array], weight: Any = None) -> float:
    count = len(next(iter(student.values())))
    weights = [1.0] * count if weight is None else weight
    total = 0.0
    for name, maps in student.items():
        for row in range(count):
            if weights[row] > 0:
                s, t = maps[row], teacher[name][row]
                total += weights[row] / sum(weights) * (_kernel(s, s) + _kernel(t, t) - 2 * _kernel(s, t))
    return total


@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.5]])
def test_value_and_gradient_are_those_of_the_formula(weight: Any) -> None:
    student, teacher = random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2)
    if weight:
        teacher["stage1"][1] = np.nan
    objective = build("nst", STUDENT, TEACHER)
    assert_follows(objective, "nst", student, teacher, lambda taps: oracle(taps, teacher, weight), weight)


def test_larger_maps_are_averaged_to_the_smaller() -> None:
    student, teacher = random_taps(2, {"stage1": (2, 4, 4)}, 1), random_taps(2, {"stage1": (3, 2, 2)}, 2)
    objective = build("nst", {"stage1": (2, 4, 4)}, {"stage1": (3, 2, 2)})

    def averaged(taps: Mapping[str, Array]) -> float:
        return oracle({"stage1": taps["stage1"].reshape(2, 2, 2, 2, 2, 2).mean((3, 5))}, teacher)

    assert_follows(objective, "nst", student, teacher, averaged)


def test_order_and_scale_of_the_channels_do_not_matter() -> None:
    objective = build("nst", STUDENT, TEACHER)
    student, teacher = random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2)
    value, _ = term_and_gradients(objective, step_of(student, teacher), "nst")
    changed = {name: tap[:, ::-1] * np.arange(1, tap.shape[1] + 1)[:, None, None] for name, tap in student.items()}
    changed_value, _ = term_and_gradients(objective, step_of(changed, teacher), "nst")
    assert changed_value == pytest.approx(value)


def test_student_with_the_teachers_channels_has_no_discrepancy() -> None:
    taps = random_taps(2, STUDENT, 1)
    twice = {name: np.concatenate((tap, tap), 1) for name, tap in taps.items()}
    twice["stage1"][0, 0] = 0
    taps["stage1"][0, 0] = twice["stage1"][0, 2] = 0  # a channel without activity
    shapes = {name: tap.shape[1:] for name, tap in twice.items()}
    value, gradients = term_and_gradients(build("nst", STUDENT, shapes), step_of(taps, twice), "nst")
    assert value == pytest.approx(0, abs=1e-12)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_sixteen_bits_are_near_float32() -> None:
    assert_sixteen_bits(build("nst", STUDENT, TEACHER), "nst", random_taps(3, STUDENT, 1), random_taps(3, TEACHER, 2))


def test_batch_of_one() -> None:
    student, teacher = random_taps(1, STUDENT, 1), random_taps(1, TEACHER, 2)
    value, _ = term_and_gradients(build("nst", STUDENT, TEACHER), step_of(student, teacher), "nst")
    assert value == pytest.approx(oracle(student, teacher))


def test_vectors_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="student_taps: 'features' gives outputs"):
        build("nst", {"features": (8,)}, TEACHER)


class TestNST(MethodContract):
    method = "nst"
