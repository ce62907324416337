"""AB: the student's neurons are on the same side of their activation boundary as the teacher's."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from core.catalog.methods.entry import METHODS, FirstStage, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM, init_epochs_field
from core.catalog.methods.tapped import Names, resizable, stages_of
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import PREACTIVATION, STAGES, TapShapes


class ABParams(Params):
    """Parameters of AB."""

    init_epochs: int = init_epochs_field("which trains the student's stages by their activation boundaries alone")
    weight: float = Field(1.0, gt=0, description="Weight of the first stage's loss.")
    margin: float = Field(
        1.0,
        gt=0,
        description="μ, the distance from the boundary beyond which a neuron adds nothing to the loss.",
    )
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels, in the second stage.")
    student_taps: Names = Field(
        (STAGES + PREACTIVATION,), min_length=1, description="Layers of the student, before their activation."
    )
    teacher_taps: Names = Field(
        (STAGES + PREACTIVATION,), min_length=1, description="Layers of the teacher, before their activation."
    )


def _joins(params: ABParams, student: TapShapes, teacher: TapShapes) -> Iterator[SpecWarning]:
    return resizable(student, teacher, "student_taps")


METHODS.add(
    MethodEntry(
        name="ab",
        title="AB",
        aliases=("activation_boundaries",),
        summary="In a first stage, the student's neurons learn on which side of their activation boundary the "
        "teacher's are; then the student is trained on the labels.",
        target="core.distill.features.ab:AB",
        params=ABParams,
        source="Heo et al. 2019, arXiv 1811.03233",
        family="two_stage",
        taps=stages_of,
        layers="maps",
        joins=_joins,
        weight_params={"ab": "weight", "ce": "ce_weight"},
        first_stage=FirstStage("init_epochs", "ab"),
        metrics=(
            CE_TERM,
            Metric("train/ab", "AB term (activation boundaries), unweighted", panel="Term of AB"),
        ),
        cost="The teacher's forward pass in every step; in the first stage also a convolution for each stage whose "
        "shape differs.",
    )
)
