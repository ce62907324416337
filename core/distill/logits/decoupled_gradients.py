"""What the gradients of TCKD, NCKD and the alignment term say about a step, from the closed forms alone.

With logit standardisation a term has two gradients. The similarity is defined and measured at the standardised logits,
which TCKD and NCKD read. Norms, covariance, share and cosine are those of the gradients at the raw logits, which reach
the network: only there are they comparable with the gradient of cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from core.distill.logits.alignment import align_diagnostics
from core.distill.logits.decoupled import Decoupled
from core.distill.rows import Rows
from core.distill.terms import Diagnostics


def diagnostics_of(parts: Decoupled, batch: Rows) -> Diagnostics:
    """Return what measures a loss's TCKD and NCKD, and its alignment term if it has one.

    If the rows have weights, means over rows are weighted, and rows of weight 0 count for nothing. Sums over the batch
    and Frobenius norms are of the gradients of the loss, which contain the weights.

    - ``grad/similarity``: mean over rows of the cosine between their TCKD and NCKD gradients; rows with a zero
      gradient are skipped.
    - ``grad/skipped``: rows that were skipped because one of their two gradients is zero, in %. NaN while the weight
      of a term is zero, because then all its gradients are.
    - ``grad/tckd_norm``, ``grad/nckd_norm``: root mean square over rows of the norm of the gradient, with the weight
      of the term and the ramp.
    - ``grad/covariance``: cos(Σ_i g_TCKD,i , Σ_i g_NCKD,i), with sums over the batch: the "normalised
      covariance" of Decoupled Gradient Knowledge Distillation (2025). It is NaN, not 0, if a sum is zero.
    - What ``align_diagnostics`` returns, against TCKD + NCKD, if there is an alignment term.

    Args:
        parts: the decoupled logits of the loss.
        batch: the rows.
    """

    def measure(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        metrics = {"grad/similarity": parts.similarity()}
        for name in ("tckd", "nckd"):
            metrics[f"grad/{name}_norm"] = _root_mean_square(gradients[name], batch)
        metrics |= _compare(gradients["tckd"], gradients["nckd"], batch)
        return metrics | (align_diagnostics(gradients, ("tckd", "nckd")) if "align" in gradients else {})

    return measure


def _root_mean_square(gradient: Tensor, batch: Rows) -> Tensor:
    """Return the root mean square over rows of the norm of the gradient of each row's own loss.

    Args:
        gradient: (R, C), of a mean over rows, so that each row contains its share of the mean.
        batch: the rows.
    """
    if batch.share is None:
        root_mean_square: Tensor = gradient.norm() * len(gradient) ** 0.5
        return root_mean_square
    rows = gradient.norm(dim=1) / batch.share.where(batch.share > 0, 1.0).sqrt()
    return batch.unless_weightless(rows.norm(), torch.nan)


def _compare(tckd: Tensor, nckd: Tensor, batch: Rows) -> dict[str, Tensor]:
    """Return the metrics of two gradients (R, C) that do not depend on the positive weights of their terms."""
    sums = torch.stack((tckd, nckd)).sum(1)
    norms = sums.norm(dim=1)
    used = tckd.any(1) & nckd.any(1)
    # If rows have weights, 1 minus a mean would be rounded, and report skipped rows although there are none.
    skipped = 1 - used.double().mean() if batch.share is None else batch.weigh((~used).double()).mean()
    weighted = tckd.any() & nckd.any()
    return {
        "grad/covariance": (sums[0] * sums[1]).sum() / norms.prod(),
        "grad/skipped": torch.where(weighted, 100 * skipped, torch.nan),
    }
