"""PCD, progressive class-level distillation (Li et al. 2025): w_CE·CE + r(e)·α·(fine-to-coarse + coarse-to-fine).

The classes of a row are ranked by the distance of the two networks' logits, the largest first. A division into g groups
gives ⌊C/g⌋ classes to each group and the rest to the last one. Within a group, q and p are the softmax of the teacher's
and of the student's logits divided by T, and the group adds λ·T²·KL(q ‖ p) with λ = 1 − cos(q, p). Fine-to-coarse adds
the groups of S, S − 1 … 1 divisions, coarse-to-fine those of 1, 2 … S. All of them read one pair of logits in one step,
so both directions are the same sum, which is computed once and counted twice.

The gradient passes through λ, as in the public code. The ranking is a constant.

The public code (lijiayan401/PCD) ranks nothing, and each of its groups but the first is empty: the first has the size C
in every stage. What it computes is 2·S·α·mean(T²·KL(q ‖ p))·mean(1 − cos(q, log p)) over all classes, with the
logarithm of p and a product of two means. This is ``variant: public_code``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.pcd import PCDParams
from core.distill.logits.kd import softened_divergence
from core.distill.logits.standardisation import StandardisedLogits
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, compose, label_term


def pcd_loss(batch: Rows, params: PCDParams, epoch: int | None) -> LossTerms:
    """Return PCD with its cross-entropy and its ramp r(e) = min(e / ramp_epochs, 1), e counted from 1 as for DKD.

    Raises:
        ValueError: There are more stages than classes.
    """
    r = 1.0 if epoch is None or params.ramp_epochs == 0 else min((epoch + 1) / params.ramp_epochs, 1.0)
    standardised = StandardisedLogits(batch) if params.standardise else None
    inputs = standardised.batch if standardised else batch
    compute = _of_all_classes if params.variant == "public_code" else staged_divergence
    term = compute(inputs, params.temperature, params.stages)
    if standardised:
        term = standardised.pull_back(term)
    return compose(batch, {}, {"ce": (params.ce_weight, label_term(batch)), "pcd": (r * params.alpha, term)})


def staged_divergence(batch: Rows, temperature: float, stages: int) -> Term:
    """Return the sum over both directions, all stages and all groups of λ·T²·KL(q ‖ p), averaged over the rows.

    Raises:
        ValueError: There are more stages than classes.
    """
    classes = batch.student32.shape[1]
    if stages > classes:
        raise ValueError(f"{classes} classes cannot be divided into {stages} groups; PCD needs fewer stages")
    distance = (batch.teacher32 - batch.student32).abs()
    order = distance.argsort(dim=1, descending=True, stable=True)
    student, teacher = (logits.gather(1, order) / temperature for logits in (batch.student32, batch.teacher32))
    value, ranked = torch.zeros_like(student[:, 0]), torch.zeros_like(student)
    for count in range(1, stages + 1):
        size = classes // count
        for first in range(0, size * count, size):
            members = slice(first, first + size if first < size * (count - 1) else classes)
            added, direction = _group(student[:, members], teacher[:, members], temperature)
            value += added
            ranked[:, members] += direction
    scale = 2 / len(student)
    direction = torch.zeros_like(ranked).scatter_(1, order, ranked)
    return Term(scale * batch.weigh(value).sum(), batch.weigh(direction), scale)


def _group(z: Tensor, v: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return λ·T²·KL(q ‖ p) of each row (R,), and its gradient with respect to the student's logits (R, G).

    Args:
        z: (R, G), the student's logits of a group, divided by the temperature.
        v: (R, G), the teacher's.
        temperature: T.
    """
    log_p, log_q = F.log_softmax(z, 1), F.log_softmax(v, 1)
    p, q = log_p.exp(), log_q.exp()
    divergence = temperature**2 * (q * (log_q - log_p)).sum(1, keepdim=True)
    inverse_p, inverse_q = p.norm(dim=1, keepdim=True).reciprocal(), q.norm(dim=1, keepdim=True).reciprocal()
    cosine = (p * q).sum(1, keepdim=True) * inverse_p * inverse_q
    factor = 1 - cosine
    # ∂cos/∂p = h = q/(‖p‖‖q‖) − cos·p/‖p‖². As p·h = 0, the softmax maps it to p∘h.
    along = p * (q * inverse_q - cosine * inverse_p * p) * inverse_p
    gradient = factor * temperature * (p - q) - divergence / temperature * along
    return (factor * divergence).squeeze(1), gradient


def _of_all_classes(batch: Rows, temperature: float, stages: int) -> Term:
    """Return the loss of the public code: 2·S·mean(T²·KL(q ‖ p))·mean(1 − cos(q, log p))."""
    log_p, q = F.log_softmax(batch.student32 / temperature, 1), F.softmax(batch.teacher32 / temperature, 1)
    inverse_l, inverse_q = log_p.norm(dim=1, keepdim=True).reciprocal(), q.norm(dim=1, keepdim=True).reciprocal()
    cosine = (log_p * q).sum(1, keepdim=True) * inverse_l * inverse_q
    toward = (q * inverse_q - cosine * inverse_l * log_p) * inverse_l  # ∂cos/∂log p
    along = (toward - log_p.exp() * toward.sum(1, keepdim=True)) / temperature
    factor = batch.weigh(1 - cosine).mean()
    divergence = softened_divergence(batch, temperature)
    direction = factor * divergence.gradient - divergence.value / len(q) * batch.weigh(along)
    return Term(2 * stages * factor * divergence.value, direction, 2 * stages)
