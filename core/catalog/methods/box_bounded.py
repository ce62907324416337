"""Bounded boxes: the student's boxes are trained on only where the teacher's are nearer to the objects."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.boxes import BOX_PANEL, MEAN_OVER, BoxParams, MeanOver
from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric


class BoundedBoxParams(BoxParams):
    """Parameters of teacher-bounded regression."""

    weight: float = Field(0.5, ge=0, description="ν, the weight of the squared error.")
    margin: float = Field(
        0.0,
        ge=0,
        description="m, the margin. A box is in the loss until its squared error is smaller than the teacher's by m. "
        "The paper gives no value.",
    )
    mean_over: MeanOver = Field("rows", description=MEAN_OVER + " The paper uses rows.")


METHODS.add(
    MethodEntry(
        name="box_bounded",
        title="Bounded boxes",
        aliases=("teacher_bounded_regression", "bounded_regression"),
        summary="Squared error of the student's boxes, if it is not smaller than the teacher's by a margin.",
        target="core.distill.boxes:BoundedBoxes",
        params=BoundedBoxParams,
        source="Chen et al., NeurIPS 2017, Learning efficient object detection models with knowledge distillation",
        family="boxes",
        tasks=("detection",),
        reads_offsets=True,
        weight_params={"ce": "ce_weight", "box_bounded": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/box_bounded", "Error beyond the teacher's bound, unweighted", "", "lower", panel=BOX_PANEL),
        ),
        cost="The teacher's boxes, which its head computes together with its logits.",
    )
)
