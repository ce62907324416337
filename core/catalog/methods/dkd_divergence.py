"""DKD-Divergence: DKD plus squared differences of probabilities."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from core.catalog.methods.alignment import (
    ALIGN_METRICS,
    ALIGN_SHARE,
    ALIGN_SWITCH,
    ALIGN_WEIGHT,
    AlignmentParams,
    alignment_warnings,
)
from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import DECOUPLED_METRICS, SIMILARITY, DecoupledParams, decoupled_warnings
from core.catalog.metric import Metric


class DKDDivergenceParams(DecoupledParams, AlignmentParams):
    """Parameters of DKD-Divergence."""

    mu: float = Field(8.0, ge=0, description="μ, the weight of MSE(p_t, q_t).")
    epsilon: float = Field(6.0, ge=0, description="ε, the weight of MSE(p − p_t, q − q_t) over all classes.")


def _warnings(params: DKDDivergenceParams, context: MethodContext) -> Iterator[SpecWarning]:
    yield from decoupled_warnings(params, context)
    # The two squared differences hold the student to the teacher too, so that the bound of DKD is not that of ε here.
    yield from alignment_warnings(params, context, ramp_epochs=params.ramp_epochs, ramp_start=params.ramp_start)


_PANEL = "Terms of DKD-Divergence"

METHODS.add(
    MethodEntry(
        name="dkd_divergence",
        title="DKD-Divergence",
        summary="DKD plus the squared differences of p_t, the probability of the target, and of p − p_t, between "
        "student and teacher.",
        family="decoupled",
        target="core.distill.logits.dkd_divergence:dkd_divergence_loss",
        reads_rows_alone=True,
        params=DKDDivergenceParams,
        source="Decoupled Gradient Knowledge Distillation",
        min_classes=3,
        weight_params={"ce": "ce_weight", "tckd": "alpha", "nckd": "beta", "target_mse": "mu", "divergence": "epsilon"}
        | ALIGN_WEIGHT,
        share_params=ALIGN_SHARE,
        switches=ALIGN_SWITCH,
        metrics=(
            *DECOUPLED_METRICS,
            Metric(
                "train/target_mse",
                "DKD-Divergence's distance of the target probabilities, unweighted",
                panel=_PANEL,
                from_zero=True,
            ),
            Metric(
                "train/divergence",
                "DKD-Divergence's distance of the other probabilities, unweighted",
                panel=_PANEL,
                from_zero=True,
            ),
            *ALIGN_METRICS,
        ),
        companion=SIMILARITY.name,
        warnings=_warnings,
        published={
            "temperature": 3.0,
            "alpha": 0.5,
            "beta": 0.5,
            "ce_weight": 0.0,
            "ramp_epochs": 0,
            "mu": 8.0,
            "epsilon": 6.0,
        },
        cost="What DKD costs, and another pass over the batch's logits for the two differences.",
    )
)
