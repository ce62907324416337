"""MGD: the teacher's map is generated from a masked map of the student."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import features_of
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import LAST_STAGE


class MGDParams(Params):
    """Parameters of MGD."""

    weight: float = Field(7e-5, ge=0, description="α, the weight of the summed squared distance of an image's maps.")
    masked: float = Field(0.15, ge=0, lt=1, description="λ, the probability that a channel of an image is masked.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    student_tap: str = Field(LAST_STAGE, description="Layer of the student.")
    teacher_tap: str = Field(LAST_STAGE, description="Layer of the teacher.")


METHODS.add(
    MethodEntry(
        name="mgd",
        title="MGD",
        aliases=("masked_generative_distillation",),
        summary="The teacher's last map is generated from the student's, of which random channels are masked.",
        target="core.distill.features.mgd:MGD",
        reads_maps_alone=True,
        params=MGDParams,
        source="Yang et al. 2022, arXiv 2205.01529",
        family="features",
        taps=features_of,
        weight_params={"ce": "ce_weight", "mgd": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/mgd", "MGD term (squared distance of an image), unweighted", panel="Term of MGD"),
        ),
        cost="The teacher's forward pass in every step, and two 3×3 convolutions with the teacher's channels.",
    )
)
