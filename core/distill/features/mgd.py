"""MGD (Yang et al. 2022): masked generative distillation.

    L = w_CE·CE + α·mean_i Σ_cyx (G(mask_i ⊙ A(f_i)) − F_i)²_cyx

G is a 3×3 convolution, ReLU and a 3×3 convolution, A a 1×1 convolution if the channels of the student's map f and the
teacher's F differ (equations 4 to 6). For classification the mask removes whole channels of an image, each with the
probability λ. Both maps must have one size: the paper has no rule for others.

The mask is a pure function of a seed of the method's own, the epoch, the sample's number and the channel. So it depends
neither on the other samples of a batch nor on the number of processes, and a resumed training has the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.catalog.methods.mgd import MGDParams
from core.distill.features.common import mean_over_rows, present_pairs, require_maps, sum_of_parts, tap_pair
from core.distill.features.hashing import uniform
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled


class MGD(Objective):
    """CE plus the weighted squared distance of the generated map."""

    scope = "row"
    capturable = False
    reads_index = True
    seed: Tensor

    def __init__(self, params: MGDParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        self._params, self._pair = params, tap_pair(setting)
        student, teacher = setting.student.taps[self._pair[0]], setting.teacher.taps[self._pair[1]]
        require_maps(setting.student.taps, "student_tap")
        require_maps(setting.teacher.taps, "teacher_tap")
        if student[1:] != teacher[1:]:
            raise ObjectiveError(
                f"student_tap: {self._pair[0]!r} gives {tuple(student)}, and teacher_tap: {self._pair[1]!r} "
                f"{tuple(teacher)}; MGD needs maps of one size"
            )
        channels = teacher[0]
        self.align = nn.Identity() if student[0] == channels else nn.Conv2d(student[0], channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.register_buffer("seed", torch.randint(2**31, ()))

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows = step.rows
        with autocast_disabled(rows):
            ((student, teacher),) = present_pairs(step, [self._pair])
            aligned = self.align(student)
            kept = self._kept(step, aligned.shape[1]).to(aligned.dtype)
            generated = self.generation(aligned * kept.view(*kept.shape, 1, 1))
            mgd = mean_over_rows(rows, (generated - teacher).square().flatten(1).sum(1))
            return sum_of_parts(rows, self._params.ce_weight, {"mgd": (self._params.weight, mgd)})

    def _kept(self, step: Step, channels: int) -> Tensor:
        """Return which channels of each sample are not masked (B, channels)."""
        assert step.index is not None
        numbers = torch.arange(channels, device=step.index.device)
        return uniform(self.seed, step.epoch or 0, step.index.unsqueeze(1), numbers) >= self._params.masked
