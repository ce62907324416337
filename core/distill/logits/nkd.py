"""NKD (Yang et al. 2023): w_CE·CE − q_t·log p_t + γ·T²·CE(q̂, p̂).

The second term has temperature 1. The third has temperature T and covers the non-target classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods import NKDParams
from core.distill.logits.alignment import RowTerm, Weighted, with_alignment
from core.distill.logits.decoupled import Decoupled
from core.distill.logits.partition import Partition
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, label_term


def nkd_loss(batch: Rows, params: NKDParams, epoch: int | None) -> LossTerms:
    """Return NKD with its cross-entropy. It has no schedule."""
    weighted: Weighted = {
        "ce": (params.ce_weight, label_term(batch)),
        "target": (1.0, soft_target(batch)),
        "non_target": (params.gamma, non_target(batch, params.temperature)),
    }
    return with_alignment(batch, weighted, params, epoch, lambda: pair_of(batch, params.temperature))


def soft_target(batch: Rows) -> Term:
    """Return −q_t·log p_t, averaged over the rows: gradient q_t·(p − onehot)/R."""
    log_p = F.log_softmax(batch.student32, dim=1)
    index = batch.label.unsqueeze(1)
    q_t = F.softmax(batch.teacher32, dim=1).gather(1, index)
    gradient = (q_t * log_p.exp()).scatter_add(1, index, -q_t) / len(log_p)
    return Term(-batch.weigh(q_t * log_p.gather(1, index)).mean(), batch.weigh(gradient))


def non_target(batch: Rows, temperature: float) -> Term:
    """Return T²·CE(q̂, p̂): NCKD plus the teacher's entropy, a constant, so the gradient is that of NCKD."""
    parts = Decoupled(batch, temperature)
    term = parts.nckd()
    return Term(term.value + temperature**2 * parts.teacher_entropy(), term.direction, term.scale)


def pair_of(batch: Rows, temperature: float) -> tuple[RowTerm, RowTerm]:
    """Return the two terms of each row, for the alignment term.

    The Hessian of the target term is that of the cross-entropy times q_t, the other that of NCKD.
    """
    index = batch.label.unsqueeze(1)
    return soft_target_of(batch), Partition(batch, temperature, (index,)).within(1)


def soft_target_of(batch: Rows) -> RowTerm:
    """Return −q_t·log p_t of each row."""
    log_p, index = F.log_softmax(batch.student32, dim=1), batch.label.unsqueeze(1)
    p, q_t = log_p.exp(), F.softmax(batch.teacher32, dim=1).gather(1, index)

    def curvature(directions: Tensor) -> Tensor:
        inside = p * directions
        return q_t * (inside - p * inside.sum(1, keepdim=True))

    return RowTerm(-(q_t * log_p.gather(1, index)).squeeze(1), (q_t * p).scatter_add(1, index, -q_t), curvature)
