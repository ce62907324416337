"""The loss terms in numpy, for pictures: free of torch, tested equal to the torch ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


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


def explain(student_logits: ArrayLike, teacher_logits: ArrayLike, target: ArrayLike, temperature: float) -> Explanation:
    """Every term and gradient for logits (B, C) and targets (B,). Raises ValueError with fewer than three classes."""
    z, v = (np.asarray(logits, dtype=np.float64) / temperature for logits in (student_logits, teacher_logits))
    if z.ndim != 2 or z.shape[1] < 3 or z.shape != v.shape:
        raise ValueError(f"expected two equal shapes (B, C) with at least 3 classes, got {z.shape} and {v.shape}")
    batch, classes = z.shape
    rows, t = np.arange(batch), np.asarray(target, dtype=np.int64)
    others = np.ones_like(z, dtype=bool)
    others[rows, t] = False

    log_p, log_q = _log_softmax(z), _log_softmax(v)
    log_p_rest, log_q_rest = _log_sum(log_p, others), _log_sum(log_q, others)
    log_p_t, log_q_t = log_p[rows, t], log_q[rows, t]
    log_p_hat, log_q_hat = log_p - log_p_rest[:, None], log_q - log_q_rest[:, None]
    p_hat, q_hat = np.exp(log_p_hat) * others, np.exp(log_q_hat) * others
    delta = np.exp(log_p_t) - np.exp(log_q_t)

    tckd = np.exp(log_q_t) * (log_q_t - log_p_t) + np.exp(log_q_rest) * (log_q_rest - log_p_rest)
    nckd = (q_hat * (log_q_hat - log_p_hat)).sum(1)
    u = (1 + delta)[:, None] * p_hat - q_hat
    s = delta**2 + (u**2).sum(1)
    m = (u * p_hat).sum(1)
    w = np.exp(log_p_t + log_p_rest)

    tckd_gradient = -delta[:, None] * p_hat
    tckd_gradient[rows, t] = delta
    align_gradient = -p_hat * ((w * (delta + m))[:, None] - (1 + delta)[:, None] * (u - m[:, None]))
    align_gradient[rows, t] = w * (delta + m)
    sample = temperature**2 * s.mean() / classes
    return Explanation(
        tckd=float(temperature**2 * tckd.mean()),
        nckd=float(temperature**2 * nckd.mean()),
        align_sample=float(sample),
        align_batch=float(sample / batch**2),
        align_log=float(np.log(max(sample, 1e-30))),
        tckd_gradient=temperature / batch * tckd_gradient,
        nckd_gradient=temperature / batch * (p_hat - q_hat),
        align_gradient=2 * temperature / (batch * classes) * align_gradient,
    )


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
