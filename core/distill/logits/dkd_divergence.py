"""DKD-Divergence: w_CE·CE + r(e)·[α·TCKD + β·NCKD + μ·MSE(p_t, q_t) + ε·MSE(p − p_t, q − q_t)].

p and q are the softened distributions; the second difference is taken over all classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods import DKDDivergenceParams
from core.distill.logits.alignment import subtract
from core.distill.logits.decoupled import Decoupled
from core.distill.logits.decoupled_gradients import diagnostics_of
from core.distill.logits.dkd import ramp, weighted_terms
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, compose


def dkd_divergence_loss(batch: Rows, params: DKDDivergenceParams, epoch: int | None) -> LossTerms:
    """Return DKD with the two squared differences, its cross-entropy and its ramp."""
    parts = Decoupled(batch, params.temperature)
    r = ramp(params, epoch)
    target, divergence = squared_differences(batch, params.temperature)
    weighted = weighted_terms(batch, parts, params, epoch) | {
        "target_mse": (r * params.mu, target),
        "divergence": (r * params.epsilon, divergence),
    }
    reported = {}
    if params.align != "off":
        reported["epsilon"] = subtract(
            weighted,
            parts.alignment(params.align, params.align_log_floor),
            epsilon=params.align_epsilon,
            epsilon_share=params.align_epsilon_share,
            decay=params.align_decay ** (epoch or 0),
            ramp=r,
        )
    return compose(batch, reported, weighted, diagnostics_of(parts, batch))


def squared_differences(batch: Rows, temperature: float) -> tuple[Term, Term]:
    """Return MSE(p_t, q_t) over the rows, and MSE(p − p_t, q − q_t) over the rows and all classes."""
    p, q = (F.softmax(logits / temperature, dim=1) for logits in (batch.student32, batch.teacher32))
    size, classes = p.shape
    index = batch.label.unsqueeze(1)
    difference = p - q
    at_target = difference.gather(1, index)
    relative = difference - at_target

    # ∂/∂p of each. At the target the second is minus the sum over the others, because every difference contains p_t.
    target_gradient = (2 / size * at_target).new_zeros(p.shape).scatter(1, index, 2 / size * at_target)
    slope = 2 / (size * classes) * relative
    divergence_gradient = slope.scatter_add(1, index, -slope.sum(1, keepdim=True))

    def averaged(square: Tensor, gradient: Tensor) -> Term:
        return Term(batch.weigh(square).mean(), batch.weigh(_through_softmax(gradient, p, temperature)))

    return averaged(at_target.square(), target_gradient), averaged(relative.square(), divergence_gradient)


def _through_softmax(gradient: Tensor, p: Tensor, temperature: float) -> Tensor:
    """Map ∂/∂p to ∂/∂z, where p = softmax(z/T)."""
    return p * (gradient - (gradient * p).sum(1, keepdim=True)) / temperature
