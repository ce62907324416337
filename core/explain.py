"""The loss terms in numpy, for pictures: free of torch, tested equal to the torch ones.

``explain`` gives the terms of one batch, as ``core.methods`` has them. ``explain_uniform_batches`` gives the whole of
DKD-Align for many batches at once, each of equal samples: maps over two probabilities are made from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.catalog.methods import DKDAlignParams as DKDAlignParams

Array = NDArray[np.float64]

_LOG_LEAST = 1e-30
"""As in ``core.methods``: below this the distance counts as zero."""


@dataclass(frozen=True)
class Explanation:
    """The terms of DKD and DKD-Align for one batch.

    Attributes:
        tckd, nckd: averaged over the batch, T² included.
        align_sample, align_batch, align_log: A in its three reductions.
        tckd_gradient, nckd_gradient, align_gradient: (B, C), of ``tckd``, ``nckd`` and ``align_sample`` with respect to
            the student's logits.
    """

    tckd: float
    nckd: float
    align_sample: float
    align_batch: float
    align_log: float
    tckd_gradient: Array
    nckd_gradient: Array
    align_gradient: Array


@dataclass(frozen=True)
class UniformBatches:
    """DKD-Align for N batches, each of samples that are all alike.

    Attributes:
        values: (N,) each, unweighted, T² included: ``ce``, ``tckd``, ``nckd``, ``align``.
        weights: (N,) each, of the same names; that of ``align`` is −ε.
        gradients: (N, C) each, weighted, with respect to the logits of *one* sample of the batch.
        total: (N,), the loss.
        distance: (N,), s = Δ² + Σu², of which A in ``sample`` is T²/C times.
        share: (N,), of ``align`` in the summed norms of the four gradients, 0 to 1.
        cosine: (N,), of the alignment term's weighted gradient with that of TCKD and NCKD; NaN where one is zero.
        similarity: (N,), cosine of the gradients of TCKD and NCKD; NaN where one is zero.
    """

    values: dict[str, Array]
    weights: dict[str, Array]
    gradients: dict[str, Array]
    total: Array
    distance: Array
    share: Array
    cosine: Array
    similarity: Array


@dataclass(frozen=True)
class _Samples:
    """Per sample: values (B,) and gradients (B, C), T² not included in the values and T in no gradient."""

    tckd: Array
    nckd: Array
    distance: Array
    tckd_gradient: Array
    nckd_gradient: Array
    distance_gradient: Array


def explain(student_logits: ArrayLike, teacher_logits: ArrayLike, target: ArrayLike, temperature: float) -> Explanation:
    """Every term and gradient for logits (B, C) and targets (B,). Raises ValueError with fewer than three classes."""
    one = _samples(student_logits, teacher_logits, target, temperature)
    batch, classes = one.tckd_gradient.shape
    sample = temperature**2 * one.distance.mean() / classes
    return Explanation(
        tckd=float(temperature**2 * one.tckd.mean()),
        nckd=float(temperature**2 * one.nckd.mean()),
        align_sample=float(sample),
        align_batch=float(sample / batch**2),
        align_log=float(np.log(max(sample, _LOG_LEAST))),
        tckd_gradient=temperature / batch * one.tckd_gradient,
        nckd_gradient=temperature / batch * one.nckd_gradient,
        align_gradient=temperature / (batch * classes) * one.distance_gradient,
    )


def explain_uniform_batches(
    student_logits: ArrayLike, teacher_logits: ArrayLike, target: ArrayLike, params: DKDAlignParams, batch: int = 1
) -> UniformBatches:
    """DKD-Align, its ramp over, for logits (N, C) and targets (N,), each row a batch of ``batch`` such samples.

    Raises ValueError with fewer than three classes, a batch below one, or standardised logits, which it does not know.
    """
    if batch < 1:
        raise ValueError(f"a batch has at least one sample, not {batch}")
    if params.standardise:
        raise ValueError("standardised logits are not explained")
    one = _samples(student_logits, teacher_logits, target, params.temperature)
    t, classes = params.temperature, one.tckd_gradient.shape[1]
    ce, ce_gradient = _cross_entropy(np.asarray(student_logits, dtype=np.float64), np.asarray(target, dtype=np.int64))
    sample, align_gradient = t**2 / classes * one.distance, t / classes * one.distance_gradient
    values = {"ce": ce, "tckd": t**2 * one.tckd, "nckd": t**2 * one.nckd, "align": sample}
    if params.reduction == "batch":
        values["align"], align_gradient = sample / batch**2, align_gradient / batch**2
    elif params.reduction == "log":
        floored = np.maximum(sample + params.log_floor * batch**2, _LOG_LEAST)
        values["align"], align_gradient = np.log(floored), align_gradient / floored[:, None]
    unweighted = {"ce": ce_gradient, "tckd": t * one.tckd_gradient, "nckd": t * one.nckd_gradient}
    factors = {"ce": params.ce_weight, "tckd": params.alpha, "nckd": params.beta}
    gradients = {name: factors[name] / batch * gradient for name, gradient in unweighted.items()}
    align_gradient = align_gradient / batch
    others = np.sum([_norm(gradient) for gradient in gradients.values()], axis=0)
    epsilon = np.full_like(ce, params.epsilon or 0.0)
    if params.epsilon_share is not None:
        wanted = params.epsilon_share / (1 - params.epsilon_share) * others
        epsilon = _ratio(wanted, _norm(align_gradient), 0.0)
    gradients["align"] = -epsilon[:, None] * align_gradient
    weights = {name: np.full_like(ce, factor) for name, factor in factors.items()} | {"align": -epsilon}
    aligned = _norm(gradients["align"])
    return UniformBatches(
        values=values,
        weights=weights,
        gradients=gradients,
        total=np.sum([weights[name] * value for name, value in values.items()], axis=0),
        distance=one.distance,
        share=_ratio(aligned, others + aligned, 0.0),
        cosine=_cosine(gradients["align"], gradients["tckd"] + gradients["nckd"]),
        similarity=_cosine(one.tckd_gradient, one.nckd_gradient),
    )


def _samples(student_logits: ArrayLike, teacher_logits: ArrayLike, target: ArrayLike, temperature: float) -> _Samples:
    z, v = (np.asarray(logits, dtype=np.float64) / temperature for logits in (student_logits, teacher_logits))
    if z.ndim != 2 or z.shape[1] < 3 or z.shape != v.shape:
        raise ValueError(f"expected two equal shapes (B, C) with at least 3 classes, got {z.shape} and {v.shape}")
    rows, t = np.arange(len(z)), np.asarray(target, dtype=np.int64)
    others = np.ones_like(z, dtype=bool)
    others[rows, t] = False

    log_p, log_q = _log_softmax(z), _log_softmax(v)
    log_p_rest, log_q_rest = _log_sum(log_p, others), _log_sum(log_q, others)
    log_p_t, log_q_t = log_p[rows, t], log_q[rows, t]
    log_p_hat, log_q_hat = log_p - log_p_rest[:, None], log_q - log_q_rest[:, None]
    p_hat, q_hat = np.exp(log_p_hat) * others, np.exp(log_q_hat) * others
    delta = np.exp(log_p_t) - np.exp(log_q_t)

    tckd = np.exp(log_q_t) * (log_q_t - log_p_t) + np.exp(log_q_rest) * (log_q_rest - log_p_rest)
    u = (1 + delta)[:, None] * p_hat - q_hat
    m = (u * p_hat).sum(1)
    w = np.exp(log_p_t + log_p_rest)
    tckd_gradient = -delta[:, None] * p_hat
    tckd_gradient[rows, t] = delta
    distance_gradient = -p_hat * ((w * (delta + m))[:, None] - (1 + delta)[:, None] * (u - m[:, None]))
    distance_gradient[rows, t] = w * (delta + m)
    return _Samples(
        tckd=tckd,
        nckd=(q_hat * (log_q_hat - log_p_hat)).sum(1),
        distance=delta**2 + (u**2).sum(1),
        tckd_gradient=tckd_gradient,
        nckd_gradient=p_hat - q_hat,
        distance_gradient=2 * distance_gradient,
    )


def _cross_entropy(z: Array, target: NDArray[np.int64]) -> tuple[Array, Array]:
    rows, log_p = np.arange(len(z)), _log_softmax(z)
    gradient = np.exp(log_p)
    gradient[rows, target] -= 1
    return -log_p[rows, target], gradient


def _norm(gradient: Array) -> Array:
    norm: Array = np.linalg.norm(gradient, axis=1)
    return norm


def _cosine(one: Array, other: Array) -> Array:
    return _ratio((one * other).sum(1), _norm(one) * _norm(other), np.nan)


def _ratio(above: Array, below: Array, otherwise: float) -> Array:
    """Their quotient, and ``otherwise`` where ``below`` is zero."""
    result: Array = np.divide(above, below, out=np.full_like(above, otherwise), where=below > 0)
    return result


def _log_softmax(logits: Array) -> Array:
    shifted: Array = logits - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _log_sum(log_p: Array, where: Any) -> Array:
    """log Σ exp over the classes selected in each row."""
    selected = np.where(where, log_p, -np.inf)
    top = selected.max(axis=1, keepdims=True)
    result: Array = (top + np.log(np.exp(selected - top).sum(axis=1, keepdims=True)))[:, 0]
    return result
