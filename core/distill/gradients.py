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
    """Return detached scalars by metric name, independent of the number of rows; NaN if there is nothing to measure.

    If the rows have weights, means over rows are weighted, and rows of weight 0 count for nothing. Sums over the batch
    and Frobenius norms are of the gradients of the loss, which contain the weights.

    With logit standardisation a term has two gradients. The similarity is defined and measured at the standardised
    logits, which TCKD and NCKD read. Norms, covariance, share and cosine are those of the gradients at the raw logits,
    which reach the network: only there are they comparable with the gradient of cross-entropy.

    - ``grad/similarity``: mean over rows of the cosine between their TCKD and NCKD gradients; rows with a zero
      gradient are skipped.
    - ``grad/skipped``: rows that were skipped because one of their two gradients is zero, in %. NaN while the weight
      of a term is zero, because then all its gradients are.
    - ``grad/tckd_norm``, ``grad/nckd_norm``: root mean square over rows of the norm of the gradient, with the weight
      of the term and the ramp.
    - ``grad/covariance``: cos(Σ_i g_TCKD,i , Σ_i g_NCKD,i), with sums over the batch: the "normalised
      covariance" of Decoupled Gradient Knowledge Distillation (2025). It is NaN, not 0, if a sum is zero.
    - ``grad/align_share``: ‖g_A‖ / Σ‖g‖ over all terms, Frobenius over (R, C), in %.
    - ``grad/align_cosine``: cos(g_A, g_TCKD + g_NCKD); −1 means that the term is directly opposed to distillation.
    - ``logits/student_target``, ``logits/student_others``: mean over rows of |z_t| and of ‖(z_k)_{k≠t}‖, at the raw
      logits of the network; ``logits/teacher_target``, ``logits/teacher_others`` likewise.
    """
    metrics = _logit_norms("student", batch.student32, batch)
    if batch.teacher is not None:
        metrics |= _logit_norms("teacher", batch.teacher32, batch)
    gradients = terms.gradients
    if terms.similarity is not None:
        metrics["grad/similarity"] = terms.similarity()
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    for name in ("tckd", "nckd"):
        if name in gradients:
            metrics[f"grad/{name}_norm"] = _root_mean_square(gradients[name], norms[name], batch)
    if "tckd" in gradients and "nckd" in gradients:
        metrics |= _compare_gradients(gradients["tckd"], gradients["nckd"], batch)
    if "align" in gradients:
        rest = gradients["tckd"] + gradients["nckd"]
        metrics["grad/align_share"] = 100 * norms["align"] / torch.stack(list(norms.values())).sum()
        metrics["grad/align_cosine"] = (gradients["align"] * rest).sum() / (norms["align"] * rest.norm())
    return metrics


def _root_mean_square(gradient: Tensor, norm: Tensor, batch: Rows) -> Tensor:
    """Return the root mean square over rows of the norm of the gradient of each row's own loss.

    Args:
        gradient: (R, C), of a mean over rows, so that each row contains its share of the mean.
        norm: its Frobenius norm.
        batch: the rows.
    """
    if batch.share is None:
        root_mean_square: Tensor = norm * len(gradient) ** 0.5
        return root_mean_square
    rows = gradient.norm(dim=1) / batch.share.where(batch.share > 0, 1.0).sqrt()
    return batch.unless_weightless(rows.norm(), torch.nan)


def _compare_gradients(tckd: Tensor, nckd: Tensor, batch: Rows) -> dict[str, Tensor]:
    """Return the metrics of two gradients (R, C) that do not depend on the positive weights of their terms."""
    sums = torch.stack((tckd, nckd)).sum(1)
    norms = sums.norm(dim=1)
    used = tckd.any(1) & nckd.any(1)
    # With weights not as 1 minus a mean, whose rounding would leave a share of skipped rows where there is none.
    skipped = 1 - used.double().mean() if batch.share is None else batch.weigh((~used).double()).mean()
    weighted = tckd.any() & nckd.any()
    return {
        "grad/covariance": (sums[0] * sums[1]).sum() / norms.prod(),
        "grad/skipped": torch.where(weighted, 100 * skipped, torch.nan),
    }


def _logit_norms(network: str, logits: Tensor, batch: Rows) -> dict[str, Tensor]:
    index = batch.label.unsqueeze(1)
    norms = {
        f"logits/{network}_target": logits.gather(1, index).abs(),
        f"logits/{network}_others": logits.scatter(1, index, 0.0).norm(dim=1),
    }
    return {name: batch.unless_weightless(batch.weigh(norm).mean(), torch.nan) for name, norm in norms.items()}
