"""NORM: several copies of the teacher's map in an expansion of the student's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from core.catalog.methods.entry import METHODS, MethodContext, MethodEntry, SpecWarning
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric
from core.catalog.registry import Params
from core.catalog.taps import LAST_MAP, LAST_STAGE, Taps

SCHEDULES: dict[str, tuple[tuple[int, float], ...]] = {
    "cifar": ((0, 0.1), (10, 0.5), (20, 1.0), (180, 0.5), (210, 0.1)),
    "imagenet": ((0, 0.1), (5, 0.5), (15, 0.9), (60, 0.5), (80, 0.1)),
    "constant": ((0, 1.0),),
}
"""By name, the factors of the term, each with the first epoch that has it; epochs are counted from 0."""


class NORMParams(Params):
    """Parameters of NORM."""

    ce_weight: float = Field(
        0.1, ge=0, description="Weight of the cross-entropy with the labels. The authors choose it for each pair."
    )
    weight: float = Field(1.0, ge=0, description="α, the weight of the difference of the maps.")
    copies: int = Field(8, ge=1, le=64, description="N, the number of copies of the teacher's map.")
    schedule: Literal["cifar", "imagenet", "constant"] = Field(
        "cifar",
        description="Factor of the term by epoch. cifar, for 240 epochs: 0.1, from epoch 10 on 0.5, from 20 on 1, "
        "from 180 on 0.5, from 210 on 0.1. imagenet, for 100 epochs: 0.1, from epoch 5 on 0.5, from 15 on 0.9, from "
        "60 on 0.5, from 80 on 0.1.",
    )
    variant: Literal["paper", "public_code"] = Field(
        "paper",
        description="paper: the cross-entropy reads the student's logits. public_code: it reads logits that are "
        "standardised for each sample and multiplied by 2.5, as in the authors' code. The network that is evaluated "
        "returns plain logits, so that its loss and calibration have another scale than in training.",
    )
    student_tap: str = Field(
        LAST_MAP, description="Layer of the student with the maps whose mean over positions its classifier reads."
    )
    teacher_tap: str = Field(LAST_STAGE, description="Layer of the teacher whose maps are imitated.")


def _taps(params: Any) -> Taps:
    return Taps((params.student_tap,), (params.teacher_tap,))


def _warnings(params: NORMParams, context: MethodContext) -> Iterator[SpecWarning]:
    last_change = SCHEDULES[params.schedule][-1][0]
    if context.epochs <= last_change:
        text = (
            f"the schedule {params.schedule} changes the weight up to epoch {last_change}, and the training has "
            f"{context.epochs}; constant does not depend on their number"
        )
        yield SpecWarning("params.schedule", text)


METHODS.add(
    MethodEntry(
        name="norm",
        title="NORM",
        family="features",
        summary="Linear layers expand the student's last maps to N copies of the teacher's, and contract them again. "
        "They are multiplied into the classifier when the training ends.",
        target="core.distill.features.norm:NORM",
        params=NORMParams,
        taps=_taps,
        layers="maps",
        changes_classifier=True,
        source="Liu et al., ICLR 2023, openreview CRNwGauQpb6",
        weight_params={"ce": "ce_weight", "norm": "weight"},
        warnings=_warnings,
        metrics=(
            CE_TERM,
            Metric(
                "train/norm",
                "Squared differences of the expanded maps, unweighted",
                better="lower",
                panel="Terms of NORM",
                from_zero=True,
            ),
        ),
        cost="The teacher runs in every step; two 1×1 convolutions with batch norm, from D to N·T channels and back, "
        "which the evaluated network does not have.",
    )
)
