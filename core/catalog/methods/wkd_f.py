"""WKD-F: the Wasserstein distance of Gaussians that are fitted to the maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM
from core.catalog.methods.tapped import resizable
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import LAST_STAGE, Taps, TapShapes


class WKDFParams(Params):
    """Parameters of WKD-F."""

    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels.")
    weight: float = Field(
        0.08,
        ge=0,
        description="Weight of the distance. The default is the authors' value for ResNet-32x4 and ResNet-8x4; for "
        "other pairs they give other values.",
    )
    mean_ratio: float = Field(
        4.0,
        ge=0,
        description="Weight of the means relative to the standard deviations: 4 for ResNet-32x4 and ResNet-8x4, 3 for "
        "WRN-40-2 and ShuffleNetV1, 2 for ImageNet.",
    )
    grid: int = Field(
        1, ge=1, le=32, description="A map is divided into grid × grid parts, each with a Gaussian of its own."
    )
    eps: float = Field(1e-5, gt=0, le=1, description="Added to each variance.")
    decay_start: int | None = Field(
        150, ge=0, description="Epoch from which the weight falls to 0 by half a cosine. None: the weight is constant."
    )
    decay_end: int = Field(240, ge=1, description="Epoch at which the weight reaches 0, if decay_start is given.")
    student_tap: str = Field(LAST_STAGE, description="Layer of the student that the projector reads.")
    teacher_tap: str = Field(LAST_STAGE, description="Layer of the teacher with the maps to imitate.")

    @model_validator(mode="after")
    def _ends_after_start(self) -> WKDFParams:
        if self.decay_start is not None and self.decay_end <= self.decay_start:
            raise ValueError("decay_end must be greater than decay_start")
        return self


def decay(params: WKDFParams, epoch: int) -> float:
    """Return the factor of the distance in an epoch, counted from 0."""
    done = epoch + 1
    if params.decay_start is None or done <= params.decay_start:
        return 1.0
    share = min((done - params.decay_start) / (params.decay_end - params.decay_start), 1.0)
    return 0.5 * (1 + math.cos(math.pi * share))


def _taps(params: Any) -> Taps:
    return Taps((params.student_tap,), (params.teacher_tap,))


def _warnings(params: WKDFParams, context: MethodContext) -> Iterator[SpecWarning]:
    if params.decay_start is not None and (last := decay(params, context.epochs - 1)) > 0.01:
        text = f"the weight falls to 0 at epoch {params.decay_end}; this training ends at {100 * last:.3g} % of it"
        yield SpecWarning("params.decay_end", text)


def _joins(params: WKDFParams, student: TapShapes, teacher: TapShapes) -> Iterator[SpecWarning]:
    return resizable(student, teacher, "student_tap")


METHODS.add(
    MethodEntry(
        name="wkd_f",
        title="WKD-F",
        family="features",
        summary="Wasserstein distance of two Gaussians with the means and the standard deviations of the student's "
        "and of the teacher's maps.",
        target="core.distill.features.wkd_f:WKDF",
        params=WKDFParams,
        taps=_taps,
        layers="maps",
        joins=_joins,
        source="Lv et al., NeurIPS 2024, arXiv 2412.08139",
        weight_params={"ce": "ce_weight", "wkd_f": "weight"},
        warnings=_warnings,
        metrics=(
            CE_TERM,
            Metric(
                "train/wkd_f",
                "Distance of the Gaussians, unweighted",
                better="lower",
                panel="Terms of WKD-F",
                from_zero=True,
            ),
        ),
        cost="The teacher runs in every step; a convolution with batch norm at the student's last stage.",
    )
)
