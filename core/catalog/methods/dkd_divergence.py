"""DKD-Divergence: DKD plus squared differences of probabilities."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import DECOUPLED_METRICS, SIMILARITY, DecoupledParams, decoupled_warnings
from core.catalog.metric import Metric


class DKDDivergenceParams(DecoupledParams):
    """Parameters of DKD-Divergence."""

    mu: float = Field(8.0, ge=0, description="μ, the weight of MSE(p_t, q_t).")
    epsilon: float = Field(6.0, ge=0, description="ε, the weight of MSE(p − p_t, q − q_t) over all classes.")


_PANEL = "Terms of DKD-Divergence"

METHODS.add(
    MethodEntry(
        name="dkd_divergence",
        title="DKD-Divergence",
        summary="DKD plus squared differences of the target probabilities and of the distances to them.",
        family="decoupled",
        target="core.distill.logits.dkd_divergence:dkd_divergence_loss",
        params=DKDDivergenceParams,
        source="Decoupled Gradient Knowledge Distillation",
        min_classes=3,
        weight_params={"ce": "ce_weight", "tckd": "alpha", "nckd": "beta", "target_mse": "mu", "divergence": "epsilon"},
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
        ),
        companion=SIMILARITY.name,
        warnings=decoupled_warnings,
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
