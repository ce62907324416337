"""Gradients of the loss terms and norms of the logits, measured on every step at the logits.

All metrics come from the closed-form gradients that the loss has computed: there is no additional backward pass and no
synchronisation with the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.distill.rows import Rows
from core.distill.terms import LossTerms


def measure_gradients(terms: LossTerms, batch: Rows) -> dict[str, Tensor]:
    """Return detached scalars by metric name, independent of the batch size; NaN if a step has nothing to measure.

    With logit standardisation a term has two gradients. The similarity is defined and measured at the standardised
    logits, which TCKD and NCKD read. Norms, covariance, share and cosine are those of the gradients at the raw logits,
    which reach the network: only there are they comparable with the gradient of cross-entropy.

    - ``grad/similarity``: mean over samples of the cosine between their TCKD and NCKD gradients; samples with a zero
      gradient are skipped.
    - ``grad/skipped``: samples that were skipped because one of their two gradients is zero, in %. NaN while a
      weight is zero, because then all gradients are.
    - ``grad/tckd_norm``, ``grad/nckd_norm``: root mean square over samples of the norm of the gradient, with
      weights and ramp.
    - ``grad/covariance``: cos(Σ_i g_TCKD,i , Σ_i g_NCKD,i), with sums over the batch: the "normalised
      covariance" of Decoupled Gradient Knowledge Distillation (2025). It is NaN, not 0, if a sum is zero.
    - ``grad/align_share``: ‖g_A‖ / Σ‖g‖ over all terms, Frobenius over (B, C), in %.
    - ``grad/align_cosine``: cos(g_A, g_TCKD + g_NCKD); −1 means that the term is directly opposed to distillation.
    - ``logits/student_target``, ``logits/student_others``: mean over samples of |z_t| and of ‖(z_k)_{k≠t}‖, at the raw
      logits of the network; ``logits/teacher_target``, ``logits/teacher_others`` likewise.
    """
    metrics = _logit_norms("student", batch.student32, batch.target)
    if batch.teacher is not None:
        metrics |= _logit_norms("teacher", batch.teacher32, batch.target)
    gradients = terms.gradients
    if terms.similarity is not None:
        metrics["grad/similarity"] = terms.similarity()
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    for name in ("tckd", "nckd"):
        if name in gradients:
            # The gradient of a batch mean has a Frobenius norm proportional to 1/√B; the factor removes that.
            metrics[f"grad/{name}_norm"] = norms[name] * len(gradients[name]) ** 0.5
    if "tckd" in gradients and "nckd" in gradients:
        metrics |= _compare_gradients(gradients["tckd"], gradients["nckd"])
    if "align" in gradients:
        rest = gradients["tckd"] + gradients["nckd"]
        metrics["grad/align_share"] = 100 * norms["align"] / torch.stack(list(norms.values())).sum()
        metrics["grad/align_cosine"] = (gradients["align"] * rest).sum() / (norms["align"] * rest.norm())
    return metrics


def _compare_gradients(tckd: Tensor, nckd: Tensor) -> dict[str, Tensor]:
    """Return the metrics of two gradients (B, C) that do not depend on their positive weights."""
    sums = torch.stack((tckd, nckd)).sum(1)
    norms = sums.norm(dim=1)
    used = (tckd.any(1) & nckd.any(1)).double().mean()
    weighted = tckd.any() & nckd.any()
    return {
        "grad/covariance": (sums[0] * sums[1]).sum() / norms.prod(),
        "grad/skipped": torch.where(weighted, 100 * (1 - used), torch.nan),
    }


def _logit_norms(network: str, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    index = target.unsqueeze(1)
    return {
        f"logits/{network}_target": logits.gather(1, index).abs().mean(),
        f"logits/{network}_others": logits.scatter(1, index, 0.0).norm(dim=1).mean(),
    }
