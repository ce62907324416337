"""FSP (Yim et al. 2017): how the channels of one stage go together with those of the next.

With F¹ (C₁, H·W) and F² (C₂, H·W) the maps of two consecutive stages and G = F¹F²ᵀ / (H·W) their FSP matrix (C₁, C₂):

    L = w_CE·CE + λ·Σ_pairs mean_i ‖G_i(student) − G_i(teacher)‖²_F                   (``paper``)
    L = w_CE·CE + λ·Σ_pairs mean_i ‖G_i(student) − G_i(teacher)‖²_F / (C₁·C₂)         (``public_code``)

If the maps of the two stages differ in size, the larger are reduced to the smaller: by max pooling in ``paper``, by
averages in ``public_code`` (RepDistiller). Student and teacher need the same numbers of channels, not the same sizes.

The paper, and RepDistiller with it, minimise the distance alone in a first stage, and train with the labels alone after
it: this is ``init_epochs`` > 0. Without it both terms are minimised together in every step. RepDistiller also has the
stem as the first map of the first pair: ``student_taps: [stem, stages]``, and the same for the teacher.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.fsp import FSPParams
from core.distill.features.common import (
    map_pairs,
    matched,
    mean_over_rows,
    only_part,
    present_pairs,
    require_equal_channels,
    sum_of_parts,
)
from core.distill.objective import ObjectiveError, Setting, Step, TwoStageObjective
from core.distill.terms import LossTerms, autocast_disabled


class FSP(TwoStageObjective):
    """CE plus the weighted distance of the FSP matrices of consecutive stages."""

    scope = "row"

    def __init__(self, params: FSPParams, setting: Setting) -> None:
        super().__init__(params.init_epochs, "some")
        self._params, self._pairs = params, map_pairs(setting)
        if len(self._pairs) < 2:
            raise ObjectiveError("student_taps and teacher_taps: FSP compares consecutive stages, so it needs two")
        require_equal_channels(setting, self._pairs)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            if params.init_epochs and not self.in_first_stage(step.epoch):
                return sum_of_parts(rows, params.ce_weight, {})
            pairs = present_pairs(step, self._pairs)
            distances = [
                self._distance(self._matrix(s1, s2) - self._matrix(t1, t2))
                for (s1, t1), (s2, t2) in itertools.pairwise(pairs)
            ]
            term = mean_over_rows(rows, torch.stack(distances).sum(0))
            if params.init_epochs:
                return only_part("fsp", params.strength, term)
            return sum_of_parts(rows, params.ce_weight, {"fsp": (params.strength, term)})

    def _distance(self, difference: Tensor) -> Tensor:
        squares = difference.square()
        return squares.sum((1, 2)) if self._params.variant == "paper" else squares.mean((1, 2))

    def _matrix(self, first: Tensor, second: Tensor) -> Tensor:
        """Return G (B, C₁, C₂) of maps (B, C₁, H, W) and (B, C₂, H', W')."""
        first, second = _largest(first, second) if self._params.variant == "paper" else matched(first, second)
        first, second = first.flatten(2), second.flatten(2)
        return first @ second.mT / first.shape[2]


def _largest(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two stacks of maps with one height and width: the larger is reduced to the smaller by max pooling."""
    (h1, w1), (h2, w2) = first.shape[-2:], second.shape[-2:]
    return _max_pooled(first, min(h1, h2), min(w1, w2)), _max_pooled(second, min(h1, h2), min(w1, w2))


def _max_pooled(maps: Tensor, height: int, width: int) -> Tensor:
    """Return the greatest values (B, C, height, width) of the parts of maps (B, C, H, W)."""
    if maps.shape[-2:] == (height, width):
        return maps
    if maps.shape[-2] % height == 0 and maps.shape[-1] % width == 0:  # a gradient that repeats bit for bit on CUDA
        return maps.reshape(*maps.shape[:2], height, maps.shape[2] // height, width, -1).amax((3, 5))
    return F.adaptive_max_pool2d(maps, (height, width))
