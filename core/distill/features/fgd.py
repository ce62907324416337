"""FGD (Yang et al. 2022): focal and global knowledge distillation for detectors.

At a level, f and F (C, H, W) are the student's and the teacher's map of an image. The attentions of a map x are

    S_yx(x) = H·W·softmax_yx(mean_c |x| / T) ,   A_c(x) = C·softmax_c(mean_yx |x| / T) .

M is 1/(h·w) at a position in boxes, with the height and the width in cells of the smallest of these boxes, and 0
outside all boxes. N is 0 in boxes, and 1/(number of positions outside all boxes) outside (equations 2 to 4). The loss
is

    L = w_CE·CE + Σ_l mean_i (α·Σ D·M + β·Σ D·N + γ·(Σ |A(f) − A(F)| + Σ |S(f) − S(F)|) + λ·Σ (G(f) − G′(F))²)
    D = (f − F)²·S(F)·A(F) ,   G(x) = x + W₂·ReLU(LN(W₁·Σ_yx softmax_yx(W₀·x)·x))

The student's map passes a 1×1 convolution first if the numbers of channels differ. G and G′ (GCBlock, equation 9) have
weights of their own, both trained, with C/2 channels inside and W₂ = 0 at first. Both maps of a level must have one
size: the paper has no rule for others.

The paper does not say which cells a box covers. As in the authors' code, they are the cells from the floor of its first
edge to the ceiling of its last edge, inclusive. For images without padding the loss is equal to that code to 1e-8,
the rounding of its mask. With padding, the authors scale boxes by the size of the image, and not by what the map
covers, and so place them too far right and below; here they are where they belong. The published experiments with
Faster R-CNN read four levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.catalog.methods.fgd import FGDParams
from core.distill.features.adapters import channel_adapters
from core.distill.features.common import (
    map_pairs,
    mean_over_rows,
    present_pairs,
    require_equal_sizes,
    sum_of_parts,
)
from core.distill.objective import Objective, ObjectiveError, Objects, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled


class FGD(Objective):
    """CE plus the weighted terms of all levels."""

    scope = "row"

    def __init__(self, params: FGDParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        self._params, self._pairs = params, map_pairs(setting)
        require_equal_sizes(setting, self._pairs, "FGD")
        channels = [setting.teacher.taps[teacher][0] for _, teacher in self._pairs]
        self.adapters = channel_adapters(setting, self._pairs)
        self.student_context = nn.ModuleList(map(GlobalContext, channels))
        self.teacher_context = nn.ModuleList(map(GlobalContext, channels))

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step.

        Raises:
            ObjectiveError: The task has no objects.
        """
        if step.objects is None:
            raise ObjectiveError("FGD reads the objects of the images, and the task has none")
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            boxes = boxes_by_image(step.objects, len(rows.target))
            levels = [
                self._level(number, student, teacher, boxes)
                for number, (student, teacher) in enumerate(present_pairs(step, self._pairs))
            ]
            names = ("fgd_fg", "fgd_bg", "fgd_attention", "fgd_global")
            weights = (
                params.foreground_weight,
                params.background_weight,
                params.attention_weight,
                params.global_weight,
            )
            found = [mean_over_rows(rows, of_images) for of_images in torch.stack(levels).sum(0).unbind()]
            terms = dict(zip(names, zip(weights, found, strict=True), strict=True))
            return sum_of_parts(rows, params.ce_weight, terms)

    def _level(self, number: int, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Return the four terms of the images (4, B) without their weights, of maps (B, C, H, W) of one level."""
        mapped: Tensor = self.adapters[number](student)
        difference = mapped - teacher
        positions, channels = attentions(teacher, self._params.temperature)
        own_positions, own_channels = attentions(mapped, self._params.temperature)
        attended = torch.einsum("bchw,bc->bhw", difference.square(), channels) * positions
        inside = foreground(boxes, (teacher.shape[2], teacher.shape[3]), attended.dtype)
        outside = (inside == 0).to(attended.dtype)
        outside = outside / outside.sum((1, 2), keepdim=True).clamp_min(1)
        distance = (own_channels - channels).abs().sum(1) + (own_positions - positions).abs().sum((1, 2))
        shift = self.student_context[number](mapped) - self.teacher_context[number](teacher)
        relation = (difference + shift[:, :, None, None]).square().flatten(1).sum(1)
        return torch.stack(
            [(attended * inside).sum((1, 2)), (attended * outside).sum((1, 2)), distance, relation],
        )


class GlobalContext(nn.Module):
    """What GCBlock (Cao et al. 2019) adds to each position of a map.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.weigh = nn.Conv2d(channels, 1, 1)
        last = nn.Linear(hidden, channels)
        self.transform = nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), last)
        nn.init.kaiming_normal_(self.weigh.weight, mode="fan_in", nonlinearity="relu")
        for tensor in (self.weigh.bias, last.weight, last.bias):
            assert tensor is not None
            nn.init.zeros_(tensor)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the summand (B, C) of maps (B, C, H, W)."""
        weights = self.weigh(maps).flatten(2).softmax(2)
        summand: Tensor = self.transform((maps.flatten(2) @ weights.mT).squeeze(2))
        return summand


def attentions(maps: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the attention to positions (B, H, W) and to channels (B, C) of maps (B, C, H, W), each of mean 1."""
    size = maps.abs()
    by_position, by_channel = size.mean(1), size.mean((2, 3))
    positions = by_position[0].numel() * (by_position.flatten(1) / temperature).softmax(1)
    channels = by_channel.shape[1] * (by_channel / temperature).softmax(1)
    return positions.view_as(by_position), channels


def boxes_by_image(objects: Objects, images: int) -> tuple[Tensor, ...]:
    """Return the boxes (n, 4) of the objects of each image of a batch."""
    counts = objects.image.bincount(minlength=images).tolist()
    return torch.split(objects.boxes[objects.image.argsort(stable=True)], counts)


def foreground(boxes: Sequence[Tensor], size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return 1/(h·w) of the smallest box over each position of a map (B, H, W), h and w in cells, and 0 for none.

    Args:
        boxes: Of each image (n, 4), in shares of what the map covers.
        size: H and W.
        dtype: That of the result.
    """
    height, width = size
    masks = []
    for of_image in boxes:
        edges = of_image * of_image.new_tensor((width, height, width, height))
        (left, top), (right, bottom) = edges[:, :2].floor().unbind(1), edges[:, 2:].ceil().unbind(1)
        area = ((right + 1 - left) * (bottom + 1 - top)).to(dtype)
        inside = _between(top, bottom, height).unsqueeze(2) & _between(left, right, width).unsqueeze(1)
        value = inside / area.view(-1, 1, 1)
        masks.append(value.amax(0) if len(of_image) else value.new_zeros(height, width))
    return torch.stack(masks)


def _between(first: Tensor, last: Tensor, length: int) -> Tensor:
    """Return which of the places 0 … length − 1 are from ``first`` to ``last`` (n, length)."""
    place = torch.arange(length, device=first.device)
    return (place >= first.unsqueeze(1)) & (place <= last.unsqueeze(1))
