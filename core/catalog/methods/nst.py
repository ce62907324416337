"""NST: neuron selectivity transfer."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import StagesParams, stages_of
from core.catalog.metric import Metric


class NSTParams(StagesParams):
    """Parameters of NST."""

    weight: float = Field(50.0, ge=0, description="Weight of the discrepancy (MMD²) between the channels' maps.")


METHODS.add(
    MethodEntry(
        name="nst",
        title="NST",
        family="relations",
        summary="Maximum mean discrepancy between the student's and the teacher's channels of a stage, as samples of "
        "two distributions.",
        target="core.distill.features.nst:NST",
        params=NSTParams,
        source="Huang and Wang 2017, arXiv 1707.01219",
        taps=stages_of,
        layers="maps",
        weight_params={"ce": "ce_weight", "nst": "weight"},
        metrics=(
            CE_TERM,
            Metric("train/nst", "Discrepancy of the channels (MMD²), unweighted", panel="Terms of NST", from_zero=True),
        ),
        cost="The maps of all stages of the teacher, which are not cached, and products of the channels of each stage, "
        "or of its positions if they are fewer. No parameters.",
    )
)
