"""ReviewKD (Chen et al. 2021): distilling knowledge via knowledge review.

    L = w_CE·CE + w·min(e / ramp, 1)·Σ_k HCL(g_k, F_k) ,   e the epoch from 0

The levels k are the pooled features, as maps of 1×1, and the stages, from deep to shallow; F is the teacher's map. At
each level, attention based fusion has three steps, whose result is g (figures 3 and 4). It maps the student's map to
few channels. It adds the fused map of the deeper level, scaled up to this size, with two learned attention maps as
weights. It maps the sum, at the teacher's size, to the teacher's channels.

HCL, the hierarchical context loss, is a weighted mean of the mean squared distances of two maps at four sizes: as they
are with the factor 1, and averaged to 4×4, 2×2 and 1×1 with ½, ¼ and ⅛. A size that is not smaller than the map is left
out, and the next size takes its factor, as in the authors' code.

The ramp is that of the authors' code. In mdistiller e is counted from 1, so that its ramp is one epoch ahead.

For detectors the levels are those of the pyramid, without pooled features. The loss is then equal to that of the
authors' detection code to rounding, for maps of any size, which may differ from batch to batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.methods.reviewkd import ReviewKDParams
from core.catalog.methods.shared import ramp
from core.catalog.taps import pair_stages
from core.distill.features.adapters import Layers
from core.distill.features.batch_norm import BatchNorm
from core.distill.features.common import mean_over_rows, pooled, present_pairs, sum_of_parts
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled

_LEVELS = (4, 2, 1)


class ReviewKD(Objective):
    """CE plus the weighted distances of fused stages."""

    scope = "batch"  # for the batch norm

    def __init__(self, params: ReviewKDParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        student, teacher = setting.student.taps, setting.teacher.taps
        self._params, self._levels = params, pair_stages(student, teacher)[::-1]
        for parameter, taps in (("student_taps", student), ("teacher_taps", teacher)):
            for name, shape in taps.items():
                if len(shape) not in (1, 3):
                    raise ObjectiveError(f"{parameter}: {name!r} gives {tuple(shape)}, neither maps nor features")
        if not self._levels:
            raise ObjectiveError("student_taps and teacher_taps: a network has no such stages")
        mid = min(params.mid_channels, student[self._levels[0][0]][0])
        self.fusions = nn.ModuleList(
            Fusion(student[name][0], mid, teacher[target][0], is_deepest=not number)
            for number, (name, target) in enumerate(self._levels)
        )

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            fused: Tensor | None = None
            distances = []
            for fusion, pair in zip(self.fusions, present_pairs(step, self._levels), strict=True):
                student, teacher = map(_as_map, pair)
                mapped, fused = fusion(student, fused, teacher.shape[2:], rows.share)
                distances.append(hierarchical_distance(mapped, teacher))
            reviewkd = mean_over_rows(rows, torch.stack(distances).sum(0))
            factor = 1.0 if step.epoch is None else ramp(step.epoch, params.ramp_epochs, 0)
            return sum_of_parts(rows, params.ce_weight, {"reviewkd": (factor * params.weight, reviewkd)})


class Fusion(nn.Module):
    """Attention based fusion (ABF) of a stage of the student with the deeper ones.

    Args:
        width: Channels of the stage.
        mid: Channels of the fused maps.
        channels: Channels of the teacher's map.
        is_deepest: Whether there is no deeper stage.
    """

    def __init__(self, width: int, mid: int, channels: int, *, is_deepest: bool) -> None:
        super().__init__()
        reduce, expand = nn.Conv2d(width, mid, 1, bias=False), nn.Conv2d(mid, channels, 3, padding=1, bias=False)
        for convolution in (reduce, expand):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.reduce, self.expand = Layers(reduce, BatchNorm(mid)), Layers(expand, BatchNorm(channels))
        self.attention = None if is_deepest else nn.Conv2d(2 * mid, 2, 1)

    def forward(
        self, maps: Tensor, deeper: Tensor | None, size: tuple[int, ...], share: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the maps with the teacher's channels and size, and the fused maps for the next level.

        Args:
            maps: (B, width, H, W), of the stage.
            deeper: (B, mid, h, w), the fused maps of the deeper stages.
            size: The teacher's.
            share: See ``BatchNorm.forward``.
        """
        fused = self.reduce(maps, share)
        if self.attention is not None and deeper is not None:
            deeper = _resized(deeper, fused.shape[2:])
            own, others = self.attention(torch.cat((fused, deeper), 1)).sigmoid().split(1, dim=1)
            fused = fused * own + deeper * others
        fused = _resized(fused, size)
        return self.expand(fused, share), fused


def _as_map(tap: Tensor) -> Tensor:
    return tap.view(*tap.shape, 1, 1) if tap.ndim == 2 else tap


def _resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, size, mode="nearest")


def hierarchical_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return HCL (B,) of maps (B, C, H, W)."""
    total, factor, factors = _distances(student, teacher), 1.0, 1.0
    for level in _LEVELS:
        if level < min(student.shape[2:]):
            factor /= 2
            total = total + factor * _distances(pooled(student, (level, level)), pooled(teacher, (level, level)))
            factors += factor
    return total / factors


def _distances(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().flatten(1).mean(1)
