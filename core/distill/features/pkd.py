"""PKD (Cao et al. 2022): each channel of the student's maps is correlated with the teacher's.

    L = w_CE·CE + w·Σ_l ½·mean_icyx (f̂_l − F̂_l)²_icyx ,   x̂_icyx = (x_icyx − μ_c) / (σ_c + 10⁻⁶)

μ_c and σ_c are mean and standard deviation of channel c over the images of the batch and all positions. A half of the
mean square of the difference is 1 − r_c, with Pearson's correlation r_c of both networks' channel, so that neither the
mean nor the scale of a channel matters. A channel without variance has the distance ½ and no gradient.

The weight belongs to each level; the published experiments read four levels of a pyramid. If the numbers of channels
differ, a 1×1 convolution maps the student's (``adapter``), which the paper does not need, because its networks have
equal pyramids. If two maps differ in size, the larger is averaged to the size of the smaller; the authors' code
interpolates the student's.

σ_c divides by the number of values m; the authors' code (mmrazor) divides by m − 1, so that its loss is (m − 1)/m times
this one, and equal to it to 1e-6 but for this factor. With weights, both moments are weighted means over the images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.catalog.methods.pkd import PKDParams
from core.distill.features.adapters import channel_adapters
from core.distill.features.common import (
    inverse_root,
    map_pairs,
    matched,
    present_pairs,
    require_equal_channels,
    shares,
    sum_of_parts,
)
from core.distill.objective import Objective, Setting, Step
from core.distill.terms import LossTerms, autocast_disabled

_EPS = 1e-6


class PKD(Objective):
    """CE plus the weighted distance of the standardised maps of all levels."""

    scope = "batch"  # for the moments of the channels

    def __init__(self, params: PKDParams, setting: Setting) -> None:
        super().__init__()
        self._params, self._pairs = params, map_pairs(setting)
        if not params.adapter:
            require_equal_channels(setting, self._pairs)
        self.adapters = channel_adapters(setting, self._pairs)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows = step.rows
        with autocast_disabled(rows):
            share = shares(rows)
            distances = []
            for adapter, pair in zip(self.adapters, present_pairs(step, self._pairs), strict=True):
                student, teacher = matched(*pair)
                distances.append(standardised_distance(adapter(student), teacher, share))
            pkd = torch.stack(distances).sum()
            return sum_of_parts(rows, self._params.ce_weight, {"pkd": (self._params.weight, pkd)})


def standardised_distance(student: Tensor, teacher: Tensor, share: Tensor) -> Tensor:
    """Return half the mean squared distance of maps (B, C, H, W) whose channels are standardised, a scalar.

    Args:
        student: The student's maps.
        teacher: The teacher's.
        share: (B,), the part of a mean that belongs to each image.
    """
    own, other = _centred(student, share), _centred(teacher, share)

    def moment(first: Tensor, second: Tensor) -> Tensor:
        products: Tensor = torch.linalg.vecdot(first, second)
        return share @ products / first.shape[2]

    variances, covariance = (moment(own, own), moment(other, other)), moment(own, other)
    # inverse_root, because the gradient of a square root has no limit at 0
    scales = [1 / (variance * inverse_root(variance) + _EPS) for variance in variances]
    squares = [variance * scale.square() for variance, scale in zip(variances, scales, strict=True)]
    return (torch.stack(squares).sum(0) / 2 - covariance * scales[0] * scales[1]).mean()


def _centred(maps: Tensor, share: Tensor) -> Tensor:
    """Return maps (B, C, H, W) as (B, C, H·W), minus the mean of each channel.

    The mean is a constant to autograd: no moment of centred numbers changes with a small shift of them.
    """
    flat = maps.flatten(2)
    return flat - (share @ flat.detach().mean(2)).view(1, -1, 1)
