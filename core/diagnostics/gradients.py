"""What the terms of a loss pull at, and how large the logits are: measured on every step, at the logits.

Everything comes from the closed-form gradients that the loss has computed already: no extra backward pass, and no read
from the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.methods import LogitBatch, LossTerms


def measure_gradients(terms: LossTerms, batch: LogitBatch) -> dict[str, Tensor]:
    """Detached scalars by metric name, independent of the batch size; NaN where a step has nothing to measure.

    With logit standardisation a term has two gradients. The similarity is defined by the standardised logits, which
    are what TCKD and NCKD see, and is measured there. Norms, covariance, share and cosine are of the gradients that
    reach the network, at its raw logits: only there do they compare with cross-entropy's, which sees no others.

    - ``grad/similarity``: mean over samples of the cosine between their TCKD and NCKD gradients, zero norms skipped.
    - ``grad/skipped``: samples that were skipped there, since one of their two gradients is zero, in %. NaN while
      their weight is zero, which says nothing of the samples.
    - ``grad/tckd_norm``, ``grad/nckd_norm``: root mean square over samples of the gradient's norm, weights and ramp
      included.
    - ``grad/covariance``: cos(Σ_i g_TCKD,i , Σ_i g_NCKD,i), the sums over the batch: the author's "normalised
      covariance". It is NaN, not 0, where a sum vanishes.
    - ``grad/align_share``: ‖g_A‖ / Σ‖g‖ over all terms, Frobenius over (B, C), in %.
    - ``grad/align_cosine``: cos(g_A, g_TCKD + g_NCKD); −1 means that the term pulls straight against distillation.
    - ``logits/student_target``, ``logits/student_others``: mean over samples of |z_t| and of ‖(z_k)_{k≠t}‖, raw logits
      as the network gives them; ``logits/teacher_target``, ``logits/teacher_others`` likewise.
    """
    found = _logit_norms("student", batch.student32, batch.target)
    if batch.teacher is not None:
        found |= _logit_norms("teacher", batch.teacher32, batch.target)
    gradients = terms.gradients
    if terms.similarity is not None:
        found["grad/similarity"] = terms.similarity()
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    for name in ("tckd", "nckd"):
        if name in gradients:
            # A term's gradient is of a batch mean, so its Frobenius norm falls as 1/√B; this takes that out.
            found[f"grad/{name}_norm"] = norms[name] * len(gradients[name]) ** 0.5
    if "tckd" in gradients and "nckd" in gradients:
        found |= _between(gradients["tckd"], gradients["nckd"])
    if "align" in gradients:
        rest = gradients["tckd"] + gradients["nckd"]
        found["grad/align_share"] = 100 * norms["align"] / torch.stack(list(norms.values())).sum()
        found["grad/align_cosine"] = (gradients["align"] * rest).sum() / (norms["align"] * rest.norm())
    return found


def _between(tckd: Tensor, nckd: Tensor) -> dict[str, Tensor]:
    """How the two gradients (B, C) lie to each other, their positive weights cancelling out."""
    sums = torch.stack((tckd, nckd)).sum(1)
    norms = sums.norm(dim=1)
    used = (tckd.any(1) & nckd.any(1)).double().mean()
    weighted = tckd.any() & nckd.any()
    return {
        "grad/covariance": (sums[0] * sums[1]).sum() / norms.prod(),
        "grad/skipped": torch.where(weighted, 100 * (1 - used), torch.nan),
    }


def _logit_norms(whose: str, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    index = target.unsqueeze(1)
    return {
        f"logits/{whose}_target": logits.gather(1, index).abs().mean(),
        f"logits/{whose}_others": logits.scatter(1, index, 0.0).norm(dim=1).mean(),
    }
