"""A loss as the training calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from core.distill.rows import Rows
from core.distill.shares import with_shares
from core.distill.terms import LossTerms, add_up, autocast_disabled
from core.specs import MethodRef, WeightedMethod

Loss = Callable[[Rows, int | None], LossTerms]
"""A method with its parameters: (batch, epoch) -> terms. Epochs count from 0; None means full strength."""


def build_loss(method: MethodRef) -> Loss:
    """Return the loss that a spec names, with its parameters bound, and with the methods that are added to it."""
    return loss_of(method.members, method.all_shares)


def loss_of(methods: Sequence[WeightedMethod], shares: Mapping[str, float]) -> Loss:
    """Return the sum of methods with their parameters bound. Cross-entropy is that of the first.

    Args:
        methods: The methods.
        shares: By the name of a term, its share of the gradient.
    """
    members = [(member.entry.load(), member.parsed_params) for member in methods]

    def loss(batch: Rows, epoch: int | None) -> LossTerms:
        with autocast_disabled(batch):
            found: list[LossTerms] = [member(batch, params, epoch) for member, params in members]
            terms = found[0] if len(found) == 1 else add_up(found, batch)
            return with_shares(terms, batch, shares) if shares else terms

    return loss
