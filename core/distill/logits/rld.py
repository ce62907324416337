"""RLD (Sun et al. 2024): w_CE·CE + r(e)·[α·SCD + β·MCD].

SCD pulls the student's confidence in the true class towards the teacher's confidence in its top class, right or wrong.
MCD matches the distributions over the classes that the teacher ranks below the true one, so that a wrong teacher does
not teach an order that contradicts the label. For rows on which the teacher is right, RLD equals DKD.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods import RLDParams
from core.distill.logits.alignment import RowTerm, Weighted, with_alignment
from core.distill.logits.partition import Partition, top_groups, within_members
from core.distill.logits.standardisation import StandardisedLogits
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, label_term


def rld_loss(batch: Rows, params: RLDParams, epoch: int | None) -> LossTerms:
    """Return RLD with its cross-entropy and its ramp r(e) = min(e / ramp_epochs, 1), e counted from 1 as for DKD.

    Raises:
        ValueError: there are fewer than 3 classes.
    """
    if batch.student.shape[1] < 3:
        raise ValueError("RLD ranks classes below the true one, so it needs at least 3 classes, not 2")
    r = 1.0 if epoch is None or params.ramp_epochs == 0 else min((epoch + 1) / params.ramp_epochs, 1.0)
    standardised = StandardisedLogits(batch) if params.standardise else None
    inputs = standardised.batch if standardised else batch
    confidence = sample_confidence(inputs, params.confidence_temperature)
    correlation = masked_correlation(inputs, params.temperature)
    if standardised:
        confidence, correlation = standardised.pull_back(confidence), standardised.pull_back(correlation)
    weighted: Weighted = {
        "ce": (params.ce_weight, label_term(batch)),
        "scd": (r * params.alpha, confidence),
        "mcd": (r * params.beta, correlation),
    }
    pull_back = standardised.pull_back if standardised else None
    return with_alignment(batch, weighted, params, epoch, lambda: _pair(inputs, params), r, pull_back)


def sample_confidence(batch: Rows, temperature: float) -> Term:
    """Return SCD, sample confidence distillation: T²·KL([max q, 1 − max q] ‖ [p_t, 1 − p_t]), averaged over the rows.

    p is the softmax of the student's logits divided by T and q that of the teacher's; p_t is the student's probability
    of the true class, and max q the teacher's largest probability, of whichever class.
    """
    best = batch.teacher32.argmax(1)
    d_t, _ = _one_against_rest(batch.teacher32 / temperature, best)
    d_s, p_hat = _one_against_rest(batch.student32 / temperature, batch.label)
    q_best = d_t.sigmoid()
    kl = q_best * (F.softplus(-d_s) - F.softplus(-d_t)) + (-d_t).sigmoid() * (F.softplus(d_s) - F.softplus(d_t))
    delta = (d_s.sigmoid() - q_best).unsqueeze(1)
    gradient = (-delta * p_hat).scatter(1, batch.label.unsqueeze(1), delta)
    return Term(temperature**2 * batch.weigh(kl).mean(), batch.weigh(temperature / len(kl) * gradient))


def masked_correlation(batch: Rows, temperature: float) -> Term:
    """Return MCD, masked correlation distillation: T²·KL(q ‖ p), averaged over the rows.

    p and q are the softmax of the student's and of the teacher's logits divided by T, over the classes whose teacher
    logit is below that of the true class. A row without such a class adds nothing.
    """
    teacher = batch.teacher32
    below = teacher < teacher.gather(1, batch.label.unsqueeze(1))
    has_below = below.any(1, keepdim=True)
    # The softmax of a row without a class below would be empty: it is computed over all classes and then left out.
    hidden = ~below & has_below
    log_p, log_q = (
        F.log_softmax((logits / temperature).masked_fill(hidden, -torch.inf), dim=1).masked_fill(hidden, 0.0)
        for logits in (batch.student32, teacher)
    )
    counted = below & has_below
    p, q = (torch.where(counted, side.exp(), torch.zeros_like(side)) for side in (log_p, log_q))
    value = temperature**2 * batch.weigh((q * (log_q - log_p)).sum(1)).mean()
    return Term(value, batch.weigh(temperature / len(p) * (p - q)))


def _one_against_rest(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the binary logit of one class per row against all others (R,), and the softmax over the others (R, C)."""
    index = classes.unsqueeze(1)
    others = logits.scatter(1, index, -torch.inf)
    return logits.gather(1, index).squeeze(1) - others.logsumexp(1), F.softmax(others, dim=1)


def _pair(batch: Rows, params: RLDParams) -> tuple[RowTerm, RowTerm]:
    """Return SCD and MCD of each row, for the alignment term.

    SCD is the divergence between the target and the rest, with the teacher's largest probability in place of that of
    the target; MCD is that within the classes below.
    """
    best = Partition(batch, params.confidence_temperature, top_groups(batch.teacher32, (1,)))
    index = batch.label.unsqueeze(1)
    confidence = Partition(batch, params.confidence_temperature, (index,)).between(best.log_q)
    below = batch.teacher32 < batch.teacher32.gather(1, index)
    return confidence, within_members(batch, params.temperature, below)
