"""NKD: a soft label for the target class, and the normalised distributions of the others."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.alignment import (
    ALIGN_METRICS,
    ALIGN_SHARE,
    ALIGN_SWITCH,
    ALIGN_WEIGHT,
    AlignmentParams,
    alignment_warnings,
)
from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM, SIMILARITY
from core.catalog.metric import Metric


class NKDParams(AlignmentParams):
    """Parameters of NKD."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    gamma: float = Field(1.5, ge=0, description="γ, the weight of the non-target part.")
    temperature: float = Field(1.0, gt=0, le=100, description="Temperature of the non-target distributions.")


_PANEL = "Terms of NKD"

METHODS.add(
    MethodEntry(
        name="nkd",
        title="NKD",
        summary="The teacher's target probability as a soft label, and the normalised non-target distributions.",
        family="decoupled",
        target="core.distill.logits.nkd:nkd_loss",
        reads_rows_alone=True,
        params=NKDParams,
        source="Yang et al., ICCV 2023, arXiv 2303.13005",
        min_classes=3,
        weight_params={"ce": "ce_weight", "non_target": "gamma"} | ALIGN_WEIGHT,
        share_params=ALIGN_SHARE,
        switches=ALIGN_SWITCH,
        metrics=(
            CE_TERM,
            Metric("train/target", "NKD's target term, unweighted", "nats", panel=_PANEL),
            Metric("train/non_target", "NKD's non-target term, unweighted", "nats", panel=_PANEL),
            SIMILARITY,
            *ALIGN_METRICS,
        ),
        warnings=alignment_warnings,
        cost="The teacher's logits, and two passes over the batch's logits, one for each part.",
    )
)
