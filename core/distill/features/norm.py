"""NORM (Liu et al. 2023): w·CE(z′) + α·s(epoch)·Σ_n MSE(e_n, f_t).

On the student's last maps f, e = BN(W₁f) has N·T channels, which are N parts e_n of the teacher's T channels, and
f′ = f + BN(W₂e) has the channels of f again; W₁ and W₂ are 1×1 convolutions without bias. The classifier of the student
reads the mean of f′ over positions, z′ = W·mean(f′) + b. MSE is over rows, channels and positions.

With the running statistics of batch norm, f′ = f + A·f + a is an affine function of f, so that the layers disappear in
the classifier: W′ = W + W·A and b′ = b + W·a. The network that is evaluated and saved is the plain student with W′ and
b′, whose logits are those of the student with the layers in eval mode, up to rounding.

If f_t or e is larger by a whole factor, it passes max pooling in the term, as in the authors' code. That code puts the
layers of wide ResNets before their last batch norm and ReLU, where they are not linear in the classifier's input, and
those of MobileNet and ShuffleNet behind their last convolution; here they are where the classifier reads the mean.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.methods.norm import SCHEDULES, NORMParams
from core.distill.features.batch_norm import row_batch_norm
from core.distill.features.classifiers import classifier_of, map_of
from core.distill.features.common import mean_over_rows, present_pairs, sum_of_parts
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms

_LOGIT_SCALE = 2.5
_LOGIT_EPS = 1e-7


class Transform(nn.Module):
    """The layers that expand maps and contract them again.

    Args:
        channels: Of the student's maps.
        expanded: N·T.
    """

    def __init__(self, channels: int, expanded: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, expanded, 1, bias=False)
        self.contract = nn.Conv2d(expanded, channels, 1, bias=False)
        self.expand_norm, self.contract_norm = nn.BatchNorm2d(expanded), nn.BatchNorm2d(channels)
        for convolution in (self.expand, self.contract):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out")

    def forward(self, maps: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the expanded maps e, and f + BN(W₂e)."""
        expanded = row_batch_norm(self.expand_norm, self.expand(maps), rows)
        return expanded, maps + row_batch_norm(self.contract_norm, self.contract(expanded), rows)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return A (D, D) and a (D,) in float64, by which f′ = f + A·f + a in eval mode."""
        (first, first_shift), (second, second_shift) = (
            _affine(convolution, norm)
            for convolution, norm in ((self.expand, self.expand_norm), (self.contract, self.contract_norm))
        )
        return second @ first, second @ first_shift + second_shift


def _affine(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the matrix and the shift of a 1×1 convolution and of batch norm with its running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    return scale.unsqueeze(1) * convolution.weight.flatten(1).double(), norm.bias.double() - scale * norm.running_mean


class UnfoldedStudent(nn.Module):
    """A student and the layers that will be multiplied into its classifier.

    Args:
        student: The student.
        transform: The layers.
    """

    def __init__(self, student: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.student, self.transform = student, transform


class NORM(Objective):
    """NORM with its layers, which read the student's classifier.

    Args:
        params: The parameters.
        setting: What it is built for.

    Raises:
        ObjectiveError: The student's classifier does not read the mean of the maps or has no bias, or the sizes of the
            maps do not fit.
    """

    scope = "batch"
    changes_logits = True

    def __init__(self, params: NORMParams, setting: Setting) -> None:
        super().__init__()
        self._params = params
        self._student_tap, student = map_of(setting, "student", averaged=True)
        self._teacher_tap, teacher = map_of(setting, "teacher")
        self._size = min(student[1], teacher[1]), min(student[2], teacher[2])
        if any(shape[side + 1] % self._size[side] for shape in (student, teacher) for side in (0, 1)):
            raise ObjectiveError(
                f"teacher_tap: the sides of its maps, {teacher[1]}×{teacher[2]}, are no multiples of those of the "
                f"student's maps, {student[1]}×{student[2]}, or the other way round"
            )
        linear = classifier_of(setting, "student")
        if linear.bias is None:
            raise ObjectiveError("the classifier of the student has no bias, which NORM's layers are folded into")
        self._student_linear = (linear,)  # in a tuple, because it is the student's
        self.transform = Transform(student[0], params.copies * teacher[0])
        self._template: tuple[nn.Module] | None = None  # of the folded network

    def student_parameters(self) -> tuple[Tensor, ...]:
        """Return the weight and the bias of the student's classifier."""
        (linear,) = self._student_linear
        return linear.weight, linear.bias

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        ((maps, teacher),) = present_pairs(step, [(self._student_tap, self._teacher_tap)])
        target = self._greatest(teacher)
        expanded, transformed = self.transform(maps, rows)
        copies = self._greatest(expanded).view(len(maps), params.copies, *target.shape[1:])
        distance = copies - target.unsqueeze(1)
        norm = mean_over_rows(rows, params.copies * distance.square().mean((1, 2, 3, 4)))
        weight, bias = (parameter.to(maps.dtype) for parameter in self.student_parameters())
        logits = F.linear(transformed.mean((2, 3)), weight, bias)
        scored = logits
        if params.variant == "public_code":
            scored = _LOGIT_SCALE * F.layer_norm(logits, logits.shape[1:], eps=_LOGIT_EPS)
        factor = params.weight * schedule_factor(params.schedule, step.epoch)
        terms = sum_of_parts(replace(rows, student=scored), params.ce_weight, {"norm": (factor, norm)})
        return replace(terms, logits=logits)

    def _greatest(self, maps: Tensor) -> Tensor:
        """Return maps of the size of the smaller ones, by max pooling."""
        factor = maps.shape[2] // self._size[0], maps.shape[3] // self._size[1]
        return maps if factor == (1, 1) else F.max_pool2d(maps, factor)

    def exported(self, student: nn.Module) -> nn.Module:
        """Return the student together with the layers."""
        self._template = (copy.deepcopy(student).requires_grad_(False),)
        return UnfoldedStudent(student, self.transform)

    @torch.no_grad()
    def folded(self, exported: nn.Module) -> nn.Module:
        """Return a copy of the student with the layers in its classifier."""
        assert isinstance(exported, UnfoldedStudent)
        assert self._template is not None
        network = copy.deepcopy(self._template[0])
        network.load_state_dict(exported.student.state_dict())
        linear, (matrix, shift) = cast(nn.Linear, network.linear), exported.transform.affine()
        weight = linear.weight.double()
        linear.bias.add_(weight @ shift)
        linear.weight.copy_(weight + weight @ matrix)
        return network


def schedule_factor(schedule: str, epoch: int | None) -> float:
    """Return the factor of the term in an epoch, counted from 0; None means the greatest.

    Args:
        schedule: A key of ``SCHEDULES``.
        epoch: The epoch.
    """
    factors = SCHEDULES[schedule]
    if epoch is None:
        return max(factor for _, factor in factors)
    return [factor for start, factor in factors if epoch >= start][-1]
