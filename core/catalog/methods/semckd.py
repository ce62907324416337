"""SemCKD: every stage of the student learns from all stages of the teacher, by learned attention."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM, KD_TERM
from core.catalog.methods.tapped import StagesParams, stages_of
from core.catalog.metric import Metric


class SemCKDParams(StagesParams):
    """Parameters of SemCKD."""

    weight: float = Field(
        400.0,
        ge=0,
        description="β, the weight of the attended distances. Published for ImageNet: 50.",
    )
    kd_weight: float = Field(1.0, ge=0, description="Weight of T²·KL(teacher ‖ student) of the logits.")
    temperature: float = Field(4.0, gt=0, le=100, description="Temperature of KD.")


METHODS.add(
    MethodEntry(
        name="semckd",
        title="SemCKD",
        aliases=("semantic_calibration",),
        summary="Squared distances between each stage of the student and all stages of the teacher, weighted by "
        "attention for each sample.",
        target="core.distill.features.semckd:SemCKD",
        params=SemCKDParams,
        source="Chen et al. 2021, arXiv 2012.03236",
        family="features",
        taps=stages_of,
        layers="maps",
        weight_params={"ce": "ce_weight", "kd": "kd_weight", "semckd": "weight"},
        metrics=(
            CE_TERM,
            KD_TERM,
            Metric("train/semckd", "SemCKD term (attended squared distance), unweighted", panel="Term of SemCKD"),
        ),
        cost="The teacher's forward pass in every step, and three convolutions for every stage of the student with "
        "every stage of the teacher, which have twice the teacher's channels.",
    )
)
