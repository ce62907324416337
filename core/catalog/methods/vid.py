"""VID: the student's stages predict the teacher's, with a variance for each channel."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import STAGES, Taps


class VIDParams(Params):
    """Parameters of VID."""

    weight: float = Field(1.0, ge=0, description="Weight of the negative log-likelihood of the teacher's maps.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    initial_variance: float = Field(5.0, gt=1e-5, le=1000, description="The variance of every channel at the start.")
    student_taps: tuple[str, ...] = Field((STAGES,), min_length=1, description="Layers of the student.")
    teacher_taps: tuple[str, ...] = Field((STAGES,), min_length=1, description="Layers of the teacher.")
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the variances are trained. public_code: they stay at their first value, as in mdistiller, "
        "where they are in no module and so in no optimiser.",
    )


def _taps(params: Any) -> Taps:
    return Taps(params.student_taps, params.teacher_taps)


METHODS.add(
    MethodEntry(
        name="vid",
        title="VID",
        aliases=("variational_information_distillation",),
        summary="The student's stages predict the teacher's as Gaussians, which bounds their mutual information.",
        target="core.distill.features.vid:VID",
        params=VIDParams,
        source="Ahn et al. 2019, arXiv 1904.05835",
        family="features",
        taps=_taps,
        weight_params={"ce": "ce_weight", "vid": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/vid", "VID's negative log-likelihood, unweighted", "nats", panel="Term of VID"),
        ),
        cost="The teacher's forward pass in every step, and three 1×1 convolutions for each pair of stages.",
    )
)
