"""A batch as rows of logits, which every logit method reads."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The rows of one batch: in classification of images, a row is an image.

    With weights w, every mean over rows Σ x_i/R becomes Σ w_i·x_i / Σ w. Where Σ w = 0 it is 0, and so is its gradient.
    The derivation is in docs/method.md, "Weights of rows".

    Attributes:
        student: (R, C), any floating dtype; the only tensor that receives a gradient.
        teacher: (R, C), a constant; None for a method without a teacher.
        target: (R,), class indices.
        weight: (R,), finite and not negative, any dtype, a constant; None gives every row the weight 1. Values are
            not checked, because a check would make the host wait for the device. A row of weight 0 may hold anything:
            its logits and its target are never used.
        label_smoothing: The share of the label that cross-entropy spreads over all classes. No other term reads it.
        label_weight: (R,), the weights of the rows in the cross-entropy with the labels, if they are others than
            ``weight``. A row whose label counts and whose teacher does not has the weight 0 and a label weight.

    Raises:
        ValueError: The weights do not have the shape of the targets.
    """

    student: Tensor
    teacher: Tensor | None
    target: Tensor
    weight: Tensor | None = None
    label_smoothing: float = 0.0
    label_weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight is None and self.label_weight is None:
            return
        for weight in (self.weight, self.label_weight):
            if weight is not None and weight.shape != self.target.shape:
                shapes = f"{tuple(weight.shape)} for targets {tuple(self.target.shape)}"
                raise ValueError(f"expected one weight for each row, got weights {shapes}")

    @property
    def for_labels(self) -> Rows:
        """The rows with the weights that they have in the cross-entropy with the labels."""
        if self.label_weight is None:
            return self
        return replace(self, weight=self.label_weight, label_weight=None)

    def total_weight(self) -> Tensor:
        """Return the sum of the rows' weights, a scalar on their device."""
        if self.weight32 is not None:
            return self.weight32.sum()
        return torch.full((), float(len(self.target)), dtype=self.student32.dtype, device=self.target.device)

    @functools.cached_property
    def student32(self) -> Tensor:
        """The student's logits, detached, in the dtype of the loss: fp64 for fp64 logits, else fp32."""
        return self._without_unused(to_loss_dtype(self.student.detach()))

    @functools.cached_property
    def teacher32(self) -> Tensor:
        """The teacher's logits, detached, in the dtype of ``student32``.

        Raises:
            ValueError: The batch has no teacher.
        """
        if self.teacher is None:
            raise ValueError("this method needs the teacher's logits")
        return self._without_unused(to_loss_dtype(self.teacher.detach()).to(self.student32.dtype))

    @functools.cached_property
    def label(self) -> Tensor:
        """The targets as valid class indices (R,): 0 in rows of weight 0, whose target may be any number."""
        return self._without_unused(self.target)

    @functools.cached_property
    def weight32(self) -> Tensor | None:
        """The weights, detached, in the dtype of ``student32``; None if all are 1."""
        if self.weight is None:
            return None
        return self.weight.detach().to(torch.float64 if self.student.dtype == torch.float64 else torch.float32)

    @functools.cached_property
    def share(self) -> Tensor | None:
        """w_i / Σ w (R,), the part of a mean that belongs to each row; all 0 where Σ w = 0. None without weights."""
        if self.weight32 is None:
            return None
        total = self.weight32.sum()
        return self.weight32 / torch.where(total > 0, total, 1.0)

    @functools.cached_property
    def relative_weight(self) -> Tensor | None:
        """w_i·R / Σ w (R,), weights whose mean is 1; all 0 where Σ w = 0. None without weights."""
        return None if self.share is None else self.share * len(self.share)

    def weigh(self, values: Tensor, power: int = 1) -> Tensor:
        """Return values (R, …), each row times its relative weight; without weights the values themselves.

        ``weigh(x).mean()`` is Σ w_i·x_i / Σ w, because the relative weights have the mean 1.

        Args:
            values: One row of any shape for each row of the batch.
            power: The exponent of the relative weight.
        """
        if self.weight is None or self.relative_weight is None:
            return values
        return values * self.relative_weight.pow(power).view(-1, *[1] * (values.ndim - 1))

    def unless_weightless(self, value: Tensor, otherwise: float = 0.0) -> Tensor:
        """Return a scalar of the batch, or ``otherwise`` where Σ w = 0, without waiting for the device."""
        return value if self.weight is None or self.share is None else torch.where(self.share.any(), value, otherwise)

    def _without_unused(self, values: Tensor) -> Tensor:
        """Return values (R, …) with zeros in rows of weight 0; without weights the values themselves."""
        if self.weight is None or self.weight32 is None:
            return values
        used = (self.weight32 > 0).view(-1, *[1] * (values.ndim - 1))
        return torch.where(used, values, torch.zeros_like(values))


def to_loss_dtype(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
