"""OFD: the student's stages before their ReLU are near the teacher's, where the teacher's are informative."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import Names, stages_of
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import PREACTIVATION, STAGES, split_suffix


class OFDParams(Params):
    """Parameters of OFD."""

    weight: float = Field(
        1e-3,
        ge=0,
        description="Weight of the partial squared distance. Published for ImageNet: 1e-4.",
    )
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    student_taps: Names = Field(
        (STAGES + PREACTIVATION,), min_length=1, description="Layers of the student, before their activation."
    )
    teacher_taps: Names = Field(
        (STAGES + PREACTIVATION,),
        min_length=1,
        description="Layers of the teacher, before their activation. The batch norm before each decides its margin.",
    )


def _problems(params: OFDParams, context: MethodContext) -> Iterator[SpecWarning]:
    for name in params.teacher_taps:
        if not split_suffix(name)[1]:
            text = f"OFD takes its margins from the batch norm before the activation; write {name + PREACTIVATION!r}"
            yield SpecWarning("params.teacher_taps", text)
            return


METHODS.add(
    MethodEntry(
        name="ofd",
        title="OFD",
        aliases=("overhaul",),
        summary="Partial squared distance of the stages before the ReLU: near the teacher's values if these are "
        "positive, else only below a margin.",
        target="core.distill.features.ofd:OFD",
        params=OFDParams,
        source="Heo et al. 2019, arXiv 1904.01866",
        family="features",
        taps=stages_of,
        problems=_problems,
        layers="maps",
        weight_params={"ce": "ce_weight", "ofd": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/ofd", "OFD term (partial squared distance of an image), unweighted", panel="Term of OFD"),
        ),
        cost="The teacher's forward pass in every step, and a 1×1 convolution with batch norm for each stage.",
    )
)
