"""A batch as rows of logits, which every logit method reads."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The rows of one batch: in classification of images, a row is an image.

    Attributes:
        student: (R, C), any floating dtype; the only tensor that receives a gradient.
        teacher: (R, C), a constant; None for a method without a teacher.
        target: (R,), class indices.
    """

    student: Tensor
    teacher: Tensor | None
    target: Tensor

    def total_weight(self) -> Tensor:
        """Return the sum of the rows' weights, a scalar on their device."""
        return torch.full((), float(len(self.target)), device=self.target.device)

    @functools.cached_property
    def student32(self) -> Tensor:
        """The student's logits, detached, in the dtype of the loss: fp64 for fp64 logits, else fp32."""
        return to_loss_dtype(self.student.detach())

    @functools.cached_property
    def teacher32(self) -> Tensor:
        """The teacher's logits, detached, in the dtype of ``student32``.

        Raises:
            ValueError: the batch has no teacher.
        """
        if self.teacher is None:
            raise ValueError("this method needs the teacher's logits")
        return to_loss_dtype(self.teacher.detach()).to(self.student32.dtype)


def to_loss_dtype(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
