"""PKD: standardised maps of both networks, which is the correlation of each channel."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import StagesParams, adapter_field, stages_of
from core.catalog.metric import Metric


class PKDParams(StagesParams):
    """Parameters of PKD."""

    weight: float = Field(
        6.0,
        ge=0,
        description="Weight of the distance at each level. Published: 6 for two-stage detectors, 10 for one-stage "
        "detectors.",
    )
    adapter: bool = adapter_field()


METHODS.add(
    MethodEntry(
        name="pkd",
        title="PKD",
        aliases=("pearson_kd", "pearson_correlation"),
        summary="Correlation of each channel of the student's maps with the teacher's, whatever their mean and scale.",
        target="core.distill.features.pkd:PKD",
        params=PKDParams,
        source="Cao et al. 2022, arXiv 2207.02039",
        family="features",
        taps=stages_of,
        layers="maps",
        reads_maps_alone=True,
        weight_params={"ce": "ce_weight", "pkd": "weight"},
        metrics=(
            CE_TERM,
            Metric(
                "train/pkd", "PKD term (1 − correlation of a channel), unweighted", "", "lower", panel="Term of PKD"
            ),
        ),
        cost="The teacher's forward pass in every step. No parameters if the networks have equal numbers of channels.",
    )
)
