"""ABKD (Wang et al. 2025): w_CE·CE + λ·D(q ‖ p), with the α-β divergence of Cichocki et al. (2011).

q and p are the softened distributions of teacher and student, c = α + β, and

    D = −1/(αβ) · Σ_k [ q_k^α·p_k^β − (α/c)·q_k^c − (β/c)·p_k^c ] .

Where an exponent is 0, D is its limit:

    β = 0            1/α² · Σ [ q^α·log(q^α/p^α) − q^α + p^α ]          α = 1: KL(q ‖ p)
    α = 0            1/β² · Σ [ p^β·log(p^β/q^β) − p^β + q^β ]          β = 1: KL(p ‖ q)
    α + β = 0        1/α² · Σ [ log(p^α/q^α) + q^α/p^α − 1 ]
    α = β = 0        1/2 · Σ (log q − log p)²

The derivative by log p_k is −p_k^c·(e^{αr} − 1)/α with r = log q_k − log p_k, or −p_k^c·r for α = 0: one formula for
every β. The authors' code divides the first three limits by |α|, |β| and |α| and not by their squares
(``variant: public_code``). It has no factor T² (with standardised logits it has).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.abkd import ABKDParams, is_zero
from core.distill.logits.standardisation import StandardisedLogits
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, compose, label_term

_NEAR = 1.0
"""|log q − log p| up to which differences are computed relative to p."""


def abkd_loss(batch: Rows, params: ABKDParams, epoch: int | None) -> LossTerms:
    """Return ABKD with its cross-entropy. It has no schedule."""
    if params.standardise:
        standardised = StandardisedLogits(batch)
        divergence = standardised.pull_back(alpha_beta_divergence(standardised.batch, params))
    else:
        divergence = alpha_beta_divergence(batch, params)
    weighted = {
        "ce": (params.ce_weight, label_term(batch)),
        "alpha_beta": (params.kd_weight, divergence),
    }
    return compose(batch, {}, weighted)


def alpha_beta_divergence(batch: Rows, params: ABKDParams) -> Term:
    """Return D, averaged over the rows."""
    log_p, log_q = (F.log_softmax(side / params.temperature, dim=1) for side in (batch.student32, batch.teacher32))
    alpha, beta = (0.0 if is_zero(exponent) else exponent for exponent in (params.alpha, params.beta))
    total = 0.0 if is_zero(alpha + beta) else alpha + beta
    factor = _factor_of_public_code(alpha, beta, total) if params.variant == "public_code" else 1.0
    values = factor * _divergence(log_p, log_q, alpha, beta, total).sum(1)
    slope = -factor * _slope(log_p, log_q, alpha, beta, total)
    gradient = (slope - log_p.exp() * slope.sum(1, keepdim=True)) / params.temperature
    return Term(batch.weigh(values).mean(), batch.weigh(gradient), 1 / len(values))


def _slope(log_p: Tensor, log_q: Tensor, alpha: float, beta: float, total: float) -> Tensor:
    """Return minus the derivative of D by log p (R, C): (q^α·p^β − p^c)/α."""
    ratio, base = log_q - log_p, (total * log_p).exp()
    if not alpha:
        return ratio * base
    # expm1 is exact if the ratio is small, where the difference of two nearly equal powers is not.
    near, far = base * torch.expm1(alpha * ratio), (alpha * log_q + beta * log_p).exp() - base
    return torch.where(ratio.abs() < _NEAR, near, far) / alpha


def _divergence(log_p: Tensor, log_q: Tensor, alpha: float, beta: float, total: float) -> Tensor:
    """Return the summands of D (R, C).

    Where student and teacher are near, the powers of p are factors of differences that keep their digits; elsewhere
    such a difference may overflow.
    """
    ratio = log_q - log_p
    if not alpha and not beta:
        return ratio.square() / 2
    if not total:
        return (torch.expm1(alpha * ratio) - alpha * ratio) / alpha**2
    if not beta:
        base, other = (alpha * log_q).exp(), (alpha * log_p).exp()
        near, far = base * (alpha * ratio + torch.expm1(-alpha * ratio)), base * (alpha * ratio - 1) + other
        scale = alpha**2
    elif not alpha:
        base, other = (beta * log_p).exp(), (beta * log_q).exp()
        near, far = base * (torch.expm1(beta * ratio) - beta * ratio), other - base * (beta * ratio + 1)
        scale = beta**2
    else:
        base, other = (total * log_p).exp(), (total * log_q).exp()
        near = base * (alpha / total * torch.expm1(total * ratio) - torch.expm1(alpha * ratio))
        far = alpha / total * other + beta / total * base - (alpha * log_q + beta * log_p).exp()
        scale = alpha * beta
    return torch.where(ratio.abs() < _NEAR, near, far) / scale


def _factor_of_public_code(alpha: float, beta: float, total: float) -> float:
    """Return by what the authors' code multiplies the limit: it leaves out one division by the exponent."""
    if bool(alpha) != bool(beta):
        return alpha or beta
    return alpha if alpha and not total else 1.0
