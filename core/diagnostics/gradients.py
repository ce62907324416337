"""What the terms of a loss pull at: norms, the alignment term's share and its direction, all at the logits.

Everything comes from the closed-form gradients that the loss has computed already: no extra backward pass, and no read
from the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.methods import LossTerms


def measure(terms: LossTerms) -> dict[str, Tensor]:
    """Detached scalars by metric name, independent of the batch size; NaN where a step has nothing to measure.

    - ``grad/similarity``: mean over samples of the cosine between their TCKD and NCKD gradients.
    - ``grad/tckd_norm``, ``grad/nckd_norm``: root mean square over samples of the gradient's norm, weights and ramp
      included.
    - ``grad/align_share``: ‖g_A‖ / Σ‖g‖ over all terms, Frobenius over (B, C), in %.
    - ``grad/align_cosine``: cos(g_A, g_TCKD + g_NCKD); −1 means that the term pulls straight against distillation.
    """
    gradients = terms.gradients
    found: dict[str, Tensor] = {}
    if terms.similarity is not None:
        found["grad/similarity"] = terms.similarity
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    for name in ("tckd", "nckd"):
        if name in gradients:
            # A term's gradient is of a batch mean, so its Frobenius norm falls as 1/√B; this takes that out.
            found[f"grad/{name}_norm"] = norms[name] * len(gradients[name]) ** 0.5
    if "align" in gradients:
        rest = gradients["tckd"] + gradients["nckd"]
        found["grad/align_share"] = 100 * norms["align"] / torch.stack(list(norms.values())).sum()
        found["grad/align_cosine"] = (gradients["align"] * rest).sum() / (norms["align"] * rest.norm())
    return found
