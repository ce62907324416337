"""MLKD: the teacher's predictions for samples, their relations over the batch and those of the classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM, STANDARDISE
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import STRONG_LOGITS, Taps

PUBLIC_TEMPERATURES = 5


class MLKDParams(Params):
    """Parameters of MLKD."""

    temperatures: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        (4.0, 3.0, 5.0, 2.0, 6.0),
        min_length=1,
        max_length=20,
        description="The temperatures. All three levels are compared at each of them.",
    )
    strong_view: bool = Field(
        True,
        description="Also compare a second view of each image, which training.strong_augment makes. It doubles the "
        "images of a step.",
    )
    ce_weight: float = Field(0.1, ge=0, description="Weight of the cross-entropy with the labels, of each view.")
    instance_weight: float = Field(0.9, ge=0, description="Weight of T²·KL(teacher ‖ student).")
    batch_weight: float = Field(0.9, ge=0, description="Weight of the distance of the relations of the samples.")
    class_weight: float = Field(0.9, ge=0, description="Weight of the distance of the relations of the classes.")
    standardise: bool = Field(
        False,
        description=STANDARDISE
        + " It applies to the level of the samples only, as in that paper, which uses weights of 9 and the "
        "temperatures 2, 3, 5, 2, 6.",
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: all three levels of both views. public_code: the batch and class levels of the strong view "
        "are left out, its instance level reads the weak view at the last two temperatures, and the levels of the weak "
        "view are multiplied by about 1/2.",
    )

    @model_validator(mode="after")
    def _five_temperatures(self) -> Self:
        if self.variant == "public_code" and len(self.temperatures) != PUBLIC_TEMPERATURES:
            count = len(self.temperatures)
            raise ValueError(f"variant public_code needs {PUBLIC_TEMPERATURES} temperatures, not {count}")
        return self


def _taps(params: Any) -> Taps:
    return Taps((STRONG_LOGITS,), (STRONG_LOGITS,)) if params.strong_view else Taps()


def _warnings(params: MLKDParams, context: MethodContext) -> Iterator[SpecWarning]:
    if not params.strong_view:
        text = "the published results of MLKD are with a second, strongly augmented view"
        yield SpecWarning("params.strong_view", text)


_PANEL = "Terms of MLKD"

METHODS.add(
    MethodEntry(
        name="mlkd",
        title="MLKD",
        aliases=("mlld", "multi_level_logit_distillation", "kd_ours"),
        summary="Softened predictions, their relations over the batch and over the classes, at several temperatures "
        "and for two views.",
        target="core.distill.logits.mlkd:MLKD",
        reads_rows_alone=True,
        params=MLKDParams,
        taps=_taps,
        source="Jin et al., CVPR 2023",
        weight_params={
            "ce": "ce_weight",
            "instance_level": "instance_weight",
            "batch_level": "batch_weight",
            "class_level": "class_weight",
        },
        metrics=(
            CE_TERM,
            Metric("train/instance_level", "MLKD's distance of predictions, unweighted", "nats", panel=_PANEL),
            Metric("train/batch_level", "MLKD's distance of relations of samples, unweighted", panel=_PANEL),
            Metric("train/class_level", "MLKD's distance of relations of classes, unweighted", panel=_PANEL),
        ),
        warnings=_warnings,
        published={"variant": "public_code"},
        cost="With a strong view, two passes of both networks. At each temperature and for each view, two softmax and "
        "the products of the predictions, (B, B) and (C, C).",
    )
)
