"""WKD-F (Lv et al. 2024): CE + w·d(epoch)·mean of Σ_c [γ·(m_s − m_t)² + (s_s − s_t)²].

m and s are the mean and the standard deviation of a channel over the positions of a map, of r(f_s) and of f_t: the
parameters of a Gaussian with a diagonal covariance, whose squared 2-Wasserstein distance the sum is for γ = 1. The
variance is the unbiased one, plus eps, as in the authors' code. With a grid, each part of the map has a Gaussian of its
own, and the mean is over rows and parts.

r is a convolution, batch norm and ReLU, which are not exported. The convolution is 1×1 for maps of one size. Student's
maps of twice the size pass 3×3 with stride 2, those of half the size transposed 4×4 with stride 2, other larger ones a
kernel without padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.wkd_f import WKDFParams, decay
from core.distill.features.adapters import resizing_convolution
from core.distill.features.batch_norm import BatchNorm
from core.distill.features.classifiers import map_of
from core.distill.features.common import mean_over_rows, present_pairs, sum_of_parts
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms


class WKDF(Objective):
    """WKD-F with its projector.

    Args:
        params: The parameters.
        setting: What it is built for.

    Raises:
        ObjectiveError: The student's maps are too small, or a part of the grid has a single position.
    """

    scope = "batch"

    def __init__(self, params: WKDFParams, setting: Setting) -> None:
        super().__init__()
        self._params = params
        self._student_tap, student = map_of(setting, "student")
        self._teacher_tap, teacher = map_of(setting, "teacher")
        if _smallest(teacher[1], params.grid) * _smallest(teacher[2], params.grid) < 2:
            raise ObjectiveError(
                f"grid: {params.grid} × {params.grid} parts of the teacher's maps, {teacher[1]}×{teacher[2]}, have a "
                "single position, which has no standard deviation"
            )
        self.projector = resizing_convolution(student, teacher)
        self.norm = BatchNorm(teacher[0])

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        ((student, teacher),) = present_pairs(step, [(self._student_tap, self._teacher_tap)])
        projected = F.relu(self.norm(self.projector(student), rows.share))
        mean, deviation = self._gaussians(projected)
        target_mean, target_deviation = self._gaussians(teacher)
        distance = params.mean_ratio * (mean - target_mean).square() + (deviation - target_deviation).square()
        wkd_f = mean_over_rows(rows, distance.sum(2).mean(1))
        factor = 1.0 if step.epoch is None else decay(params, step.epoch)
        return sum_of_parts(rows, params.ce_weight, {"wkd_f": (params.weight * factor, wkd_f)})

    def _gaussians(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations (B, grid², C) of the parts of maps (B, C, H, W)."""
        grid = self._params.grid
        parts = [
            maps[:, :, rows, columns].flatten(2)
            for rows in _windows(maps.shape[2], grid)
            for columns in _windows(maps.shape[3], grid)
        ]
        means = torch.stack([part.mean(2) for part in parts], 1)
        variances = torch.stack([part.var(2) for part in parts], 1)
        return means, (variances + self._params.eps).sqrt()


def _windows(length: int, count: int) -> list[slice]:
    """Return the parts of a side that adaptive pooling averages; neighbours overlap if the length is no multiple."""
    return [slice(number * length // count, -(-(number + 1) * length // count)) for number in range(count)]


def _smallest(length: int, grid: int) -> int:
    """Return the least number of positions in a part of a side."""
    smallest: int = min(part.stop - part.start for part in _windows(length, grid))
    return smallest
