"""What every loss is made of: logits in, a scalar with its gradient out.

The losses here are written with their gradients in closed form: value and gradient are computed together, in fp32
(fp64 for fp64 logits), whatever the autocast dtype, and the backward pass is one multiplication. The gradients are
also what the diagnostics measure, at no further cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class LogitBatch:
    """One batch at the logits.

    Attributes:
        student: (B, C), any floating dtype; the only tensor that a gradient flows to.
        teacher: (B, C), a constant; None for a method that reads no teacher.
        target: (B,), class indices.
    """

    student: Tensor
    teacher: Tensor | None
    target: Tensor

    @functools.cached_property
    def student32(self) -> Tensor:
        """The student's logits, detached, in the dtype that the loss is computed in."""
        return _full(self.student.detach())

    @functools.cached_property
    def teacher32(self) -> Tensor:
        """The teacher's logits likewise. Raises ValueError where there is no teacher."""
        if self.teacher is None:
            raise ValueError("this method needs the teacher's logits")
        return _full(self.teacher.detach()).to(self.student32.dtype)


@dataclass(frozen=True)
class LossTerms:
    """A loss and what it is made of.

    Attributes:
        total: scalar, to call ``backward`` on.
        values: detached scalars by name, unweighted: ``ce``, ``tckd``, ``nckd``, ``align``, ``kd``, ``epsilon`` ….
        gradients: (B, C) each, with respect to the student's logits, all weights, ramp and decay included. They add up
            to the gradient of ``total``. Each is made when it is first read: ``total`` needs only their sum. Empty for
            a loss that leaves its gradient to autograd.
        similarity: gives a scalar, the mean cosine of the TCKD and NCKD gradients of a sample, where the method has
            both; computed only when it is asked for.
    """

    total: Tensor
    values: dict[str, Tensor]
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    similarity: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Term:
    """One term of a loss.

    Attributes:
        value: scalar.
        direction: (B, C); times ``scale`` it is the gradient with respect to the student's logits.
        scale: a number or a detached scalar, kept apart so that it is multiplied with the term's weight and not with
            every class's share.
    """

    value: Tensor
    direction: Tensor
    scale: float | Tensor = 1.0

    @property
    def gradient(self) -> Tensor:
        """(B, C)."""
        return self.direction * self.scale


class Gradients(Mapping[str, Tensor]):
    """The gradients of weighted terms by name, each made when it is first read."""

    def __init__(self, weighted: Mapping[str, tuple[float | Tensor, Term]]) -> None:
        self._weighted = weighted
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            weight, term = self._weighted[name]
            self._made[name] = term.direction * (weight * term.scale)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weighted)

    def __len__(self) -> int:
        return len(self._weighted)


def cross_entropy(student: Tensor, target: Tensor) -> Term:
    """Mean cross-entropy with the labels: gradient (softmax(z) − onehot) / B."""
    log_p = student.log_softmax(1)
    value = F.nll_loss(log_p, target)
    index = target.unsqueeze(1)
    direction = log_p.exp_()
    direction.scatter_(1, index, direction.gather(1, index).sub_(1))
    return Term(value, direction, 1 / len(target))


def compose(
    batch: LogitBatch, values: dict[str, Tensor], weighted: Mapping[str, tuple[float | Tensor, Term]]
) -> LossTerms:
    """Weight terms and add them up to a loss whose gradient is the sum of theirs.

    Args:
        values: what to report beside the terms' own values.
        weighted: by name, the weight (a number or a detached scalar) and the term.
    """
    (weight, term), *others = weighted.values()
    total, gradient = term.value * weight, term.direction * (weight * term.scale)
    for weight, term in others:
        _add(total, term.value, weight)
        _add(gradient, term.direction, weight * term.scale)
    return LossTerms(
        total=attach(batch.student, total, gradient),
        values={name: term.value for name, (_, term) in weighted.items()} | values,
        gradients=Gradients(weighted),
    )


def _add(total: Tensor, part: Tensor, factor: float | Tensor) -> None:
    """``total += factor·part`` in one operation."""
    if isinstance(factor, Tensor):
        total.addcmul_(part, factor)
    else:
        total.add_(part, alpha=factor)


def full_precision(batch: LogitBatch) -> AbstractContextManager[object]:
    """A block in which autocast is off: some products (``dot`` among them) would be taken in half precision."""
    device = batch.student.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def attach(logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """``value`` as a function of ``logits`` whose gradient is already known."""
    attached: Tensor = _Known.apply(logits, value, gradient)
    return attached


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (outer * gradient).to(ctx.dtype), None, None


def _full(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
