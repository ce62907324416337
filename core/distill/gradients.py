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

    - ``logits/student_target``, ``logits/student_others``: mean over rows of |z_t| and of ‖(z_k)_{k≠t}‖, at the raw
      logits of the network; ``logits/teacher_target``, ``logits/teacher_others`` likewise.
    - What the method measures of its own terms (``LossTerms.diagnostics``).
    """
    metrics = _logit_norms("student", batch.student32, batch)
    if batch.teacher is not None:
        metrics |= _logit_norms("teacher", batch.teacher32, batch)
    return metrics | (terms.diagnostics(terms.gradients) if terms.diagnostics else {})


def _logit_norms(network: str, logits: Tensor, batch: Rows) -> dict[str, Tensor]:
    index = batch.label.unsqueeze(1)
    norms = {
        f"logits/{network}_target": logits.gather(1, index).abs(),
        f"logits/{network}_others": logits.scatter(1, index, 0.0).norm(dim=1),
    }
    return {name: batch.unless_weightless(batch.weigh(norm).mean(), torch.nan) for name, norm in norms.items()}
