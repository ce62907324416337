"""MGD: the teacher's map is generated from a masked map of the student."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import LayersParams, OneOrSeveral, equal_sizes, layers_of
from core.catalog.metric import Metric
from core.catalog.taps import LAST_STAGE, STAGES


class MGDParams(LayersParams):
    """Parameters of MGD."""

    weight: float = Field(
        7e-5,
        ge=0,
        description="α, the weight of the summed squared distance of an image's maps. Published: 5e-7 for two-stage "
        "detectors, 2e-5 for one-stage detectors.",
    )
    masked: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="λ, the probability that a channel or a position of an image is masked. Published: 0.45 for "
        "two-stage detectors, 0.65 for one-stage detectors.",
    )
    mask: Literal["channels", "positions"] = Field(
        "channels",
        description="What is masked. channels: as in classification. positions: all channels of a position, as in "
        "detection and segmentation.",
    )
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    student_tap: OneOrSeveral = Field(
        LAST_STAGE, description="Layer of the student, or several, as stages or as a list."
    )
    teacher_tap: OneOrSeveral = Field(
        LAST_STAGE,
        description="Layer of the teacher. Of several layers, the deepest of both networks are a pair, and so on "
        "backwards.",
    )

    @model_serializer(mode="wrap")
    def _without_the_usual_mask(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was added later, so that trainings of before keep their fingerprints."""
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name != "mask" or value != "channels"}


METHODS.add(
    MethodEntry(
        name="mgd",
        title="MGD",
        aliases=("masked_generative_distillation",),
        summary="The teacher's map is generated from the student's, of which random channels or positions are masked.",
        target="core.distill.features.mgd:MGD",
        params=MGDParams,
        source="Yang et al. 2022, arXiv 2205.01529",
        family="features",
        taps=layers_of,
        layers="maps",
        joins=equal_sizes,
        reads_maps_alone=True,
        task_params={
            "detection": {
                "weight": 5e-7,
                "masked": 0.45,
                "mask": "positions",
                "student_tap": STAGES,
                "teacher_tap": STAGES,
            }
        },
        weight_params={"ce": "ce_weight", "mgd": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/mgd", "MGD term (squared distance of an image), unweighted", panel="Term of MGD"),
        ),
        cost="The teacher's forward pass in every step, and two 3×3 convolutions with the teacher's channels for "
        "each layer.",
    )
)
