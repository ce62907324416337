"""FSP: the flow of the solution procedure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, FirstStage, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import StagesParams, equal_channels, stages_of
from core.catalog.metric import Metric

_WEIGHTS = {"paper": 0.1, "public_code": 50.0}
"""50 is the weight of RepDistiller for a mean. 0.1 ≈ 50/(16·32), for a sum over the elements of a small ResNet's."""


class FSPParams(StagesParams):
    """Parameters of FSP."""

    weight: float | None = Field(
        None,
        ge=0,
        description="λ, the weight of the distance. The default depends on variant: 50 for public_code, as in "
        "RepDistiller; 0.1 for paper, which has about the same strength for stages of 16 and 32 channels. The paper "
        "gives no value.",
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the sum of the squared differences; if two maps differ in size, the larger is reduced by "
        "max pooling. public_code: the mean, and average pooling.",
    )

    init_epochs: int = Field(
        0,
        ge=0,
        description="Epochs of a first stage with the distance alone, after which the loss has no distance, as in the "
        "paper and in RepDistiller (30). 0: every epoch has both terms.",
    )

    @property
    def strength(self) -> float:
        """The weight of the distance."""
        return _WEIGHTS[self.variant] if self.weight is None else self.weight


METHODS.add(
    MethodEntry(
        name="fsp",
        title="FSP",
        family="relations",
        summary="Inner products, over the positions, of the channels of one stage with those of the next.",
        target="core.distill.features.fsp:FSP",
        params=FSPParams,
        source="Yim et al., CVPR 2017",
        taps=stages_of,
        layers="maps",
        least_layers=2,
        joins=equal_channels,
        weight_params={"ce": "ce_weight", "fsp": "weight"},
        first_stage=FirstStage("init_epochs", "fsp"),
        metrics=(
            CE_TERM,
            Metric("train/fsp", "Distance of the FSP matrices, unweighted", panel="Terms of FSP", from_zero=True),
        ),
        cost="The maps of all stages of the teacher, which are not cached, and the products of the channels of "
        "consecutive stages. No parameters. Student and teacher need the same numbers of channels.",
    )
)
