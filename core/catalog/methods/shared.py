"""What several methods have in common: parameters, metrics and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from core.catalog.methods.entry import MethodContext, SpecWarning
from core.catalog.metric import LOSS_PANEL, Metric
from core.catalog.registry import Params

STANDARDISE = "Standardise each row of logits before distillation to mean 0, standard deviation 1 (arXiv 2403.01427)."

CE_TERM = Metric("train/ce", "Cross-entropy term, unweighted", "nats", "lower", panel=LOSS_PANEL)
KD_TERM = Metric("train/kd", "KD term, unweighted", "nats", panel=LOSS_PANEL)


class DecoupledParams(Params):
    """Parameters that DKD and the methods derived from it share."""

    alpha: float = Field(1.0, ge=0, description="α, the weight of TCKD (the target class against the others).")
    beta: float = Field(8.0, ge=0, description="β, the weight of NCKD (the non-target classes among themselves).")
    temperature: float = Field(4.0, gt=0, le=100, description="T, the temperature of both softened distributions.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    ramp_epochs: int = Field(
        20, ge=0, description="Epochs over which the distillation terms grow linearly: min(e / ramp, 1). 0: no ramp."
    )
    ramp_start: Literal[0, 1] = Field(
        1,
        description="The value of e in the first epoch: 1 in mdistiller; 0, which is cross-entropy alone, in the code "
        "of Decoupled Gradient KD.",
    )


SIMILARITY = Metric("grad/similarity", "Gradient similarity (mean cosine)", panel="Gradient similarity")

TCKD_TERM = Metric("train/tckd", "TCKD term, unweighted", "nats", panel=LOSS_PANEL)
NCKD_TERM = Metric("train/nckd", "NCKD term, unweighted", "nats", panel=LOSS_PANEL)

DECOUPLED_METRICS = (
    CE_TERM,
    TCKD_TERM,
    NCKD_TERM,
    SIMILARITY,
    Metric("grad/skipped", "Samples without a gradient similarity", "%"),
    Metric("grad/covariance", "Normalised covariance of the TCKD and NCKD gradients"),
    Metric("grad/tckd_norm", "TCKD gradient, RMS norm per sample"),
    Metric("grad/nckd_norm", "NCKD gradient, RMS norm per sample"),
)
"""Metrics of the methods that are built on TCKD and NCKD."""


def ramp(epoch: int, ramp_epochs: int, start: int) -> float:
    """Return the factor of the distillation terms in an epoch, counted from 0."""
    return min((epoch + start) / ramp_epochs, 1.0) if ramp_epochs else 1.0


def unfinished_ramp(ramp_epochs: int, start: int, context: MethodContext) -> Iterator[SpecWarning]:
    """Yield a warning if the ramp does not end within the training."""
    if (top := ramp(context.epochs - 1, ramp_epochs, start)) < 1:
        text = f"the ramp does not end within the training: distillation reaches {100 * top:.3g} % of its weight"
        yield SpecWarning("params.ramp_epochs", text)


def init_epochs_field(what: str) -> Any:
    """Return the parameter with the number of epochs of a first stage.

    Args:
        what: What the stage does.
    """
    return Field(
        30,
        ge=1,
        description=f"Epochs of the first stage, {what}. They are the first epochs of the training, and share its "
        "learning rate schedule.",
    )


def decoupled_warnings(params: DecoupledParams, context: MethodContext) -> Iterator[SpecWarning]:
    """Yield the warnings that DKD and the methods derived from it share."""
    yield from unfinished_ramp(params.ramp_epochs, params.ramp_start, context)
