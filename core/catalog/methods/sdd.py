"""SDD: KD, DKD and NKD on the logits of regions of each image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from core.catalog.methods.alignment import (
    ALIGN_METRICS,
    ALIGN_SHARE,
    ALIGN_SWITCH,
    ALIGN_WEIGHT,
    AlignmentParams,
    alignment_warnings,
)
from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM, SIMILARITY, unfinished_ramp
from core.catalog.metric import LOSS_PANEL, Metric
from core.catalog.registry import Params
from core.catalog.taps import Taps, regions_tap

_SOURCE = "Wei et al., CVPR 2024, arXiv 2403.13512"
_COST = (
    "The teacher in every step, and {} over the logits of all regions: 5 for each image with grids of 1 and 2, 21 with "
    "1, 2 and 4."
)


class RegionParams(Params):
    """Parameters that the methods on regions share."""

    grids: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field(
        (1, 2),
        min_length=1,
        max_length=8,
        description="Cells along a side of each grid that divides the last map into regions; 1 is the whole image. The "
        "published experiments use 1, 2 for networks of one family and 1, 2, 4 for others.",
    )
    complementary: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="β, the weight of a region for which the teacher is right although it is wrong for the whole "
        "image, or the reverse. Other regions have the weight 1.",
    )
    temperature: float = Field(4.0, gt=0, le=100, description="T, the temperature of both softened distributions.")

    @model_validator(mode="after")
    def _whole_image_first(self) -> Self:
        if self.grids[0] != 1 or any(a >= b for a, b in zip(self.grids, self.grids[1:], strict=False)):
            raise ValueError("grids should begin with 1, the whole image, and increase")
        return self


class SDKDParams(RegionParams):
    """Parameters of SD-KD."""

    ce_weight: float = Field(0.1, ge=0, description="Weight of the cross-entropy with the labels.")
    kd_weight: float = Field(0.9, ge=0, description="Weight of T²·KL(teacher ‖ student) of the regions.")


class SDDKDParams(RegionParams, AlignmentParams):
    """Parameters of SD-DKD."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    alpha: float = Field(1.0, ge=0, description="α, the weight of the regions' TCKD.")
    beta: float = Field(8.0, ge=0, description="β of DKD, the weight of the regions' NCKD.")
    ramp_epochs: int = Field(20, ge=0, description="As for dkd: the distillation terms grow over these epochs.")


class SDNKDParams(RegionParams, AlignmentParams):
    """Parameters of SD-NKD."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    target_weight: float = Field(1.0, ge=0, description="Weight of the regions' soft label for the target class.")
    gamma: float = Field(8.0, ge=0, description="γ, the weight of the regions' non-target part.")
    ramp_epochs: int = Field(20, ge=0, description="As for dkd: the distillation terms grow over these epochs.")
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the non-target part has the classes except the target. public_code: it has all classes, "
        "including the target.",
    )


def _taps(params: Any) -> Taps:
    tap = regions_tap(params.grids)
    return Taps((tap,), (tap,))


def _warnings(params: SDDKDParams | SDNKDParams, context: MethodContext) -> Iterator[SpecWarning]:
    yield from unfinished_ramp(params.ramp_epochs, 1, context)
    least_weight = None
    if isinstance(params, SDDKDParams) and params.align != "batch" and not params.align_log_floor:
        # The bounds of the others contain the number of regions of a batch, and not that of its images.
        least_weight = min(params.alpha, params.beta)
    yield from alignment_warnings(
        params, context, parts="α·TCKD + β·NCKD", least_weight=least_weight, ramp_epochs=params.ramp_epochs
    )


METHODS.add(
    MethodEntry(
        name="sd_kd",
        title="SD-KD",
        aliases=("sdd_kd", "sdd", "scale_decoupled_distillation"),
        summary="KD on the logits of regions of each image, with more weight on a region if the teacher is right only "
        "there or only on the whole image.",
        target="core.distill.features.sdd:SDKD",
        params=SDKDParams,
        taps=_taps,
        source=_SOURCE,
        weight_params={"ce": "ce_weight", "kd": "kd_weight"},
        metrics=(CE_TERM, Metric("train/kd", "KD term, unweighted", "nats", panel=LOSS_PANEL)),
        cost=_COST.format("two softmax"),
    )
)
METHODS.add(
    MethodEntry(
        name="sd_dkd",
        title="SD-DKD",
        aliases=("sdd_dkd",),
        summary="DKD on the logits of regions of each image, with more weight on a region if the teacher is right "
        "only there or only on the whole image.",
        family="decoupled",
        target="core.distill.features.sdd:SDDKD",
        params=SDDKDParams,
        taps=_taps,
        source=_SOURCE,
        min_classes=3,
        weight_params={"ce": "ce_weight", "tckd": "alpha", "nckd": "beta"} | ALIGN_WEIGHT,
        share_params=ALIGN_SHARE,
        switches=ALIGN_SWITCH,
        metrics=(
            CE_TERM,
            Metric("train/tckd", "TCKD term, unweighted", "nats", panel=LOSS_PANEL),
            Metric("train/nckd", "NCKD term, unweighted", "nats", panel=LOSS_PANEL),
            SIMILARITY,
            *ALIGN_METRICS,
        ),
        warnings=_warnings,
        cost=_COST.format("one pass of DKD"),
    )
)
METHODS.add(
    MethodEntry(
        name="sd_nkd",
        title="SD-NKD",
        aliases=("sdd_nkd",),
        summary="NKD on the logits of regions of each image, with more weight on a region if the teacher is right "
        "only there or only on the whole image.",
        family="decoupled",
        target="core.distill.features.sdd:SDNKD",
        params=SDNKDParams,
        taps=_taps,
        source=_SOURCE,
        min_classes=3,
        weight_params={"ce": "ce_weight", "target": "target_weight", "non_target": "gamma"} | ALIGN_WEIGHT,
        share_params=ALIGN_SHARE,
        switches=ALIGN_SWITCH,
        metrics=(
            CE_TERM,
            Metric("train/target", "NKD's target term, unweighted", "nats", panel="Terms of NKD"),
            Metric("train/non_target", "NKD's non-target term, unweighted", "nats", panel="Terms of NKD"),
            SIMILARITY,
            *ALIGN_METRICS,
        ),
        warnings=_warnings,
        cost=_COST.format("two passes of NKD"),
    )
)
