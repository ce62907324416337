"""RLD (Sun et al. 2024): w_CE·CE + r(e)·[α·SCD + β·MCD].

SCD gives the student's true class the confidence that the teacher has in its own best class, right or wrong. MCD
matches the distributions over the classes that the teacher ranks below the true one, so that a wrong teacher teaches no
order that contradicts the label. Where the teacher is right this is DKD.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods import RLDParams
from core.methods.standardisation import StandardisedLogits
from core.methods.terms import LogitBatch, LossTerms, Term, compose, cross_entropy


def rld_loss(batch: LogitBatch, params: RLDParams, epoch: int | None) -> LossTerms:
    """RLD with its cross-entropy and ramp (e counted from 1, as for dkd)."""
    if batch.student.shape[1] < 3:
        raise ValueError("RLD ranks classes below the true one and needs at least 3 classes, not 2")
    r = 1.0 if epoch is None or params.ramp_epochs == 0 else min((epoch + 1) / params.ramp_epochs, 1.0)
    standardised = StandardisedLogits(batch) if params.standardise else None
    seen = standardised.batch if standardised else batch
    confidence = sample_confidence(seen, params.confidence_temperature)
    correlation = masked_correlation(seen, params.temperature)
    if standardised:
        confidence, correlation = standardised.pull_back(confidence), standardised.pull_back(correlation)
    weighted = {
        "ce": (params.ce_weight, cross_entropy(batch.student32, batch.target)),
        "scd": (r * params.alpha, confidence),
        "mcd": (r * params.beta, correlation),
    }
    return compose(batch, {}, weighted)


def sample_confidence(batch: LogitBatch, temperature: float) -> Term:
    """T²·KL([max q, 1 − max q] ‖ [p_t, 1 − p_t]), averaged over the batch."""
    best = batch.teacher32.argmax(1)
    d_t, _ = _against_rest(batch.teacher32 / temperature, best)
    d_s, p_hat = _against_rest(batch.student32 / temperature, batch.target)
    q_best = d_t.sigmoid()
    kl = q_best * (F.softplus(-d_s) - F.softplus(-d_t)) + (-d_t).sigmoid() * (F.softplus(d_s) - F.softplus(d_t))
    delta = (d_s.sigmoid() - q_best).unsqueeze(1)
    gradient = (-delta * p_hat).scatter(1, batch.target.unsqueeze(1), delta)
    return Term(temperature**2 * kl.mean(), temperature / len(kl) * gradient)


def masked_correlation(batch: LogitBatch, temperature: float) -> Term:
    """T²·KL over the classes whose teacher logit is below the true class's; a sample without any adds nothing."""
    teacher = batch.teacher32
    below = teacher < teacher.gather(1, batch.target.unsqueeze(1))
    some = below.any(1, keepdim=True)
    # A row with nothing below would be a softmax over nothing: it is computed over everything and then left out.
    hidden = ~below & some
    log_p, log_q = (
        F.log_softmax((logits / temperature).masked_fill(hidden, -torch.inf), dim=1).masked_fill(hidden, 0.0)
        for logits in (batch.student32, teacher)
    )
    counted = below & some
    p, q = (torch.where(counted, side.exp(), torch.zeros_like(side)) for side in (log_p, log_q))
    value = temperature**2 * (q * (log_q - log_p)).sum(1).mean()
    return Term(value, temperature / len(p) * (p - q))


def _against_rest(logits: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """The binary logit of one class against all others (B,), and the softmax over those others (B, C)."""
    index = which.unsqueeze(1)
    others = logits.scatter(1, index, -torch.inf)
    return logits.gather(1, index).squeeze(1) - others.logsumexp(1), F.softmax(others, dim=1)
