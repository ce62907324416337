"""DKD-Align: w_CE·CE + r(e)·[α·TCKD + β·NCKD − ε·d(e)·A], where A is the distance of two gradients.

The gradients are those of TCKD and NCKD with respect to the student's logits. The distance is subtracted, so it is
*maximised*: the term pushes the two gradients apart, and with them the student away from the teacher.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from core.catalog.methods import DKDAlignParams
from core.distill.logits.decoupled_gradients import with_diagnostics
from core.distill.logits.dkd import decouple, ramp, weighted_terms
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, compose


def dkd_align_loss(batch: Rows, params: DKDAlignParams, epoch: int | None) -> LossTerms:
    """Return DKD-Align with its cross-entropy, ramp and decay."""
    parts, pull_back = decouple(batch, params)
    weighted = weighted_terms(batch, parts, params, epoch, pull_back)
    term = pull_back(parts.alignment(params.reduction, params.log_floor))
    decay = params.decay ** (epoch or 0)
    weight: float | Tensor
    if params.epsilon_share is not None:
        # The product ε·r(e) that gives the requested share; the norms of the other terms contain the ramp already.
        share = decay * share_weight(params.epsilon_share, weighted.values(), term)
        r = ramp(params, epoch)
        if r == 0:  # an epoch of cross-entropy alone, in which no ε gives the term a share
            share = torch.zeros_like(share)
        epsilon, weight = share / (r or 1.0), share
    else:
        number = decay * (params.epsilon or 0.0)
        epsilon, weight = torch.full_like(term.value, number), ramp(params, epoch) * number
    weighted["align"] = (-weight, term)
    return with_diagnostics(compose(batch, {"epsilon": epsilon}, weighted), parts, batch)


def share_weight(share: float, others: Iterable[tuple[float | Tensor, Term]], term: Term) -> Tensor:
    """Return the weight that gives a term a share of the summed gradient norms; 0 if its gradient is zero.

    share = w‖g_A‖ / (Σ‖g‖ + w‖g_A‖), Frobenius over (R, C), so w = share/(1−share)·Σ‖g‖/‖g_A‖.

    Args:
        share: between 0 and 1.
        others: the other terms with their weights.
        term: the term that is to be weighted.
    """
    norm = _norm(1.0, term)
    total = torch.stack([_norm(weight, other) for weight, other in others]).sum()
    weight = share / (1 - share) * total / norm
    return torch.where(norm > 0, weight, torch.zeros_like(weight))


def _norm(weight: float | Tensor, term: Term) -> Tensor:
    norm: Tensor = (term.direction.norm() * (weight * term.scale)).abs_()
    return norm
