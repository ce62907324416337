"""Decoupled knowledge distillation (Zhao et al. 2022): w_CE·CE + r(e)·[α·TCKD + β·NCKD]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from core.catalog.methods import DecoupledParams, DKDParams
from core.distill.logits.decoupled import Decoupled
from core.distill.logits.decoupled_gradients import diagnostics_of
from core.distill.logits.standardisation import StandardisedLogits
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, compose, label_term

PullBack = Callable[[Term], Term]
"""Maps a term on the logits that the distillation reads to the same term with its gradient at the raw logits."""


def dkd_loss(batch: Rows, params: DKDParams, epoch: int | None) -> LossTerms:
    """Return DKD with its cross-entropy and ramp. With β = 0 it is TCKD alone, which two classes are enough for."""
    parts, pull_back = decouple(batch, params, least_classes(params))
    weighted = weighted_terms(batch, parts, params, epoch, pull_back)
    return compose(batch, {}, weighted, diagnostics_of(parts, batch))


def least_classes(params: DKDParams) -> int:
    """Return the least number of classes that DKD's terms need with these weights."""
    return 3 if params.beta or params.standardise else 2


def decouple(batch: Rows, params: DKDParams, min_classes: int = 3) -> tuple[Decoupled, PullBack]:
    """Return the decoupled logits, standardised if the parameters say so, and the pull-back of their gradients."""
    if not params.standardise:
        return Decoupled(batch, params.temperature, min_classes), _identity
    standardised = StandardisedLogits(batch)
    return Decoupled(standardised.batch, params.temperature, min_classes), standardised.pull_back


def _identity(term: Term) -> Term:
    return term


def weighted_terms(
    batch: Rows,
    parts: Decoupled,
    params: DecoupledParams,
    epoch: int | None,
    pull_back: PullBack = _identity,
) -> dict[str, tuple[float | Tensor, Term]]:
    """Return CE, TCKD and NCKD with their weights in this epoch, shared by DKD and the methods derived from it."""
    r = ramp(params, epoch)
    return {
        "ce": (params.ce_weight, label_term(batch)),
        "tckd": (r * params.alpha, pull_back(parts.tckd())),
        "nckd": (r * params.beta, pull_back(parts.nckd())),
    }


def ramp(params: DecoupledParams, epoch: int | None) -> float:
    """Return r(e) = min((e + ramp_start) / ramp_epochs, 1), e counted from 0; 1 if no epoch is given."""
    if epoch is None or params.ramp_epochs == 0:
        return 1.0
    return min((epoch + params.ramp_start) / params.ramp_epochs, 1.0)
