"""Decoupled knowledge distillation (Zhao et al. 2022): w_CE·CE + r(e)·[α·TCKD + β·NCKD]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from core.catalog.methods import DecoupledParams, DKDParams
from core.methods.decoupled import Decoupled
from core.methods.standardisation import StandardisedLogits
from core.methods.terms import LogitBatch, LossTerms, Term, compose, cross_entropy

PullBack = Callable[[Term], Term]
"""From a gradient at the logits that the distillation sees to one at the student's own."""


def dkd_loss(batch: LogitBatch, params: DKDParams, epoch: int | None) -> LossTerms:
    """DKD with its cross-entropy and ramp."""
    parts, pull_back = decouple(batch, params)
    terms = compose(batch, {}, weighted_terms(batch, parts, params, epoch, pull_back))
    return with_similarity(terms, parts)


def decouple(batch: LogitBatch, params: DKDParams) -> tuple[Decoupled, PullBack]:
    """The parts of the logits, standardised where the parameters say so, and the way back for their gradients."""
    if not params.standardise:
        return Decoupled(batch, params.temperature), _as_it_is
    standardised = StandardisedLogits(batch)
    return Decoupled(standardised.batch, params.temperature), standardised.pull_back


def _as_it_is(term: Term) -> Term:
    return term


def weighted_terms(
    batch: LogitBatch,
    parts: Decoupled,
    params: DecoupledParams,
    epoch: int | None,
    pull_back: PullBack = _as_it_is,
) -> dict[str, tuple[float | Tensor, Term]]:
    """CE, TCKD and NCKD with their weights in this epoch; what DKD's descendants start from."""
    r = ramp(params, epoch)
    return {
        "ce": (params.ce_weight, cross_entropy(batch.student32, batch.target)),
        "tckd": (r * params.alpha, pull_back(parts.tckd())),
        "nckd": (r * params.beta, pull_back(parts.nckd())),
    }


def ramp(params: DecoupledParams, epoch: int | None) -> float:
    """r(e) = min((e + ramp_start) / ramp_epochs, 1), e counted from 0; 1 where no epoch is given."""
    if epoch is None or params.ramp_epochs == 0:
        return 1.0
    return min((epoch + params.ramp_start) / params.ramp_epochs, 1.0)


def with_similarity(terms: LossTerms, parts: Decoupled) -> LossTerms:
    """The same loss, with its gradient similarity for whoever asks."""
    return LossTerms(terms.total, terms.values, terms.gradients, parts.similarity)
