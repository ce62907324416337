"""RLD: the teacher's confidence, and its ranking of the classes below the true one."""

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
from core.catalog.methods.shared import CE_TERM, SIMILARITY, STANDARDISE, unfinished_ramp
from core.catalog.metric import Metric


class RLDParams(AlignmentParams):
    """Parameters of RLD."""

    alpha: float = Field(1.0, ge=0, description="α, the weight of sample confidence distillation.")
    beta: float = Field(8.0, ge=0, description="β, the weight of masked correlation distillation.")
    temperature: float = Field(4.0, gt=0, le=100, description="T of the masked correlation.")
    confidence_temperature: float = Field(4.0, gt=0, le=100, description="T of the sample confidence.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    ramp_epochs: int = Field(20, ge=0, description="As for dkd: the distillation terms grow over these epochs.")
    standardise: bool = Field(False, description=STANDARDISE)


def _warnings(params: RLDParams, context: MethodContext) -> Iterator[SpecWarning]:
    yield from unfinished_ramp(params.ramp_epochs, 1, context)
    yield from alignment_warnings(params, context, ramp_epochs=params.ramp_epochs)


_PANEL = "Terms of RLD"

METHODS.add(
    MethodEntry(
        name="rld",
        title="RLD",
        summary="The teacher's confidence for the true class, and its ranking of the classes below the true one.",
        target="core.distill.logits.rld:rld_loss",
        reads_rows_alone=True,
        params=RLDParams,
        source="Sun et al. 2024, arXiv 2408.07703",
        min_classes=3,
        weight_params={"ce": "ce_weight", "scd": "alpha", "mcd": "beta"} | ALIGN_WEIGHT,
        share_params=ALIGN_SHARE,
        switches=ALIGN_SWITCH,
        metrics=(
            CE_TERM,
            Metric("train/scd", "RLD's sample confidence term (SCD), unweighted", "nats", panel=_PANEL),
            Metric("train/mcd", "RLD's masked correlation term (MCD), unweighted", "nats", panel=_PANEL),
            SIMILARITY,
            *ALIGN_METRICS,
        ),
        warnings=_warnings,
        cost="The teacher's logits, and two passes over the batch's logits, one for each part.",
    )
)
