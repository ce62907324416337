"""Cross-entropy with the labels, without distillation."""

from __future__ import annotations

from core.catalog import Params
from core.distill.rows import Rows
from core.distill.terms import LossTerms, compose, label_term


def ce_loss(batch: Rows, params: Params, epoch: int | None) -> LossTerms:
    """Return the mean cross-entropy. It has no parameters and no schedule."""
    return compose(batch, {}, {"ce": (1.0, label_term(batch))})
