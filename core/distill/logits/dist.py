"""DIST (Huang et al. 2022): w_CE·CE + β·τ²·(1 − Pearson over classes) + γ·τ²·(1 − Pearson over the batch)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods import DISTParams
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, autograd_term, compose, label_term

_NORM_EPSILON = 1e-8
"""Lower bound of a norm, so that a row without variance has the correlation 0."""


def dist_loss(batch: Rows, params: DISTParams, epoch: int | None) -> LossTerms:
    """Return DIST with its cross-entropy. It has no schedule."""
    weighted = {
        "ce": (params.ce_weight, label_term(batch)),
        "inter": (params.beta, _relation(batch, params.temperature, over=1)),
        "intra": (params.gamma, _relation(batch, params.temperature, over=0)),
    }
    return compose(batch, {}, weighted)


def _relation(batch: Rows, temperature: float, over: int) -> Term:
    """Return τ²·(1 − mean Pearson correlation) over the classes of each row (1) or the rows of each class (0).

    With weights, the mean over rows is weighted in the first case; in the second, the means and covariances of the
    correlation are, and the mean over classes is not.
    """
    q = F.softmax(batch.teacher32 / temperature, dim=1)

    def value(student: Tensor) -> Tensor:
        p = F.softmax(student / temperature, dim=1)
        centred_p, centred_q = (_centred(batch, part, over) for part in (p, q))
        correlation = F.cosine_similarity(centred_p, centred_q, dim=over, eps=_NORM_EPSILON)
        if over == 1:
            correlation = batch.weigh(correlation)
        return batch.unless_weightless(temperature**2 * (1 - correlation.mean()))

    return autograd_term(value, batch.student32)


def _centred(batch: Rows, values: Tensor, over: int) -> Tensor:
    """Return values (R, C) minus their mean over a dimension.

    Over rows with weights, the mean is weighted and each row is multiplied by √weight: the cosine of two such columns
    is then the weighted Pearson correlation.
    """
    if batch.share is None or batch.relative_weight is None or over == 1:
        return values - values.mean(over, keepdim=True)
    # The mean by shares, not by relative weights: of a single row it is the row itself, and the variance exactly 0.
    mean = (batch.share.unsqueeze(1) * values).sum(0, keepdim=True)
    return (values - mean) * batch.relative_weight.sqrt().unsqueeze(1)
