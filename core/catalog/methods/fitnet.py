"""FitNet: the student's map at one layer or several, through a regressor, is the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, FirstStage, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import LayersParams, OneOrSeveral, layers_of, resizable
from core.catalog.metric import Metric
from core.catalog.taps import STAGES, TapShapes


class FitNetParams(LayersParams):
    """Parameters of FitNet."""

    weight: float = Field(100.0, ge=0, description="Weight of the hint, the mean squared distance of the two maps.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    student_tap: OneOrSeveral = Field(
        "stage2",
        description="Layer of the student that is trained to match. Several layers, as stages or as a list, have a "
        "regressor each.",
    )
    teacher_tap: OneOrSeveral = Field(
        "stage2",
        description="Layer of the teacher that gives the hint. Of several layers, the deepest of both networks are a "
        "pair, and so on backwards.",
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the regressor is a convolution without padding and ReLU. public_code: batch norm is "
        "between the two, and the stride is 2 if one map is twice the size of the other, as in RepDistiller and "
        "mdistiller.",
    )
    hint_epochs: int = Field(
        0,
        ge=0,
        description="Epochs of a first stage with the hint alone, after which the loss has no hint; if KD is added, "
        "this is the paper's training. 0: every epoch has both hint and cross-entropy, as in all published tables.",
    )


def _joins(params: FitNetParams, student: TapShapes, teacher: TapShapes) -> Iterator[SpecWarning]:
    return resizable(student, teacher, "student_tap", doubles=params.variant == "public_code")


METHODS.add(
    MethodEntry(
        name="fitnet",
        title="FitNet",
        aliases=("hint", "fitnets"),
        summary="Squared distance between the teacher's map at one layer and the student's, transformed by a "
        "convolution.",
        target="core.distill.features.fitnet:FitNet",
        params=FitNetParams,
        source="Romero et al. 2015, arXiv 1412.6550",
        family="features",
        taps=layers_of,
        layers="maps",
        joins=_joins,
        reads_maps_alone=True,
        task_params={"detection": {"student_tap": STAGES, "teacher_tap": STAGES}},
        # With the weight of 100 the hint was 99.9 % of the loss on scenes of digits, and the student lost 27 points.
        task_shares={"detection": {"fitnet": 0.1}},
        weight_params={"ce": "ce_weight", "fitnet": "weight"},
        first_stage=FirstStage("hint_epochs", "fitnet"),
        metrics=(
            CE_TERM,
            Metric("train/fitnet", "FitNet's hint (mean squared distance), unweighted", panel="Term of FitNet"),
        ),
        published={"variant": "public_code"},
        cost="The teacher's forward pass in every step, and one convolution on the student's map of each layer.",
    )
)
