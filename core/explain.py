"""The loss terms in NumPy, for charts. They need no torch and are tested to equal the terms of ``core.methods``.

``explain`` returns the terms of one batch. ``explain_uniform_batches`` returns the complete DKD-Align loss of many
batches at once, each of identical samples: a map over two probabilities is made of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.catalog.methods import DKDAlignParams as DKDAlignParams

Array = NDArray[np.float64]

_MIN_DISTANCE = 1e-30
"""A distance below this counts as zero, as in ``core.distill.logits.decoupled``."""


@dataclass(frozen=True)
class Explanation:
    """The terms of DKD and DKD-Align for one batch.

    Attributes:
        tckd: TCKD, averaged over the batch, with the factor T².
        nckd: NCKD, averaged over the batch, with the factor T².
        align_sample: A with the reduction ``sample``.
        align_batch: A with the reduction ``batch``.
        align_log: A with the reduction ``log``.
        tckd_gradient: (B, C), of ``tckd`` with respect to the student's logits.
        nckd_gradient: (B, C), of ``nckd`` with respect to the student's logits.
        align_gradient: (B, C), of ``align_sample`` with respect to the student's logits.
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
    """DKD-Align for N batches, each of identical samples.

    Attributes:
        values: (N,) each, unweighted, with the factor T²: ``ce``, ``tckd``, ``nckd``, ``align``.
        weights: (N,) each, by the same names; that of ``align`` is −ε.
        gradients: (N, C) each, weighted, with respect to the logits of *one* sample of the batch.
        total: (N,), the loss.
        distance: (N,), s = Δ² + Σu²; A with the reduction ``sample`` is T²/C·s.
        share: (N,), share of ``align`` in the sum of the norms of the four gradients, 0 to 1.
        cosine: (N,), between the weighted gradients of the alignment term and of TCKD plus NCKD; NaN if one is zero.
        similarity: (N,), cosine between the gradients of TCKD and NCKD; NaN if one is zero.
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
    """Values (B,) and gradients (B, C) of each sample, without the factors T² and T."""

    tckd: Array
    nckd: Array
    distance: Array
    tckd_gradient: Array
    nckd_gradient: Array
    distance_gradient: Array


def explain(student_logits: ArrayLike, teacher_logits: ArrayLike, target: ArrayLike, temperature: float) -> Explanation:
    """Return every term and gradient of one batch.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        target: (B,) class indices.
        temperature: T > 0.

    Raises:
        ValueError: the shapes do not match, or there are fewer than three classes.
    """
    terms = _samples(student_logits, teacher_logits, target, temperature)
    batch, classes = terms.tckd_gradient.shape
    sample = temperature**2 * terms.distance.mean() / classes
    return Explanation(
        tckd=float(temperature**2 * terms.tckd.mean()),
        nckd=float(temperature**2 * terms.nckd.mean()),
        align_sample=float(sample),
        align_batch=float(sample / batch**2),
        align_log=float(np.log(max(sample, _MIN_DISTANCE))),
        tckd_gradient=temperature / batch * terms.tckd_gradient,
        nckd_gradient=temperature / batch * terms.nckd_gradient,
        align_gradient=temperature / (batch * classes) * terms.distance_gradient,
    )


def explain_uniform_batches(
    student_logits: ArrayLike, teacher_logits: ArrayLike, target: ArrayLike, params: DKDAlignParams, batch: int = 1
) -> UniformBatches:
    """Return DKD-Align after its ramp for N batches, each of ``batch`` copies of one sample.

    Args:
        student_logits: (N, C).
        teacher_logits: (N, C).
        target: (N,) class indices.
        params: parameters of the method.
        batch: number of samples of each batch.

    Raises:
        ValueError: there are fewer than three classes, ``batch`` is below one, or the logits are standardised, which is
            not supported.
    """
    if batch < 1:
        raise ValueError(f"a batch has at least one sample, not {batch}")
    if params.standardise:
        raise ValueError("standardised logits are not supported")
    terms = _samples(student_logits, teacher_logits, target, params.temperature)
    t, classes = params.temperature, terms.tckd_gradient.shape[1]
    ce, ce_gradient = _cross_entropy(np.asarray(student_logits, dtype=np.float64), np.asarray(target, dtype=np.int64))
    sample, align_gradient = t**2 / classes * terms.distance, t / classes * terms.distance_gradient
    values = {"ce": ce, "tckd": t**2 * terms.tckd, "nckd": t**2 * terms.nckd, "align": sample}
    if params.reduction == "batch":
        values["align"], align_gradient = sample / batch**2, align_gradient / batch**2
    elif params.reduction == "log":
        floored = np.maximum(sample + params.log_floor * batch**2, _MIN_DISTANCE)
        values["align"], align_gradient = np.log(floored), align_gradient / floored[:, None]
    unweighted = {"ce": ce_gradient, "tckd": t * terms.tckd_gradient, "nckd": t * terms.nckd_gradient}
    factors = {"ce": params.ce_weight, "tckd": params.alpha, "nckd": params.beta}
    gradients = {name: factors[name] / batch * gradient for name, gradient in unweighted.items()}
    align_gradient = align_gradient / batch
    others = np.sum([_norm(gradient) for gradient in gradients.values()], axis=0)
    epsilon = np.full_like(ce, params.epsilon or 0.0)
    if params.epsilon_share is not None:
        target_norm = params.epsilon_share / (1 - params.epsilon_share) * others
        epsilon = _ratio(target_norm, _norm(align_gradient), 0.0)
    signed = epsilon if params.sign == "added" else -epsilon
    gradients["align"] = signed[:, None] * align_gradient
    weights = {name: np.full_like(ce, factor) for name, factor in factors.items()} | {"align": signed}
    aligned = _norm(gradients["align"])
    return UniformBatches(
        values=values,
        weights=weights,
        gradients=gradients,
        total=np.sum([weights[name] * value for name, value in values.items()], axis=0),
        distance=terms.distance,
        share=_ratio(aligned, others + aligned, 0.0),
        cosine=_cosine(gradients["align"], gradients["tckd"] + gradients["nckd"]),
        similarity=_cosine(terms.tckd_gradient, terms.nckd_gradient),
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


def _ratio(numerator: Array, denominator: Array, default: float) -> Array:
    """Return ``numerator / denominator``, and ``default`` where the denominator is zero."""
    result: Array = np.divide(numerator, denominator, out=np.full_like(numerator, default), where=denominator > 0)
    return result


def _log_softmax(logits: Array) -> Array:
    shifted: Array = logits - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _log_sum(log_p: Array, where: Any) -> Array:
    """Return log Σ exp over the selected classes of each row."""
    selected = np.where(where, log_p, -np.inf)
    top = selected.max(axis=1, keepdims=True)
    result: Array = (top + np.log(np.exp(selected - top).sum(axis=1, keepdims=True)))[:, 0]
    return result
