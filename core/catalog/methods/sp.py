"""SP: similarity-preserving distillation."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import FeaturesParams, features_of
from core.catalog.metric import Metric
from core.catalog.taps import LAST_STAGE


class SPParams(FeaturesParams):
    """Parameters of SP."""

    weight: float = Field(3000.0, ge=0, description="γ, the weight of the distance between the similarities.")
    student_tap: str = Field(LAST_STAGE, description="Layer of the student. Maps are read as vectors.")
    teacher_tap: str = Field(LAST_STAGE, description="Layer of the teacher. Maps are read as vectors.")


METHODS.add(
    MethodEntry(
        name="sp",
        title="SP",
        family="relations",
        summary="Inner products of the activations of all pairs of images, which show which images activate a layer "
        "alike.",
        target="core.distill.features.sp:SP",
        params=SPParams,
        source="Tung and Mori, ICCV 2019, arXiv 1907.09682",
        taps=features_of,
        weight_params={"ce": "ce_weight", "sp": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/sp", "Distance of the similarities, unweighted", panel="Terms of SP", from_zero=True),
        ),
        cost="The last maps of the teacher, which are not cached, and the inner products of all pairs of images. No "
        "parameters.",
    )
)
