"""DeepKD (Huang et al. 2025): w_CE·CE + r(e)·[α·TCKD + β·NCKD over the teacher's top classes].

The terms are DKD's. NCKD compares the K non-target classes with the teacher's largest logits, of both networks: the
dynamic top-k mask. K grows in two phases with a constant one between them, from 5 % of the classes to all. The epochs
of the phases, and 55 % of the classes between them, could not be checked against the paper, so they are parameters.
What DeepKD is about are the momenta of the three gradients, which are no part of the loss: see
``core.catalog.methods.deepkd``.

The authors' code (haiduo/DeepKD) differs in three places, which ``variant: public_code`` follows:

- Its momentum of the task's gradient is never used: a parameter that TCKD reaches too, which is every parameter, has
  that of TCKD.
- Its mask does not change over the epochs, and no configuration for CIFAR-100 has one.
- The mask takes the top K of all classes and then leaves out the target, so that K − 1 classes are compared where the
  target is among them.

It adds the weight decay to TCKD's gradient, and so do both variants. It takes the weights for that after the other two
gradients have moved them; here all three gradients see the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.catalog.methods.deepkd import DeepKDParams
from core.distill.logits.alignment import RowTerm, Weighted, with_alignment
from core.distill.logits.dkd import decouple, least_classes, ramp
from core.distill.logits.partition import Partition, within_members
from core.distill.logits.standardisation import StandardisedLogits
from core.distill.rows import Rows
from core.distill.terms import LossTerms, label_term


def deepkd_loss(batch: Rows, params: DeepKDParams, epoch: int | None) -> LossTerms:
    """Return DeepKD's three terms with their weights. With β = 0 two classes are enough, as for DKD."""
    parts, pull_back = decouple(batch, params, least_classes(params))
    members = top_classes(batch, params, epoch)
    inputs = StandardisedLogits(batch).batch if params.standardise else batch
    nckd = parts.nckd() if members is None else _of_members(inputs, params, members).mean(batch)
    r = ramp(params, epoch)
    weighted: Weighted = {
        "ce": (params.ce_weight, label_term(batch)),
        "tckd": (r * params.alpha, pull_back(parts.tckd())),
        "nckd": (r * params.beta, pull_back(nckd)),
    }
    return with_alignment(batch, weighted, params, epoch, lambda: _pair(inputs, params, members), r, pull_back)


def _of_members(inputs: Rows, params: DeepKDParams, members: Tensor) -> RowTerm:
    return within_members(inputs, params.temperature, members)


def _pair(inputs: Rows, params: DeepKDParams, members: Tensor | None) -> tuple[RowTerm, RowTerm]:
    """Return TCKD and NCKD of each row, for the alignment term."""
    partition = Partition(inputs, params.temperature, (inputs.label.unsqueeze(1),))
    nckd = partition.within(1) if members is None else _of_members(inputs, params, members)
    return partition.between(), nckd


def top_classes(batch: Rows, params: DeepKDParams, epoch: int | None) -> Tensor | None:
    """Return the non-target classes that NCKD compares (R, C), bool; None if it compares all.

    Args:
        batch: the rows.
        params: decide the number of classes.
        epoch: counted from 0; None is after every schedule.
    """
    classes = batch.student.shape[1]
    count = max(1, round(params.share_of_classes(epoch) * classes))
    if count >= classes - 1 and params.kind != "static":
        return None
    target, ranked = batch.label.unsqueeze(1), batch.teacher32
    if params.variant == "paper":
        ranked = ranked.scatter(1, target, -torch.inf)
        count = min(count, classes - 1)
    members = torch.zeros_like(ranked, dtype=torch.bool).scatter_(1, ranked.topk(count, dim=1).indices, True)
    return members.scatter_(1, target, False)
