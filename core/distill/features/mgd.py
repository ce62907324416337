"""MGD (Yang et al. 2022): masked generative distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.catalog.methods.mgd import MGDParams
from core.distill.features.hashing import uniform
from core.distill.features.steps import (
    require_map,
    student_taps,
    teacher_shape,
    teacher_taps,
    with_cross_entropy,
)
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled


class MGD(Objective):
    """CE + weight·Σ over the elements of an image's map of (G(mask ⊙ A(f_s)) − f_t)², a mean over the images.

    G is a 3×3 convolution, ReLU and a 3×3 convolution, A a 1×1 convolution if the channels differ (equations 4 to 7).
    For classification the mask removes whole channels of an image, each with the probability λ. Both maps must have one
    size: the paper has no rule for others.

    The mask is a pure function of a seed of the method's own, the sample's number, the epoch and the channel. So it
    does not depend on the batch, on the number of processes, or on whether the training was resumed.
    """

    capturable = False
    reads_index = True
    seed: Tensor

    def __init__(self, params: MGDParams, setting: Setting) -> None:
        super().__init__()
        (name, student), (target, teacher) = (
            next(iter(shape.taps.items())) for shape in (setting.student, teacher_shape(setting))
        )
        student, teacher = require_map("student_tap", name, student), require_map("teacher_tap", target, teacher)
        if student[1:] != teacher[1:]:
            raise ObjectiveError(
                f"student_tap gives {tuple(student)} and teacher_tap {tuple(teacher)}; MGD needs maps of one size"
            )
        channels = teacher[0]
        self.align = nn.Identity() if student[0] == channels else nn.Conv2d(student[0], channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.register_buffer("seed", torch.randint(2**31, ()))
        self._names, self._params = (name, target), params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, (name, target) = step.rows, self._names
        with autocast_disabled(rows):
            aligned = self.align(student_taps(step)[name])
            mask = self._mask(step, aligned.shape[1]).to(aligned.dtype)
            generated = self.generation(aligned * mask.view(*mask.shape, 1, 1))
            squares = (generated - teacher_taps(step)[target]).square()
            mgd = rows.weigh(squares.flatten(1).sum(1)).mean()
        return with_cross_entropy(rows, self._params.ce_weight, {"mgd": (self._params.weight, mgd)})

    def _mask(self, step: Step, channels: int) -> Tensor:
        """Return which channels of each sample are kept (B, channels)."""
        assert step.index is not None
        numbers = torch.arange(channels, device=step.index.device)
        return uniform(self.seed, step.epoch or 0, step.index.unsqueeze(1), numbers) >= self._params.masked
