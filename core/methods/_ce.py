"""Cross-entropy with the labels alone."""

from __future__ import annotations

from core.catalog import Params
from core.methods.terms import LogitBatch, LossTerms, compose, cross_entropy


def ce_loss(batch: LogitBatch, params: Params, epoch: int | None) -> LossTerms:
    """Mean cross-entropy; no parameters, no schedule."""
    return compose(batch, {}, {"ce": (1.0, cross_entropy(batch.student32, batch.target))})
