"""ReviewKD: every stage of the teacher is compared with the student's same and deeper stages."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM, unfinished_ramp
from core.catalog.methods.tapped import Names, stages_of
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import FEATURES, PREACTIVATION, STAGES


class ReviewKDParams(Params):
    """Parameters of ReviewKD."""

    weight: float = Field(
        5.0,
        ge=0,
        description="Weight of the distance. The authors' values for CIFAR-100: 8 for resnet32x4 to shufflenet_v2, 0.6 "
        "for resnet56 to resnet20, 1 for resnet110 to resnet32, otherwise 5. For ImageNet: 1 for ResNet-34 to "
        "ResNet-18, 8 for ResNet-50 to MobileNetV1. For Faster R-CNN: 1 for ResNet-101 to ResNet-50, 1.2 for "
        "ResNet-101 to ResNet-18, 2 for ResNet-50 to MobileNetV2.",
    )
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    ramp_epochs: int = Field(
        20, ge=0, description="Epochs over which the weight grows linearly: min(e / ramp, 1), e from 0. 0: no ramp."
    )
    mid_channels: int = Field(
        512, ge=1, description="Channels of the fused maps, or those of the student's features if these are fewer."
    )
    student_taps: Names = Field(
        (STAGES, FEATURES), min_length=1, description="Layers of the student. ImageNet: before their activation."
    )
    teacher_taps: Names = Field((STAGES + PREACTIVATION, FEATURES), min_length=1, description="Layers of the teacher.")


def _warnings(params: ReviewKDParams, context: MethodContext) -> Iterator[SpecWarning]:
    yield from unfinished_ramp(params.ramp_epochs, 0, context)


METHODS.add(
    MethodEntry(
        name="reviewkd",
        title="ReviewKD",
        aliases=("review", "knowledge_review"),
        summary="Each stage of the teacher is compared with the student's same and deeper stages, fused by attention.",
        target="core.distill.features.reviewkd:ReviewKD",
        params=ReviewKDParams,
        source="Chen et al. 2021, arXiv 2104.09044",
        family="features",
        taps=stages_of,
        reads_maps_alone=True,
        task_params={
            "detection": {
                "weight": 1.0,
                "ramp_epochs": 0,
                "mid_channels": 256,
                "student_taps": [STAGES],
                "teacher_taps": [STAGES],
            }
        },
        weight_params={"ce": "ce_weight", "reviewkd": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/reviewkd", "ReviewKD term (hierarchical distance), unweighted", panel="Term of ReviewKD"),
        ),
        warnings=_warnings,
        cost="The teacher's forward pass in every step, and a 1×1 and a 3×3 convolution for each stage, the second on "
        "maps of the teacher's size: for small students more than the student itself.",
    )
)
