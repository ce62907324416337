"""Terms whose gradient is left to autograd, and logits that are standardised before a loss sees them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.methods.terms import LogitBatch, Term

_STD_FLOOR = 1e-7  # of Sun et al. 2024, added to the standard deviation


def differentiated(value_of: Callable[[Tensor], Tensor], student: Tensor) -> Term:
    """A term from its value alone: a differentiable function of the student's logits (B, C)."""
    with torch.enable_grad():
        leaf = student.detach().requires_grad_()
        value = value_of(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
    return Term(value.detach(), gradient)


class Standardised:
    """Logits with mean 0 and standard deviation 1 in each row (Sun et al. 2024, arXiv 2403.01427, equation 10).

    ``batch`` is what the loss sees; ``pulled_back`` turns its gradients into those with respect to the raw logits.
    """

    def __init__(self, batch: LogitBatch) -> None:
        student, self._deviation = _standardise(batch.student32)
        teacher, _ = _standardise(batch.teacher32)
        self.batch = LogitBatch(student, teacher, batch.target)

    def pulled_back(self, term: Term) -> Term:
        """The same value with its gradient through z' = (z − mean) / (std + 1e-7), std of the C−1 kind."""
        z, g = self.batch.student, term.direction
        scale = self._deviation + _STD_FLOOR
        # ∂std/∂z = (z − mean)/((C−1)·std) = z'·scale/((C−1)·std); a row of equal logits has no direction to move in.
        along = (g * z).sum(1, keepdim=True) / (z.shape[1] - 1) * scale / self._deviation.clamp_min(1e-30)
        return Term(term.value, (g - g.mean(1, keepdim=True) - along * z) / scale, term.scale)


def _standardise(logits: Tensor) -> tuple[Tensor, Tensor]:
    deviation, mean = torch.std_mean(logits, dim=1, keepdim=True)
    return (logits - mean) / (deviation + _STD_FLOOR), deviation
