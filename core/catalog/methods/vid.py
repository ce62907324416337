"""VID: the student's stages predict the teacher's, with a variance for each channel."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import StagesParams, stages_of
from core.catalog.metric import Metric


class VIDParams(StagesParams):
    """Parameters of VID."""

    weight: float = Field(1.0, ge=0, description="Weight of the negative log-likelihood of the teacher's maps.")
    initial_variance: float = Field(5.0, gt=1e-5, le=1000, description="The variance of every channel at the start.")
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the variances are trained. public_code: they keep their initial value, as in mdistiller, "
        "whose optimiser does not contain them.",
    )


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
        taps=stages_of,
        layers="maps",
        weight_params={"ce": "ce_weight", "vid": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/vid", "VID's negative log-likelihood, unweighted", "nats", panel="Term of VID"),
        ),
        cost="The teacher's forward pass in every step, and three 1×1 convolutions for each pair of stages.",
    )
)
