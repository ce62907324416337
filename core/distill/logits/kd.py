"""Knowledge distillation (Hinton et al. 2015): ce_weight·CE + kd_weight·T²·KL(q ‖ p)."""

from __future__ import annotations

import torch.nn.functional as F

from core.catalog.methods import KDParams
from core.distill.logits.standardisation import StandardisedLogits
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, compose, label_term


def kd_loss(batch: Rows, params: KDParams, epoch: int | None) -> LossTerms:
    """Return KD with its cross-entropy. It has no schedule."""
    if params.standardise:
        standardised = StandardisedLogits(batch)
        divergence = standardised.pull_back(softened_divergence(standardised.batch, params.temperature))
    else:
        divergence = softened_divergence(batch, params.temperature)
    weighted = {
        "ce": (params.ce_weight, label_term(batch)),
        "kd": (params.kd_weight, divergence),
    }
    return compose(batch, {}, weighted)


def softened_divergence(batch: Rows, temperature: float) -> Term:
    """Return T²·KL(q ‖ p), averaged over the rows: gradient T·(p − q)/R."""
    log_p = F.log_softmax(batch.student32 / temperature, dim=1)
    log_q = F.log_softmax(batch.teacher32 / temperature, dim=1)
    divergence = F.kl_div(log_p, log_q, reduction="none", log_target=True)
    size = log_p.shape[0]
    value = temperature**2 * (batch.weigh(divergence).sum() / size)
    return Term(value, batch.weigh(temperature / size * (log_p.exp() - log_q.exp())))
