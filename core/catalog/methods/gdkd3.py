"""GDKD3: GDKD with the teacher's first class as a group of its own."""

from __future__ import annotations

from pydantic import Field

from core.catalog.methods.alignment import ALIGN_SHARE, ALIGN_SWITCH
from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.gdkd import GDKD_METRICS, GDKD_WEIGHTS, GDKDParams, gdkd_classes, gdkd_warnings


class GDKD3Params(GDKDParams):
    """Parameters of GDKD3."""

    w1: float = Field(1.0, ge=0, description="w₁, the weight of the divergence within the teacher's classes 2 to k.")
    k: int = Field(4, ge=2, description="k, the number of the teacher's top classes, including its first.")

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """The sizes of the groups of top classes, from the top."""
        return (1, self.k - 1)


METHODS.add(
    MethodEntry(
        name="gdkd3",
        title="GDKD3",
        summary="GDKD with three groups of classes: the teacher's first, its next k − 1, and the rest.",
        family="decoupled",
        target="core.distill.logits.gdkd:gdkd_loss",
        reads_rows_alone=True,
        params=GDKD3Params,
        source="Zheng and Cheng, TNNLS 2025, arXiv 2512.04625",
        min_classes=3,
        classes_needed=gdkd_classes,
        weight_params=GDKD_WEIGHTS,
        share_params=ALIGN_SHARE,
        switches=ALIGN_SWITCH,
        metrics=GDKD_METRICS,
        warnings=gdkd_warnings,
        cost="The teacher's logits and their top k, and one pass over the batch's logits for each of three groups.",
    )
)
