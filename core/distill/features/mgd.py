"""MGD (Yang et al. 2022): masked generative distillation.

    L = w_CE·CE + α·Σ_l mean_i Σ_cyx (G_l(mask_li ⊙ A_l(f_li)) − F_li)²_cyx

G is a 3×3 convolution, ReLU and a 3×3 convolution, A a 1×1 convolution if the channels of the student's map f and the
teacher's F differ (equations 4 to 6). The layers l are one for classification, where the mask removes whole channels of
an image, and the levels of the pyramid for detection, where it removes positions with all their channels; each with the
probability λ. Both maps must have one size: the paper has no rule for others. For equal masks the loss is equal to both
codes of the authors to rounding.

The mask is a pure function of a seed of the method's own, the epoch, the sample's number, and the layer with the
channel or the position. So it depends neither on the other samples of a batch and their sizes nor on the number of
processes, and a resumed training has the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from core.catalog.methods.mgd import MGDParams
from core.distill.features.adapters import channel_adapters
from core.distill.features.common import (
    map_pairs,
    mean_over_rows,
    present_pairs,
    require_equal_sizes,
    sum_of_parts,
)
from core.distill.features.hashing import uniform
from core.distill.objective import Objective, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled


class MGD(Objective):
    """CE plus the weighted squared distance of the generated maps."""

    scope = "row"
    capturable = False
    reads_index = True
    seed: Tensor

    def __init__(self, params: MGDParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        self._params, self._pairs = params, map_pairs(setting, "tap")
        require_equal_sizes(setting, self._pairs, "MGD", "tap")
        self.align = channel_adapters(setting, self._pairs)
        self.generation = nn.ModuleList(_generation(setting.teacher.taps[name][0]) for _, name in self._pairs)
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_load_state_dict_pre_hook(_as_lists)  # type: ignore[no-untyped-call]

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows = step.rows
        with autocast_disabled(rows):
            distances = []
            first = 0
            for number, (student, teacher) in enumerate(present_pairs(step, self._pairs)):
                aligned = self.align[number](student)
                if self._params.mask == "channels":
                    kept = self._kept_channels(step, first, aligned.shape[1])
                else:
                    kept = self._kept_positions(step, number, aligned.shape[2], aligned.shape[3])
                generated = self.generation[number](aligned * kept.to(aligned.dtype))
                distances.append((generated - teacher).square().flatten(1).sum(1))
                first += aligned.shape[1]
            mgd = mean_over_rows(rows, torch.stack(distances).sum(0))
            return sum_of_parts(rows, self._params.ce_weight, {"mgd": (self._params.weight, mgd)})

    def _kept_channels(self, step: Step, first: int, channels: int) -> Tensor:
        """Return which channels of each sample are not masked (B, channels, 1, 1).

        Args:
            step: The step.
            first: The index of the first channel, counted over all layers.
            channels: The number of channels.
        """
        assert step.index is not None
        indices = torch.arange(first, first + channels, device=step.index.device)
        drawn = uniform(self.seed, step.epoch or 0, step.index.unsqueeze(1), indices)
        return (drawn >= self._params.masked).view(*drawn.shape, 1, 1)

    def _kept_positions(self, step: Step, layer: int, height: int, width: int) -> Tensor:
        """Return which positions of each sample are not masked (B, 1, height, width)."""
        assert step.index is not None
        down, across = (torch.arange(length, device=step.index.device) for length in (height, width))
        index = step.index.view(-1, 1, 1, 1)
        drawn = uniform(self.seed, step.epoch or 0, index, layer, down.unsqueeze(1), across)
        return drawn >= self._params.masked


def _generation(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
    )


def _as_lists(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Rename the layers of a checkpoint from before there could be several maps."""
    for name, parts in (("align", ("weight", "bias")), ("generation", ("0.weight", "0.bias", "2.weight", "2.bias"))):
        for part in parts:
            if (key := f"{prefix}{name}.{part}") in state:
                state[f"{prefix}{name}.0.{part}"] = state.pop(key)
