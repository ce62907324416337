"""GDKD and GDKD3 (Zheng and Cheng 2025): w_CE·CE + r(e)·[w₀·KL(groups) + w₁·KL(top) + w₂·KL(rest)].

All divergences are KL(teacher ‖ student), times T²: between the groups of classes, within the top classes and within
the rest. The groups are those of the teacher: its top k classes and the rest; for GDKD3 its first class, its next k − 1
and the rest, and w₁ belongs to the second. The first group of GDKD3 is one class, within which there is nothing to
compare.

With k = 1, GDKD is DKD for rows on which the teacher is right.
"""

from __future__ import annotations

from core.catalog.methods.gdkd import GDKDParams
from core.catalog.methods.shared import ramp
from core.distill.logits.alignment import Weighted, with_alignment
from core.distill.logits.partition import Partition, top_groups
from core.distill.logits.standardisation import StandardisedLogits
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, label_term


def gdkd_loss(batch: Rows, params: GDKDParams, epoch: int | None) -> LossTerms:
    """Return GDKD or GDKD3 with its cross-entropy and its ramp r(e) = min(e / ramp_epochs, 1), e counted from 1.

    Raises:
        ValueError: The rest of the classes is empty.
    """
    classes = batch.student.shape[1]
    if classes <= params.k:
        raise ValueError(f"the {classes} classes leave no rest beside the teacher's top {params.k}: at least 3 classes")
    r = 1.0 if epoch is None else ramp(epoch, params.ramp_epochs, 1)
    standardised = StandardisedLogits(batch) if params.standardise else None
    inputs = standardised.batch if standardised else batch
    chosen = top_groups(inputs.teacher32, params.group_sizes)
    parts = Partition(inputs, params.temperature, chosen)
    between, top, rest = parts.between(), parts.within(len(chosen) - 1), parts.within(len(chosen))

    def at_raw_logits(term: Term) -> Term:
        return standardised.pull_back(term) if standardised else term

    weighted: Weighted = {
        "ce": (params.ce_weight, label_term(batch)),
        "between": (r * params.w0, at_raw_logits(between.mean(batch))),
        "top": (r * params.w1, at_raw_logits(top.mean(batch))),
        "rest": (r * params.w2, at_raw_logits(rest.mean(batch))),
    }
    pull_back = standardised.pull_back if standardised else None
    return with_alignment(batch, weighted, params, epoch, lambda: (between, top + rest), r, pull_back)
