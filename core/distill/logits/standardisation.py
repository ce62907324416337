"""Logits that are standardised before a loss reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from core.distill.rows import Rows
from core.distill.terms import Term

_STD_EPSILON = 1e-7
"""Added to the standard deviation, as in Sun et al. 2024."""


class StandardisedLogits:
    """Logits with mean 0 and standard deviation 1 in each row (Sun et al. 2024, arXiv 2403.01427, equation 10).

    Attributes:
        batch: the standardised logits, which the loss reads.
    """

    def __init__(self, batch: Rows) -> None:
        student, self._deviation = _standardise(batch.student32)
        teacher, _ = _standardise(batch.teacher32)
        self.batch = Rows(student, teacher, batch.target, batch.weight)

    def pull_back(self, term: Term) -> Term:
        """Return the term with its gradient with respect to the raw logits; the value stays.

        The gradient passes through z' = (z − mean) / (std + 1e-7), where std divides by C−1.
        """
        z, g = self.batch.student, term.direction
        scale = self._deviation + _STD_EPSILON
        # ∂std/∂z = (z − mean)/((C−1)·std) = z'·scale/((C−1)·std). A row of equal logits has no such direction.
        along = (g * z).sum(1, keepdim=True) / (z.shape[1] - 1) * scale / self._deviation.clamp_min(1e-30)
        return Term(term.value, (g - g.mean(1, keepdim=True) - along * z) / scale, term.scale)


def _standardise(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the standardised logits (R, C) and the standard deviation of each row (R, 1)."""
    deviation, mean = torch.std_mean(logits, dim=1, keepdim=True)
    return (logits - mean) / (deviation + _STD_EPSILON), deviation
