"""SimKD: the student's features imitate the teacher's, and the teacher's own classifier reads them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import LAST_MAP, LAST_STAGE, Taps


class SimKDParams(Params):
    """Parameters of SimKD."""

    factor: int = Field(
        2,
        ge=1,
        le=64,
        description="Between its convolutions, the projector has the teacher's channels divided by this number. The "
        "paper compares 2, 4 and 8.",
    )
    weight: float = Field(1.0, gt=0, description="Weight of the squared difference of the maps, the only term.")
    teacher_tap: str = Field(
        LAST_MAP,
        description="Layer of the teacher whose maps are imitated. Their mean over positions must be what its "
        "classifier reads.",
    )


def _taps(params: Any) -> Taps:
    return Taps((LAST_STAGE,), (params.teacher_tap,))


METHODS.add(
    MethodEntry(
        name="simkd",
        title="SimKD",
        family="features",
        summary="The student's last maps imitate the teacher's through a projector, and the teacher's frozen "
        "classifier reads them. Projector and classifier stay in the student.",
        target="core.distill.features.simkd:SimKD",
        params=SimKDParams,
        taps=_taps,
        layers="maps",
        changes_classifier=True,
        source="Chen et al., CVPR 2022, arXiv 2203.14001",
        weight_params={"simkd": "weight"},
        metrics=(
            Metric(
                "train/simkd",
                "Squared difference of the maps, unweighted",
                better="lower",
                panel="Terms of SimKD",
                from_zero=True,
            ),
        ),
        cost="The teacher runs in every step. The projector is trained and stays in the student: from D to T channels "
        "it has T/f·(D + 9·T/f + T) weights of convolutions.",
    )
)
