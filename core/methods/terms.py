"""What every loss is made of: logits in, a scalar with its gradient out.

The losses here are written with their gradients in closed form: value and gradient are computed together, in fp32
(fp64 for fp64 logits), whatever the autocast dtype, and the backward pass is one multiplication. The gradients are
also what the diagnostics measure, at no further cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
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
            to the gradient of ``total``. Empty for a loss that leaves its gradient to autograd.
        similarity: gives a scalar, the mean cosine of the TCKD and NCKD gradients of a sample, where the method has
            both; computed only when it is asked for.
    """

    total: Tensor
    values: dict[str, Tensor]
    gradients: dict[str, Tensor] = field(default_factory=dict)
    similarity: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Term:
    """One term of a loss: ``value`` a scalar, ``gradient`` (B, C) with respect to the student's logits."""

    value: Tensor
    gradient: Tensor


def cross_entropy(student: Tensor, target: Tensor) -> Term:
    """Mean cross-entropy with the labels: gradient (softmax(z) − onehot) / B."""
    log_p = F.log_softmax(student, dim=1)
    value = F.nll_loss(log_p, target)
    index = target.unsqueeze(1)
    gradient = log_p.exp_()
    gradient.scatter_(1, index, gradient.gather(1, index).sub_(1))
    return Term(value, gradient.div_(len(target)))


def compose(
    batch: LogitBatch, values: dict[str, Tensor], weighted: Mapping[str, tuple[float | Tensor, Term]]
) -> LossTerms:
    """Weight terms and add them up to a loss whose gradient is the sum of theirs. The terms' own gradients are used up.

    Args:
        values: what to report beside the terms' own values.
        weighted: by name, the weight (a number or a detached scalar) and the term.
    """
    # In place: with many classes a new tensor costs as much as the arithmetic.
    gradients = {name: term.gradient.mul_(weight) for name, (weight, term) in weighted.items()}
    total = torch.stack([weight * term.value for weight, term in weighted.values()]).sum()
    first, *others = gradients.values()
    gradient = first.clone()
    for other in others:
        gradient += other
    return LossTerms(
        total=attach(batch.student, total, gradient),
        values={name: term.value for name, (_, term) in weighted.items()} | values,
        gradients=gradients,
    )


def full_precision(batch: LogitBatch) -> torch.autocast:
    """A block in which autocast is off: some products (``vecdot`` among them) would be taken in half precision."""
    return torch.autocast(batch.student.device.type, enabled=False)


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
