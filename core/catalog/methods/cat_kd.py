"""CAT-KD: the class activation maps of the student equal the teacher's."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import LAST_MAP, Taps


class CATKDParams(Params):
    """Parameters of CAT-KD."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    weight: float = Field(
        15.0,
        ge=0,
        description="β, the weight of the difference of the class activation maps. The default is the authors' value "
        "for ResNet-32x4 and ResNet-8x4; for other pairs they give other values.",
    )
    resolution: int = Field(2, ge=1, le=64, description="Side to which the class activation maps are averaged first.")
    normalise: bool = Field(
        False,
        description="Whether each class activation map is scaled to norm 1. The authors scale them if student and "
        "teacher are of different kinds.",
    )
    student_tap: str = Field(
        LAST_MAP, description="Layer of the student with the maps whose mean over positions its classifier reads."
    )
    teacher_tap: str = Field(
        LAST_MAP, description="Layer of the teacher with the maps whose mean over positions its classifier reads."
    )


def _taps(params: Any) -> Taps:
    return Taps((params.student_tap,), (params.teacher_tap,))


METHODS.add(
    MethodEntry(
        name="cat_kd",
        title="CAT-KD",
        family="features",
        summary="Squared difference of the class activation maps, which show where a network sees each class.",
        target="core.distill.features.cat_kd:CATKD",
        params=CATKDParams,
        taps=_taps,
        layers="maps",
        source="Guo et al., CVPR 2023, arXiv 2304.12777",
        weight_params={"ce": "ce_weight", "cat_kd": "weight"},
        metrics=(
            CE_TERM,
            Metric(
                "train/cat_kd",
                "Squared difference of the class activation maps, unweighted",
                better="lower",
                panel="Terms of CAT-KD",
                from_zero=True,
            ),
        ),
        cost="The teacher runs in every step; both classifiers are applied to the averaged last maps. No parameters.",
    )
)
