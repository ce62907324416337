"""The comparison of a method with a formula that is written in NumPy, see ``slow_layers``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from core.distill.objective import NetworkShape, Objective, Outputs, Setting, Step
from core.distill.rows import Rows
from tests.core.methods.slow_layers import Array

Values = Mapping[str, Array]

_H = 1e-6
_ENTRIES = 4  # of each tensor


def shares(weight: Tensor | None, count: int) -> Array:
    """Return the part of a mean that belongs to each row."""
    weights = np.ones(count) if weight is None else weight.numpy()
    return np.asarray(weights / weights.sum())


def shape(classes: int, tap: tuple[int, ...], name: str = "last_map", features: int | None = None) -> NetworkShape:
    """Return a network with one tap, whose classifier reads the mean of it, with random weights in float64.

    Args:
        classes: C.
        tap: (channels, height, width).
        name: The name of the tap.
        features: Width of the classifier; None for that of the tap.
    """
    linear = torch.nn.Linear(features or tap[0], classes).double()
    return NetworkShape(classes, {name: torch.Size(tap)}, linear, averaged=frozenset({name}))


def random_step(
    setting: Setting, rows: int = 4, *, weight: Tensor | None = None, epoch: int | None = None, seed: int = 0
) -> Step:
    """Return a step with random outputs; logits and taps of the student receive gradients."""
    assert setting.teacher is not None
    generator = torch.Generator().manual_seed(seed)

    def outputs(network: NetworkShape, *, trained: bool) -> Outputs:
        def sample(*size: int) -> Tensor:
            values = torch.randn(rows, *size, generator=generator, dtype=torch.float64)
            return values.requires_grad_(trained)

        return Outputs(sample(network.num_classes), {name: sample(*size) for name, size in network.taps.items()})

    student, teacher = outputs(setting.student, trained=True), outputs(setting.teacher, trained=False)
    target = torch.randint(setting.student.num_classes, (rows,), generator=generator)
    return Step(Rows(student.logits, teacher.logits, target, weight), student, teacher, epoch=epoch)


def tensors_of(objective: Objective, step: Step) -> dict[str, Tensor]:
    """Return everything that receives a gradient, by name."""
    read = {f"student {number}": parameter for number, parameter in enumerate(objective.student_parameters())}
    return {"logits": step.student.logits} | dict(step.student.taps) | dict(objective.named_parameters()) | read


def lower_precision_ratio(objective: Objective, step: Step) -> float:
    """Return the loss of taps in bfloat16 divided by that of taps in float32. The method's parameters become float32.

    Args:
        objective: The method.
        step: The step.
    """
    objective.float()

    def with_taps(dtype: torch.dtype) -> Step:
        student, teacher = (
            outputs and replace(outputs, taps={name: tap.detach().to(dtype) for name, tap in outputs.taps.items()})
            for outputs in (step.student, step.teacher)
        )
        assert student is not None
        rows = replace(step.rows, student=step.rows.student.detach().float(), teacher=step.rows.teacher32.float())
        return replace(step, rows=rows, student=student, teacher=teacher)

    exact, rounded = (objective(with_taps(dtype)).total.detach() for dtype in (torch.float32, torch.bfloat16))
    return float(rounded / exact)


def assert_equals_oracle(
    objective: Objective, step: Step, oracle: Callable[[Values], float], rel: float = 1e-9
) -> None:
    """Compare the value of a loss with a formula, and its gradients with finite differences of the formula.

    Args:
        objective: The method.
        step: The step.
        oracle: Returns the loss from the student's outputs and the method's parameters by name.
        rel: Largest relative difference of the values.
    """
    tensors = tensors_of(objective, step)
    total = objective(step).total
    values = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in tensors.items()}
    assert float(total.detach()) == pytest.approx(oracle(values), rel=rel)
    gradients = torch.autograd.grad(total, list(tensors.values()), allow_unused=True)
    random = np.random.default_rng(0)
    for (name, value), gradient in zip(values.items(), gradients, strict=True):
        for _ in range(_ENTRIES):
            index = tuple(random.integers(size) for size in value.shape)
            slopes = []
            for h in (_H, -_H):
                moved = value.copy()
                moved[index] += h
                slopes.append(oracle({**values, name: moved}))
            expected = (slopes[0] - slopes[1]) / (2 * _H)
            actual = 0.0 if gradient is None else float(gradient[index])
            assert actual == pytest.approx(expected, rel=1e-4, abs=1e-7), (name, index)
