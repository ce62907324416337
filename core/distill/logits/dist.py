"""DIST (Huang et al. 2022): w_CE·CE + β·τ²·(1 − Pearson over classes) + γ·τ²·(1 − Pearson over the batch)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods import DISTParams
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, autograd_term, compose, cross_entropy

_NORM_EPSILON = 1e-8
"""Lower bound of a norm, so that a row without variance has the correlation 0."""


def dist_loss(batch: Rows, params: DISTParams, epoch: int | None) -> LossTerms:
    """Return DIST with its cross-entropy. It has no schedule."""
    weighted = {
        "ce": (params.ce_weight, cross_entropy(batch.student32, batch.target)),
        "inter": (params.beta, _relation(batch, params.temperature, over=1)),
        "intra": (params.gamma, _relation(batch, params.temperature, over=0)),
    }
    return compose(batch, {}, weighted)


def _relation(batch: Rows, temperature: float, over: int) -> Term:
    """Return τ²·(1 − mean Pearson correlation) over the classes of each sample (1) or the samples of each class (0)."""
    q = F.softmax(batch.teacher32 / temperature, dim=1)

    def value(student: Tensor) -> Tensor:
        p = F.softmax(student / temperature, dim=1)
        centred_p, centred_q = p - p.mean(over, keepdim=True), q - q.mean(over, keepdim=True)
        correlation = F.cosine_similarity(centred_p, centred_q, dim=over, eps=_NORM_EPSILON)
        return temperature**2 * (1 - correlation.mean())

    return autograd_term(value, batch.student32)
