"""CWD: the softmax over positions of each channel."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import StagesParams, adapter_field, stages_of
from core.catalog.metric import Metric


class CWDParams(StagesParams):
    """Parameters of CWD."""

    weight: float = Field(
        10.0,
        ge=0,
        description="Weight of the divergence at each level. Published: 10 for Faster R-CNN on five levels (mmrazor); "
        "5 for RetinaNet on four (code of the authors).",
    )
    temperature: float = Field(1.0, gt=0, le=100, description="τ, the temperature of the softmax over positions.")
    adapter: bool = adapter_field()


METHODS.add(
    MethodEntry(
        name="cwd",
        title="CWD",
        aliases=("channel_wise_distillation", "channel_wise_kd"),
        summary="Divergence of each channel's softmax over all positions, which shows where in the image the channel "
        "is active.",
        target="core.distill.features.cwd:CWD",
        params=CWDParams,
        source="Shu et al. 2021, arXiv 2011.13256",
        family="features",
        taps=stages_of,
        layers="maps",
        reads_maps_alone=True,
        weight_params={"ce": "ce_weight", "cwd": "weight"},
        metrics=(
            CE_TERM,
            Metric(
                "train/cwd", "CWD term (divergence over positions), unweighted", "nats", "lower", panel="Term of CWD"
            ),
        ),
        cost="The teacher's forward pass in every step, and a softmax of all maps of both networks. No parameters if "
        "the networks have equal numbers of channels.",
    )
)
