"""Methods with taps on given tensors, and numerical gradients of their oracles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.distill.objective import NetworkShape, Objective, Outputs, Setting, Step, build_objective
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.specs import MethodRef
from tests.core.methods.slow_layers import Array as Array

Shapes = Mapping[str, tuple[int, ...]]
CLASSES = 4


def build(name: str, student: Shapes, teacher: Shapes, **params: Any) -> Objective:
    """Return a method for networks with taps of given shapes, without the dimension of the batch."""
    setting = Setting(
        NetworkShape(CLASSES, {tap: torch.Size(shape) for tap, shape in student.items()}),
        NetworkShape(CLASSES, {tap: torch.Size(shape) for tap, shape in teacher.items()}),
        64,
    )
    return build_objective(MethodRef(name=name, params=params), setting)


def random_taps(rows: int, shapes: Shapes, seed: int) -> dict[str, Array]:
    """Return normally distributed taps."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal((rows, *shape)) for name, shape in shapes.items()}


def step_of(
    student: Mapping[str, Array], teacher: Mapping[str, Array], weight: Any = None, dtype: torch.dtype = torch.float64
) -> Step:
    """Return the step with given taps; the student's receive gradients."""
    count = len(next(iter(student.values())))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, CLASSES, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    constant = torch.randn(count, CLASSES, generator=generator, dtype=torch.float64).to(dtype)
    weights = None if weight is None else torch.as_tensor(weight, dtype=torch.float64)
    rows = Rows(logits, constant, torch.arange(count) % CLASSES, weights)
    own = {name: torch.tensor(value, dtype=dtype).requires_grad_() for name, value in student.items()}
    return Step(
        rows, Outputs(logits, own), Outputs(constant, {k: torch.tensor(v, dtype=dtype) for k, v in teacher.items()})
    )


def term_and_gradients(objective: Objective, step: Step, term: str) -> tuple[float, dict[str, Array]]:
    """Return a term without its weight, and the gradients of its weighted part divided by that weight."""
    terms: LossTerms = objective(step)
    value = float(terms.values[term])
    part = terms.parts[term]
    gradients = torch.autograd.grad(part, list(step.student.taps.values()), allow_unused=True)
    weight = part.item() / value if value else 1.0
    return value, {
        name: np.zeros(tap.shape) if gradient is None else gradient.double().numpy() / weight
        for (name, tap), gradient in zip(step.student.taps.items(), gradients, strict=True)
    }


def numerical_gradients(oracle: Callable[[dict[str, Array]], float], taps: Mapping[str, Array]) -> dict[str, Array]:
    """Return the central differences of an oracle with respect to each element of each tap."""
    h = 1e-6
    moved = {name: value.copy() for name, value in taps.items()}
    gradients = {}
    for name, value in moved.items():
        gradient = gradients[name] = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            before = value[index]
            value[index] = before + h
            above = oracle(moved)
            value[index] = before - h
            below = oracle(moved)
            value[index] = before
            gradient[index] = (above - below) / (2 * h)
    return gradients


def assert_follows(
    objective: Objective,
    term: str,
    student: Mapping[str, Array],
    teacher: Mapping[str, Array],
    oracle: Callable[[dict[str, Array]], float],
    weight: Any = None,
) -> None:
    """Assert that value and gradient of a term are those of its oracle, a function of the student's taps."""
    value, gradients = term_and_gradients(objective, step_of(student, teacher, weight), term)
    np.testing.assert_allclose(value, oracle(dict(student)), rtol=1e-9, atol=1e-14)
    for name, expected in numerical_gradients(oracle, student).items():
        np.testing.assert_allclose(
            gradients[name], expected, rtol=1e-5, atol=1e-8 * max(1.0, float(np.abs(expected).max()))
        )


def assert_sixteen_bits(
    objective: Objective, term: str, student: Mapping[str, Array], teacher: Mapping[str, Array]
) -> None:
    """Assert that bfloat16 taps give a finite value and gradient near those of the same numbers in float32."""
    half = step_of(student, teacher, dtype=torch.bfloat16)
    own, other = ({name: tap.detach().double().numpy() for name, tap in taps.items()} for taps in _taps(half))
    value, gradients = term_and_gradients(objective, half, term)
    expected, exact = term_and_gradients(objective, step_of(own, other, dtype=torch.float32), term)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, exact[name], rtol=2e-2, atol=1e-2 * float(np.abs(exact[name]).max()))


def _taps(step: Step) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    assert step.teacher is not None
    return step.student.taps, step.teacher.taps
