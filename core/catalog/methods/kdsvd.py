"""KDSVD: singular vectors of the maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import StagesParams, equal_channels, stages_of
from core.catalog.metric import Metric
from core.catalog.taps import TapShapes


class KDSVDParams(StagesParams):
    """Parameters of KDSVD."""

    weight: float = Field(1.0, ge=0, description="Weight of the distance between the relations of the vectors.")
    vectors: int = Field(
        1,
        ge=1,
        le=64,
        description="k, the number of singular vectors of the teacher. The student has three more, from which the "
        "best matches are chosen.",
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the singular vectors of the map as a matrix (H·W, C), as in RepDistiller. public_code: "
        "those of the matrix (C·H, W), as in mdistiller, which are vectors over the columns of the image.",
    )


def _joins(params: KDSVDParams, student: TapShapes, teacher: TapShapes) -> Iterator[SpecWarning]:
    if params.variant == "paper":
        yield from equal_channels(params, student, teacher)


METHODS.add(
    MethodEntry(
        name="kdsvd",
        title="KDSVD",
        family="relations",
        summary="Relations between the leading singular vectors of the maps of one stage and those of the next.",
        target="core.distill.features.kdsvd:KDSVD",
        params=KDSVDParams,
        source="Lee et al., ECCV 2018, arXiv 1807.06819",
        taps=stages_of,
        layers="maps",
        least_layers=2,
        joins=_joins,
        weight_params={"ce": "ce_weight", "kdsvd": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/kdsvd", "Distance of the relations, unweighted", panel="Terms of KDSVD", from_zero=True),
        ),
        cost="The maps of all stages of the teacher, which are not cached, and an eigendecomposition in float64 of "
        "each map of both networks, which takes most of a step. No parameters.",
    )
)
