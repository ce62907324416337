"""What the methods that read inner layers have in common: how they read a step, and the loss that they return."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from core.distill.logits.kd import softened_divergence
from core.distill.objective import NetworkShape, ObjectiveError, Outputs, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, label_term, with_gradient


def teacher_shape(setting: Setting) -> NetworkShape:
    """Return the teacher that a method is built for.

    Raises:
        ObjectiveError: There is none.
    """
    if setting.teacher is None:
        raise ObjectiveError("this method needs a teacher")
    return setting.teacher


def require_map(parameter: str, name: str, shape: torch.Size) -> torch.Size:
    """Return the shape of a tap if it is a map (channels, height, width).

    Args:
        parameter: The parameter that names the tap, for the message.
        name: The tap.
        shape: Its shape.

    Raises:
        ObjectiveError: It is not.
    """
    if len(shape) != 3:
        raise ObjectiveError(f"{parameter}: {name} gives {tuple(shape)}, and not maps (channels, height, width)")
    return shape


def student_taps(step: Step) -> dict[str, Tensor]:
    """Return the student's taps in the dtype of the loss, with zeros in rows of weight 0."""
    return _taps(step.rows, step.student)


def teacher_taps(step: Step) -> dict[str, Tensor]:
    """Return the teacher's taps in the dtype of the loss, as constants, with zeros in rows of weight 0."""
    assert step.teacher is not None
    return {name: tap.detach() for name, tap in _taps(step.rows, step.teacher).items()}


def _taps(rows: Rows, outputs: Outputs) -> dict[str, Tensor]:
    dtype, weight = rows.student32.dtype, rows.weight32
    taps = {name: tap.to(dtype) for name, tap in outputs.taps.items()}
    if weight is None:
        return taps
    return {name: torch.where((weight > 0).view(-1, *[1] * (tap.ndim - 1)), tap, 0.0) for name, tap in taps.items()}


def pooled_to_smaller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two batches of maps (B, …, H, W), the larger maps averaged to the size of the smaller ones."""
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    return _pooled(first, size), _pooled(second, size)


def _pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)


def mean_over_rows(rows: Rows, values: Tensor) -> Tensor:
    """Return the mean over the rows, with their weights, of the mean of each row of values (B, …)."""
    return rows.weigh(values.flatten(1).mean(1)).mean()


def kd_term(rows: Rows, temperature: float) -> Tensor:
    """Return T²·KL(teacher ‖ student) of the logits, a scalar with its gradient."""
    term = softened_divergence(rows, temperature)
    return with_gradient(rows.student, term.value, term.gradient)


def with_cross_entropy(rows: Rows, weight: float, others: Mapping[str, tuple[float, Tensor]]) -> LossTerms:
    """Return the loss weight·CE + Σ weight·term.

    Args:
        rows: The rows of the step.
        weight: The weight of the cross-entropy with the labels.
        others: By the name of a term, its weight and its value with a graph.
    """
    ce = label_term(rows)
    return weighted_sum({"ce": (weight, with_gradient(rows.student, ce.value, ce.gradient))} | dict(others))


def weighted_sum(terms: Mapping[str, tuple[float, Tensor]]) -> LossTerms:
    """Return the loss Σ weight·term.

    Args:
        terms: By the name of a term, its weight and its value with a graph.
    """
    parts = {name: weight * value for name, (weight, value) in terms.items()}
    total = torch.stack(list(parts.values())).sum()
    return LossTerms(total, {name: value.detach() for name, (_, value) in terms.items()}, parts=parts)
