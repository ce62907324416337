"""Cross-entropy alone, which the other methods are measured against and teachers are trained by."""

from __future__ import annotations

from core.catalog.methods.entry import METHODS, MethodEntry
from core.catalog.methods.shared import CE_TERM

CE = METHODS.add(
    MethodEntry(
        name="ce",
        title="CE",
        aliases=("cross_entropy", "vanilla", "scratch", "baseline"),
        summary="Cross-entropy with the labels only, without a teacher.",
        family="labels",
        target="core.distill.logits.ce:ce_loss",
        reads_rows_alone=True,
        needs_teacher=False,
        metrics=(CE_TERM,),
        color="#56B4E9",
        cost="Nothing: it is the cross-entropy.",
    )
)

TEACHER_METHOD = CE.name
"""Name of the method that trains teachers."""
