"""FGD: focal and global distillation of a detector's maps."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import StagesParams, stages_of
from core.catalog.metric import Metric

_PANEL = "Terms of FGD"


class FGDParams(StagesParams):
    """Parameters of FGD. The defaults are those of Faster R-CNN."""

    foreground_weight: float = Field(
        5e-5,
        ge=0,
        description="α, the weight of the positions in boxes of objects. Published: 1e-3 for RetinaNet, 1.6e-3 "
        "for FCOS.",
    )
    background_weight: float = Field(
        2.5e-5, ge=0, description="β, the weight of the other positions. Published: 5e-4 for RetinaNet, 8e-4 for FCOS."
    )
    attention_weight: float = Field(
        5e-5,
        ge=0,
        description="γ, the weight of the distance of the attentions. Published: 5e-4 for RetinaNet, 8e-4 for FCOS.",
    )
    global_weight: float = Field(
        5e-7,
        ge=0,
        description="λ, the weight of the relation between all positions. Published: 5e-6 for RetinaNet, 8e-6 for "
        "FCOS.",
    )
    temperature: float = Field(
        0.5,
        gt=0,
        le=100,
        description="T, the temperature of the attentions. Published for FCOS: 0.8.",
    )


METHODS.add(
    MethodEntry(
        name="fgd",
        title="FGD",
        aliases=("focal_and_global_distillation",),
        summary="Maps of a detector, weighted by the teacher's attention, objects and background apart, and the "
        "relation between all positions.",
        target="core.distill.features.fgd:FGD",
        params=FGDParams,
        source="Yang et al. 2022, arXiv 2111.11837",
        family="features",
        tasks=("detection",),
        taps=stages_of,
        layers="maps",
        reads_maps_alone=True,
        weight_params={
            "ce": "ce_weight",
            "fgd_fg": "foreground_weight",
            "fgd_bg": "background_weight",
            "fgd_attention": "attention_weight",
            "fgd_global": "global_weight",
        },
        metrics=(
            CE_TERM,
            Metric("train/fgd_fg", "FGD in objects, unweighted", "", "lower", panel=_PANEL),
            Metric("train/fgd_bg", "FGD in the background, unweighted", "", "lower", panel=_PANEL),
            Metric("train/fgd_attention", "FGD of the attentions, unweighted", "", "lower", panel=_PANEL),
            Metric("train/fgd_global", "FGD of the global relation, unweighted", "", "lower", panel=_PANEL),
        ),
        cost="The teacher's forward pass in every step, four 1×1 convolutions on pooled maps and two on maps for each "
        "level, and a 1×1 convolution on maps if the numbers of channels differ.",
    )
)
