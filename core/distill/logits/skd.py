"""SKD, streamlined knowledge distillation (Jeong et al. 2026): w_CE·CE + w_I·KL(q ‖ p) + w_D·direction.

KL is that of the distributions softened by T, without a factor T². For the direction, ẑ is each row of logits divided
by its norm, G = ẑẑᵀ of each network, D = G_student − G_teacher and Σ the covariance of the rows of D:

    direction = mean_i √( D_i·(Σ + λI)⁻¹·D_iᵀ ) = mean_i ‖L⁻¹D_i‖ ,   LLᵀ = Σ + λI .

The gradient passes through Σ, as in the authors' code and in torchdistill.

If the rows have weights, ω_i = w_i/Σw, three things change. The mean over i and the mean in Σ are weighted. Σ is
divided by 1 − Σω² in place of (B − 1)/B. Column j of D is multiplied by √(ω_j/Σω²), so that a row with a small weight
also has a small part in the comparisons of other rows, and a row with weight 0 none.

The authors' code (HyunJunSik/StreamLined) multiplies KL by T², divides G by the number of classes, and multiplies both
scalars by masks whose means are left: the share of samples, and of classes, with the teacher's confidence at or below
the median. That share is ⌈n/2⌉/n of n different confidences (``variant: public_code``).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.skd import SKDParams
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, autograd_term, compose, label_term

_LEAST = 1e-12
"""Lower bound of a divisor that is 0 for a batch of one row."""


def skd_loss(batch: Rows, params: SKDParams, epoch: int | None) -> LossTerms:
    """Return SKD. It has no schedule."""
    instance, direction = _instance(batch, params.temperature), _direction(batch, params)
    if params.variant == "public_code":
        classes = batch.student.shape[1]
        instance = _times(instance, params.temperature**2 * _share_of_samples(batch))
        direction = _times(direction, math.ceil(classes / 2) / classes)
    weighted = {
        "ce": (params.ce_weight, label_term(batch)),
        "instance": (params.instance_weight, instance),
        "direction": (params.direction_weight, direction),
    }
    return compose(batch, {}, weighted)


def _instance(batch: Rows, temperature: float) -> Term:
    """Return KL(q ‖ p), averaged over the rows: gradient (p − q)/T."""
    log_p, log_q = (F.log_softmax(side / temperature, dim=1) for side in (batch.student32, batch.teacher32))
    divergence = (log_q.exp() * (log_q - log_p)).sum(1)
    return Term(batch.weigh(divergence).mean(), batch.weigh(log_p.exp() - log_q.exp()), 1 / (temperature * len(log_p)))


def _direction(batch: Rows, params: SKDParams) -> Term:
    """Return the mean Mahalanobis length of the rows of D."""
    size, classes = batch.student32.shape
    share = batch.share
    if share is None:
        share = batch.student32.new_full((size,), 1 / size)
    squares = share.square().sum()
    column = (share / squares.clamp_min(_LEAST)).sqrt()
    teacher = _directions(batch.teacher32)
    scale = 1 / classes if params.variant == "public_code" else 1.0

    def value(student: Tensor) -> Tensor:
        units = _directions(student)
        difference = scale * (units @ units.T - teacher @ teacher.T) * column
        # A row of weight 0 has no direction to differ in.
        difference = difference.masked_fill((share == 0).unsqueeze(1), 0.0)
        centred = difference - share @ difference
        covariance = (share.unsqueeze(1) * centred).T @ centred / (1 - squares).clamp_min(_LEAST)
        # Without a check, for which the host would wait for the device: λ > 0 makes the matrix positive definite.
        factor, _ = torch.linalg.cholesky_ex(covariance + params.tikhonov * torch.eye(size).to(covariance))
        whitened = torch.linalg.solve_triangular(factor, difference.T, upper=False)
        return torch.dot(share, whitened.norm(dim=0))

    return autograd_term(value, batch.student32)


def _directions(logits: Tensor) -> Tensor:
    """Return each row divided by its norm; a row of zeros as it is, without a gradient."""
    norm = logits.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, logits / norm.where(norm > 0, 1.0), 0.0)


def _share_of_samples(batch: Rows) -> float | Tensor:
    """Return the share of the rows at or below the median of as many different numbers; 0 if there are none."""
    if batch.weight32 is None:
        return math.ceil(len(batch.target) / 2) / len(batch.target)
    count = (batch.weight32 > 0).to(batch.weight32.dtype).sum()
    return (count / 2).ceil() / count.clamp_min(1)


def _times(term: Term, factor: float | Tensor) -> Term:
    return Term(term.value * factor, term.direction, term.scale * factor)
