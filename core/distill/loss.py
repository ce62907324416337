"""A loss as the training calls it."""

from __future__ import annotations

from collections.abc import Callable

from core.catalog import METHODS
from core.distill.rows import Rows
from core.distill.shares import with_shares
from core.distill.terms import LossTerms, autocast_disabled
from core.specs import MethodRef

Loss = Callable[[Rows, int | None], LossTerms]
"""A method with its parameters: (batch, epoch) -> terms. Epochs count from 0; None means full strength."""


def build_loss(method: MethodRef) -> Loss:
    """Return the loss that a spec names, with its parameters bound."""
    method_loss = METHODS[method.name].load()
    params = method.parsed_params

    def loss(batch: Rows, epoch: int | None) -> LossTerms:
        with autocast_disabled(batch):
            terms: LossTerms = method_loss(batch, params, epoch)
            return with_shares(terms, batch, method.shares) if method.shares else terms

    return loss
