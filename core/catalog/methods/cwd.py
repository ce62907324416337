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
        description="Weight of the divergence at each level. Of Faster R-CNN 10 on five levels (mmrazor); of RetinaNet "
        "5 on four (code of the authors).",
    )
    temperature: float = Field(1.0, gt=0, le=100, description="τ, the temperature of the softmax over positions.")
    adapter: bool = adapter_field()


METHODS.add(
    MethodEntry(
        name="cwd",
        title="CWD",
        aliases=("channel_wise_distillation", "channel_wise_kd"),
        summary="Where in the image each channel is active: the divergence of its softmax over all positions.",
        target="core.distill.features.cwd:CWD",
        params=CWDParams,
        source="Shu et al. 2021, arXiv 2011.13256",
        family="features",
        taps=stages_of,
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
