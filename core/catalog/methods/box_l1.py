"""Box L1: the student moves boxes as the teacher does."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.boxes import BOX_PANEL, MEAN_OVER, BoxParams, MeanOver
from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric


class BoxL1Params(BoxParams):
    """Parameters of Box L1."""

    weight: float = Field(1.0, ge=0, description="Weight of the distance to the teacher's boxes.")
    beta: float = Field(
        1 / 9,
        gt=0,
        description="The distance is quadratic for differences of an offset up to this value, and linear above it. "
        "torchvision uses 1/9 in the detector's own box loss.",
    )
    mean_over: MeanOver = Field("foreground", description=MEAN_OVER)


METHODS.add(
    MethodEntry(
        name="box_l1",
        title="Box L1",
        aliases=("box_regression_kd", "smooth_l1_boxes"),
        summary="Smooth L1 distance between the student's and the teacher's box offsets, for boxes of objects.",
        target="core.distill.boxes:BoxL1",
        params=BoxL1Params,
        source="Girshick 2015, arXiv 1504.08083 (the distance), with the teacher's offsets as the target",
        family="boxes",
        tasks=("detection",),
        reads_offsets=True,
        weight_params={"ce": "ce_weight", "box_l1": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/box_l1", "Distance to the teacher's boxes, unweighted", "", "lower", panel=BOX_PANEL),
        ),
        cost="The teacher's boxes, which its head computes together with its logits.",
    )
)
