"""DKD: KD split into a target and a non-target part."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.entry import COMPARES_NON_TARGETS, METHODS, ClassesNeeded, MethodEntry
from core.catalog.methods.shared import DECOUPLED_METRICS, SIMILARITY, STANDARDISE, DecoupledParams, decoupled_warnings


class DKDParams(DecoupledParams):
    """Parameters of DKD."""

    standardise: bool = Field(False, description=STANDARDISE + " That paper uses T = 2, and α and β times 9.")


def _classes_needed(params: DKDParams) -> ClassesNeeded:
    if params.beta:
        remedy = "with beta: 0 it is TCKD alone, which two classes are enough for"
        return ClassesNeeded(3, COMPARES_NON_TARGETS, remedy="" if params.standardise else remedy)
    if params.standardise:  # of two logits, standardisation keeps nothing but which is larger
        reason = "with standardise compares how far apart several logits are"
        return ClassesNeeded(3, reason, field="standardise")
    return ClassesNeeded(2, "compares the target class with the others")


METHODS.add(
    MethodEntry(
        name="dkd",
        title="DKD",
        aliases=("decoupled_kd",),
        summary="KD split into a target part (TCKD) and a non-target part (NCKD) with separate weights.",
        family="decoupled",
        target="core.distill.logits.dkd:dkd_loss",
        reads_rows_alone=True,
        params=DKDParams,
        source="Zhao et al., CVPR 2022, arXiv 2203.08679",
        # mdistiller, detection/config.py and configs/DKD: α = 1, β = 0.25, T = 1 for every pair, without a ramp.
        task_params={"detection": {"beta": 0.25, "temperature": 1.0, "ramp_epochs": 0}},
        min_classes=3,
        classes_needed=_classes_needed,
        weight_params={"ce": "ce_weight", "tckd": "alpha", "nckd": "beta"},
        metrics=DECOUPLED_METRICS,
        companion=SIMILARITY.name,
        warnings=decoupled_warnings,
        color="#0072B2",
        cost="The teacher's logits, and one pass over the batch's logits for both parts.",
    )
)
