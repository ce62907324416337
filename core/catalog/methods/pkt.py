"""PKT: probabilistic knowledge transfer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import FeaturesParams, features_of
from core.catalog.metric import Metric

_WEIGHTS = {"paper": 30000 / 64**2, "public_code": 30000.0}
"""The paper gives no weight. 30000 is that of RepDistiller and mdistiller for a mean over pairs in batches of 64."""


class PKTParams(FeaturesParams):
    """Parameters of PKT."""

    weight: float | None = Field(
        None,
        ge=0,
        description="Weight of the divergence. The default depends on variant: the published 30000 for public_code, "
        "and 30000/64² ≈ 7.3 for paper, which has the same strength in batches of 64.",
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the sum over all pairs of different samples. public_code: the mean over all pairs, "
        "including each sample with itself.",
    )

    @property
    def strength(self) -> float:
        """The weight of the divergence."""
        return _WEIGHTS[self.variant] if self.weight is None else self.weight


METHODS.add(
    MethodEntry(
        name="pkt",
        title="PKT",
        family="relations",
        summary="The probability that a sample has another one as its neighbour, by the cosines of the features.",
        target="core.distill.features.pkt:PKT",
        params=PKTParams,
        source="Passalis and Tefas, ECCV 2018, arXiv 1803.10837",
        taps=features_of,
        weight_params={"ce": "ce_weight", "pkt": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/pkt", "Divergence of the neighbourhoods, unweighted", panel="Terms of PKT", from_zero=True),
        ),
        cost="The features of the teacher, which are cached, and the cosines of all pairs of images. No parameters.",
    )
)
