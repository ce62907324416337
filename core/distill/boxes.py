"""Methods that compare how a detector moves the boxes of objects.

A row is a box that was matched with an object of class c, or with none. Of its offsets (C, 4) only the four of class c
are compared, in the units of the box coder that both networks share: d of the student, D of the teacher, and y of the
object. Rows of background have no part.

    box_l1       L = w_CE·CE + w·(1/N)·Σ_r Σ_k h(d_rk − D_rk) ,   h(x) = x²/2β if |x| < β, else |x| − β/2
    box_bounded  L = w_CE·CE + ν·(1/N)·Σ_r b_r ,   b_r = ‖d_r − y_r‖² if ‖d_r − y_r‖² + m > ‖D_r − y_r‖², else 0

The second is the teacher-bounded regression of Chen et al. 2017 (equation 4), which the paper adds to the detector's
own box loss with ν = ½: a box counts until it is nearer to its object than the teacher's by the margin m. With weights
of rows, the sum is Σ w·x, and N is Σ w over the rows of objects (``mean_over: foreground``) or over all rows
(``rows``), as in the paper and in the detector's own box loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.box_bounded import BoundedBoxParams
from core.catalog.methods.box_l1 import BoxL1Params
from core.catalog.methods.boxes import MeanOver
from core.distill.features.common import present, sum_of_parts
from core.distill.objective import Objective, ObjectiveError, Outputs, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms


class BoxL1(Objective):
    """CE plus the weighted smooth L1 distance to the teacher's offsets."""

    scope = "batch"  # a mean over some of the rows

    def __init__(self, params: BoxL1Params, setting: Setting) -> None:
        super().__init__()
        self._params = params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step.

        Raises:
            ObjectiveError: The rows are no boxes.
        """
        params, rows = self._params, step.rows
        student, teacher = offsets_of_label(rows, step.student), offsets_of_label(rows, step.teacher).detach()
        distance = F.smooth_l1_loss(student, teacher, beta=params.beta, reduction="none").sum(1)
        term = over_objects(rows, distance, params.mean_over)
        return sum_of_parts(rows, params.ce_weight, {"box_l1": (params.weight, term)})


class BoundedBoxes(Objective):
    """CE plus the weighted squared error of the boxes that are not better than the teacher's by a margin."""

    scope = "batch"  # a mean over some of the rows

    def __init__(self, params: BoundedBoxParams, setting: Setting) -> None:
        super().__init__()
        self._params = params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step.

        Raises:
            ObjectiveError: The rows are no boxes.
        """
        params, rows = self._params, step.rows
        if step.offset_target is None:
            raise ObjectiveError("this method reads the boxes of objects, and the task has none")
        target = present(rows, step.offset_target)
        student, teacher = (
            (offsets_of_label(rows, outputs) - target).square().sum(1) for outputs in (step.student, step.teacher)
        )
        counted = torch.where(student.detach() + params.margin > teacher.detach(), student, 0.0)
        term = over_objects(rows, counted, params.mean_over)
        return sum_of_parts(rows, params.ce_weight, {"box_bounded": (params.weight, term)})


def offsets_of_label(rows: Rows, outputs: Outputs | None) -> Tensor:
    """Return the offsets (R, 4) of the labelled class of each row, with zeros in rows of weight 0.

    Raises:
        ObjectiveError: The rows are no boxes.
    """
    if outputs is None or outputs.offsets is None:
        raise ObjectiveError("this method reads the offsets of boxes, and the task has none")
    number = torch.arange(len(rows.label), device=rows.label.device)
    return present(rows, outputs.offsets[number, rows.label])


def over_objects(rows: Rows, values: Tensor, mean_over: MeanOver) -> Tensor:
    """Return Σ w·x over the rows of objects, divided by N; 0 without such rows.

    Args:
        rows: The rows.
        values: x (R,).
        mean_over: What N is.
    """
    weight = (rows.label > 0).to(values.dtype)
    if rows.weight32 is not None:
        weight = weight * rows.weight32
    total = weight.sum() if mean_over == "foreground" else rows.total_weight()
    return (weight * values).sum() / torch.where(total > 0, total, 1.0)
