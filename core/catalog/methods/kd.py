"""KD: the teacher's softened distribution as the target."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM, KD_TERM, STANDARDISE
from core.catalog.registry import Params


class KDParams(Params):
    """Parameters of KD."""

    temperature: float = Field(4.0, gt=0, le=100, description="Temperature of both softened distributions.")
    ce_weight: float = Field(0.1, ge=0, description="Weight of the cross-entropy with the labels.")
    kd_weight: float = Field(0.9, ge=0, description="Weight of T²·KL(teacher ‖ student).")
    standardise: bool = Field(False, description=STANDARDISE + " That paper uses T = 2, kd_weight = 9.")


METHODS.add(
    MethodEntry(
        name="kd",
        title="KD",
        aliases=("hinton", "vanilla_kd", "soft_target", "logits"),
        summary="The teacher's softened distribution is the target.",
        target="core.distill.logits.kd:kd_loss",
        reads_rows_alone=True,
        params=KDParams,
        # A detector's own classification loss keeps its weight, as with DKD.
        task_params={"detection": {"temperature": 1.0, "ce_weight": 1.0, "kd_weight": 1.0}},
        source="Hinton et al. 2015, arXiv 1503.02531",
        weight_params={"ce": "ce_weight", "kd": "kd_weight"},
        metrics=(CE_TERM, KD_TERM),
        color="#CC79A7",
        cost="The teacher's logits, and two softmax over the batch's logits.",
    )
)
