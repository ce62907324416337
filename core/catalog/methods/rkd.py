"""RKD: relational knowledge distillation."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import FeaturesParams, features_of
from core.catalog.metric import Metric


class RKDParams(FeaturesParams):
    """Parameters of RKD."""

    distance_weight: float = Field(25.0, ge=0, description="λ_D, the weight of the distances between two samples.")
    angle_weight: float = Field(50.0, ge=0, description="λ_A, the weight of the angles between three samples.")


_PANEL = "Terms of RKD"

METHODS.add(
    MethodEntry(
        name="rkd",
        title="RKD",
        family="relations",
        summary="Distances between two samples and angles between three, in the space of the features.",
        target="core.distill.features.rkd:RKD",
        params=RKDParams,
        source="Park et al., CVPR 2019, arXiv 1904.05068",
        taps=features_of,
        weight_params={"ce": "ce_weight", "rkd_distance": "distance_weight", "rkd_angle": "angle_weight"},
        metrics=(
            CE_TERM,
            Metric("train/rkd_distance", "RKD's difference of the distances, unweighted", panel=_PANEL, from_zero=True),
            Metric("train/rkd_angle", "RKD's difference of the angles, unweighted", panel=_PANEL, from_zero=True),
        ),
        cost="The features of the teacher, which are cached, the distances of all pairs of images, and the angles of "
        "all B³ triples, a part of them at a time. No parameters.",
    )
)
