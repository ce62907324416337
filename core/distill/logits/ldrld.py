"""LDRLD (Xu et al. 2025): w_CE·CE + α·(pairs + top) + β·rest.

The d classes to which the student gives the largest logits are taken out one after the other, and each is compared with
each taken out before: T²·KL between the teacher's and the student's distribution over the two classes alone, with the
weight δ·exp(−λ·(i + j)) / (ε + |i − j|), where i and j are the ranks, from 1. ``top`` is T²·KL within the d classes,
and ``rest`` is T²·KL within the others. The student's ranking is a constant of the step.

The authors' code divides the local part, ``pairs`` + ``top``, by the number of its distributions, d·(d − 1)/2 + 1, and
their α belongs to that mean; so it is done here. The paper prints a sum, whose α is smaller by that factor, which is 22
for d = 7. Their trainings also raise the learning rate over the first 20 epochs, which is no part of the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.ldrld import LDRLDParams
from core.distill.logits.alignment import RowTerm, Weighted, with_alignment
from core.distill.logits.partition import Partition, top_groups
from core.distill.rows import Rows
from core.distill.terms import LossTerms, label_term


def ldrld_loss(batch: Rows, params: LDRLDParams, epoch: int | None) -> LossTerms:
    """Return LDRLD with its cross-entropy. It has no schedule.

    Raises:
        ValueError: The rest of the classes is empty.
    """
    depth, classes = params.depth, batch.student.shape[1]
    if classes <= depth:
        raise ValueError(f"the {classes} classes leave no rest beside the student's top {depth}: at least 3 classes")
    parts = Partition(batch, params.temperature, top_groups(batch.student32, (depth,)))
    share = 1 / (depth * (depth - 1) // 2 + 1)
    pairs, top, rest = _pairs(batch, params).scaled(share), parts.within(0).scaled(share), parts.within(1)
    weighted: Weighted = {
        "ce": (params.ce_weight, label_term(batch)),
        "pairs": (params.alpha, pairs.mean(batch)),
        "top": (params.alpha, top.mean(batch)),
        "rest": (params.beta, rest.mean(batch)),
    }
    return with_alignment(batch, weighted, params, epoch, lambda: (pairs + top, rest))


def _pairs(batch: Rows, params: LDRLDParams) -> RowTerm:
    """Return T² times the weighted sum of the divergences of all pairs of the student's top classes.

    With p_ij = σ((z_i − z_j)/T), its gradient at z_i is T·Σ_j Ω_ij·(p_ij − q_ij).
    """
    temperature, shape = params.temperature, batch.student32
    ranked = shape.topk(params.depth, dim=1).indices
    log_p, log_q = (
        F.logsigmoid(chosen.unsqueeze(2) - chosen.unsqueeze(1))
        for chosen in (side.gather(1, ranked) / temperature for side in (batch.student32, batch.teacher32))
    )
    p, q, weight = log_p.exp(), log_q.exp(), rank_weights(params, shape)
    # Each pair stands here twice, (i, j) and (j, i): its two classes. p_ji is 1 − p_ij with all its digits.
    values = temperature**2 * (weight * q * (log_q - log_p)).sum((1, 2))
    gradients = temperature * (weight * (p * q.transpose(1, 2) - q * p.transpose(1, 2))).sum(2)
    bend = weight * p * p.transpose(1, 2)

    def curvature(directions: Tensor) -> Tensor:
        chosen = directions.gather(1, ranked)
        return spread((bend * (chosen.unsqueeze(2) - chosen.unsqueeze(1))).sum(2))

    def spread(values: Tensor) -> Tensor:
        return torch.zeros_like(shape).scatter(1, ranked, values)

    return RowTerm(values, spread(gradients), curvature)


def rank_weights(params: LDRLDParams, like: Tensor) -> Tensor:
    """Return the weights Ω (d, d) of pairs of ranks, 0 on the diagonal, in the dtype of another tensor."""
    rank = torch.arange(1, params.depth + 1, dtype=like.dtype, device=like.device)
    difference, total = (rank.unsqueeze(1) - rank).abs(), rank.unsqueeze(1) + rank
    weights = params.rank_scale * (-params.rank_decay * total).exp() / (params.rank_offset + difference)
    return weights.masked_fill(difference == 0, 0.0)
