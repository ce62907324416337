"""LDRLD: the student's top classes, pair by pair."""

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
from core.catalog.methods.entry import METHODS, ClassesNeeded, MethodEntry
from core.catalog.methods.gdkd import PANEL, REST, TOP
from core.catalog.methods.shared import CE_TERM, SIMILARITY
from core.catalog.metric import Metric


class LDRLDParams(AlignmentParams):
    """Parameters of LDRLD."""

    alpha: float = Field(10.5, ge=0, description="α, the weight of the local part: the pairs, and the top classes.")
    beta: float = Field(7.0, ge=0, description="β, the weight of the divergence within the rest of the classes.")
    depth: int = Field(
        7,
        ge=2,
        description="d, the number of the student's top classes. All pairs of them are compared.",
    )
    temperature: float = Field(4.0, gt=0, le=100, description="T, the temperature of all softened distributions.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    rank_offset: float = Field(
        1.5, gt=0, description="ε of the inverse rank weighting: a pair's weight contains 1/(ε + difference of ranks)."
    )
    rank_scale: float = Field(2.0, gt=0, description="δ, a factor of the weights of all pairs.")
    rank_decay: float = Field(
        0.05, ge=0, description="λ of the exponential rank decay: a pair's weight contains exp(−λ·sum of ranks)."
    )


def _classes_needed(params: LDRLDParams) -> ClassesNeeded:
    return ClassesNeeded(
        params.depth + 1, f"compares the classes outside the student's top {params.depth}", field="depth"
    )


METHODS.add(
    MethodEntry(
        name="ldrld",
        title="LDRLD",
        aliases=("local_dense_relational_logit_distillation",),
        summary="Divergences within each pair of the student's top classes, weighted by rank, among the top classes, "
        "and among the rest.",
        family="decoupled",
        target="core.distill.logits.ldrld:ldrld_loss",
        reads_rows_alone=True,
        params=LDRLDParams,
        source="Xu et al., ICCV 2025, arXiv 2507.15911",
        min_classes=3,
        classes_needed=_classes_needed,
        weight_params={"ce": "ce_weight", "pairs": "alpha", "top": "alpha", "rest": "beta"} | ALIGN_WEIGHT,
        share_params=ALIGN_SHARE,
        switches=ALIGN_SWITCH,
        metrics=(
            CE_TERM,
            Metric("train/pairs", "Divergence of pairs of the top classes, unweighted", "nats", panel=PANEL),
            TOP,
            REST,
            SIMILARITY,
            *ALIGN_METRICS,
        ),
        warnings=alignment_warnings,
        cost="The teacher's logits, two passes over the batch's logits, and d² numbers for each sample.",
    )
)
