"""DKD-Align: w_CE·CE + r(e)·[α·TCKD + β·NCKD − ε·d(e)·A], where A is the distance of two gradients.

The gradients are those of TCKD and NCKD with respect to the student's logits. The distance is subtracted, so it is
*maximised*: the term pushes the two gradients apart, and with them the student away from the teacher.
With ``sign: added`` it is minimised instead, as a control.
"""

from __future__ import annotations

from core.catalog.methods import DKDAlignParams
from core.distill.logits.alignment import subtract
from core.distill.logits.decoupled_gradients import diagnostics_of
from core.distill.logits.dkd import decouple, ramp, weighted_terms
from core.distill.rows import Rows
from core.distill.terms import LossTerms, compose


def dkd_align_loss(batch: Rows, params: DKDAlignParams, epoch: int | None) -> LossTerms:
    """Return DKD-Align with its cross-entropy, ramp and decay."""
    parts, pull_back = decouple(batch, params)
    weighted = weighted_terms(batch, parts, params, epoch, pull_back)
    term = pull_back(parts.alignment(params.reduction, params.log_floor))
    epsilon = subtract(
        weighted,
        term,
        epsilon=params.epsilon,
        epsilon_share=params.epsilon_share,
        decay=params.decay ** (epoch or 0),
        ramp=ramp(params, epoch),
        added=params.sign == "added",
    )
    return compose(batch, {"epsilon": epsilon}, weighted, diagnostics_of(parts, batch))
