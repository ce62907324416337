"""Comparisons with the repositories of feature methods by their authors."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.parity.checkout import Checkout
from benchmarks.parity.comparison import Comparison, Public, copied
from benchmarks.parity.inputs import BATCH, Inputs
from benchmarks.parity.logits import ABSENT
from benchmarks.parity.mdistiller import CODE, copy_fusions
from benchmarks.parity.networks import Overhauled, settings_of
from core.catalog.taps import FEATURES
from core.distill.features.hashing import uniform


def at(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return AT's loss of all stages, of equal sizes."""
    module = checkout.module("utils", absent={"nested_dict": {"nested_dict": dict}})
    pairs = zip(inputs.student.stages, inputs.teacher.stages, strict=True)
    return Public(1000 * torch.stack([module.at_loss(*pair) for pair in pairs]).sum())


def ofd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return OFD's loss with the weight of its training."""
    kind = checkout.module("distiller", "CIFAR-100").Distiller
    theirs = kind(Overhauled(inputs.teacher), Overhauled(inputs.student))
    pairs = copied(theirs.Connectors, ours.connectors)
    _, loss = theirs(torch.zeros(1))
    return Public(loss / BATCH / 1000, pairs)


class _Deep(nn.Module):
    """A network of ReviewKD's interface."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self._given = inputs.student

    def forward(self, image: Any, is_feat: bool) -> tuple[list[Tensor], Tensor]:
        return [*self._given.stages, _as_map(self._given.outputs[FEATURES])], self._given.outputs["logits"]


def _as_map(features: Tensor) -> Tensor:
    return features.view(*features.shape, 1, 1)


def reviewkd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return ReviewKD's loss with the weight of most pairs."""
    module, config = checkout.module("model.reviewkd", "CIFAR-100"), settings_of(inputs, 1).REVIEWKD
    theirs = module.ReviewKD(_Deep(inputs), config.IN_CHANNELS, config.OUT_CHANNELS, config.SHAPES, config.OUT_SHAPES)
    pairs = copy_fusions(theirs, ours)
    fused, _ = theirs(torch.zeros(1))
    teacher = [*inputs.teacher.preactivations, _as_map(inputs.teacher.outputs[FEATURES])]
    return Public(5 * module.hcl(fused, teacher), pairs)


def mgd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return MGD's loss with this package's masks."""
    student, teacher = inputs.student.stages[-1], inputs.teacher.stages[-1]
    widths = {"student_channels": student.shape[1], "teacher_channels": teacher.shape[1]}
    kind = checkout.module("mmcls.models.dis_losses.mgd", absent=ABSENT).MGDLoss
    theirs = kind(name="", use_this=True, **widths)
    pairs = copied(theirs.generation, ours.generation)
    if theirs.align is not None:
        pairs += copied(theirs.align, ours.align)
    numbers = uniform(ours.seed, 0, inputs.index.unsqueeze(1), torch.arange(teacher.shape[1]))
    with mock.patch.object(torch, "rand", numbers.view):
        return Public(theirs(student, teacher), pairs)


def semckd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return SemCKD's loss of the stages."""
    student, teacher = inputs.student.stages, inputs.teacher.stages
    widths = [[maps.shape[1] for maps in side] for side in (student, teacher)]
    attention = checkout.module("models.util").SelfA(len(student), len(teacher), BATCH, *widths)
    pairs = []
    for number, (query, key) in enumerate(zip(ours.queries, ours.keys, strict=True)):
        pairs += copied(getattr(attention, f"query_weight{number}"), query)
        pairs += copied(getattr(attention, f"key_weight{number}"), key)
    places = [(one, other) for one in range(len(student)) for other in range(len(teacher))]
    for (one, other), projection in zip(places, ours.projections, strict=True):
        pairs += copied(getattr(attention, f"regressor{one}{other}"), projection)
    loss = checkout.module("distiller_zoo.SemCKD").SemCKDLoss()(*attention(student, teacher))
    return Public(400 * loss, pairs)


COMPARISONS = (
    Comparison("at", "at", at, CODE, ("equal", "teacher wider")),
    Comparison("ofd", "ofd", ofd, {}, ("equal", "teacher wider")),
    Comparison("reviewkd", "reviewkd", reviewkd, {}, ("equal", "teacher wider, larger maps")),
    Comparison("mgd", "cls_kd", mgd, {}, ("equal", "teacher wider")),
    Comparison("semckd", "semckd", semckd, {"kd_weight": 0.0}, ("equal", "teacher wider, smaller maps")),
)
