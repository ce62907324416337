"""AT: attention maps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import StagesParams, stages_of
from core.catalog.metric import Metric


class ATParams(StagesParams):
    """Parameters of AT."""

    weight: float = Field(1000.0, ge=0, description="β, the weight of the distance between attention maps.")
    power: float = Field(2.0, ge=1, le=16, description="p: attention is the mean of |activation|^p over the channels.")
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: half the distance ‖·‖₂ of the maps, equation 2. public_code: the mean of its square, as in "
        "the code of the authors and of all that follow it. Both are divided by the number of positions.",
    )


METHODS.add(
    MethodEntry(
        name="at",
        title="AT",
        family="features",
        summary="Attention maps of all stages, which show where a stage is active: the mean squared activation, of "
        "norm 1.",
        target="core.distill.features.at:AT",
        reads_maps_alone=True,
        params=ATParams,
        source="Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928",
        taps=stages_of,
        layers="maps",
        weight_params={"ce": "ce_weight", "at": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/at", "Distance of the attention maps, unweighted", panel="Terms of AT", from_zero=True),
        ),
        published={"variant": "public_code"},
        cost="The maps of all stages of the teacher, which are not cached, and a mean over the channels of each. No "
        "parameters.",
    )
)
