"""CAT-KD (Guo et al. 2023): CE + β·MSE(φ(A_s), φ(A_t)), with class activation maps A (B, C, H, W).

The classifier (W, b) of a network reads the mean over positions of its last maps f. Its class activation maps are
A_c(x, y) = Σ_d W_cd·f_d(x, y), so that the logits are mean(A) + b. φ averages a map to k × k, and with ``normalise``
divides it by its norm over the positions. The mean is over rows, classes and positions. The gradient of A_s reaches
the student's maps and its classifier.

The authors rewrite both networks: a 1×1 convolution without bias makes maps of the classes, and pooling follows. That
is the same function, as convolution and mean may change places, except for the bias b: their students have none, and
teachers lose theirs, which no term reads. Here the student keeps its bias, as with every other method. The equality
needs a mean and a linear layer after the maps; networks with other layers there, such as a norm, are refused.

The averages are taken before W, which gives the same maps with fewer products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.catalog.methods.cat_kd import CATKDParams
from core.distill.features.classifiers import FrozenLinear, classifier_of, map_of
from core.distill.features.common import inverse_root, mean_over_rows, pooled, present_pairs, sum_of_parts
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms


class CATKD(Objective):
    """CAT-KD, which reads the student's classifier.

    Args:
        params: The parameters.
        setting: What it is built for.

    Raises:
        ObjectiveError: A classifier does not read the mean of the maps, or the maps are smaller than the resolution.
    """

    scope = "row"

    def __init__(self, params: CATKDParams, setting: Setting) -> None:
        super().__init__()
        self._params = params
        self._size = params.resolution, params.resolution
        self._student_tap, student = map_of(setting, "student", averaged=True)
        self._teacher_tap, teacher = map_of(setting, "teacher", averaged=True)
        for role, (_, height, width) in (("student", student), ("teacher", teacher)):
            if min(height, width) < params.resolution:
                raise ObjectiveError(
                    f"resolution: {params.resolution} is greater than the maps of the {role}, {height}×{width}"
                )
        self._student_linear = (classifier_of(setting, "student"),)  # in a tuple, because it is the student's
        self._teacher_linear = FrozenLinear(classifier_of(setting, "teacher"))

    def student_parameters(self) -> tuple[Tensor, ...]:
        """Return the weight of the student's classifier."""
        return (self._student_linear[0].weight,)

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        ((student_maps, teacher_maps),) = present_pairs(step, [(self._student_tap, self._teacher_tap)])
        student = self._activation(student_maps, *self.student_parameters())
        teacher = self._activation(teacher_maps, self._teacher_linear.weight)
        cat = mean_over_rows(rows, (student - teacher).square().mean((1, 2)))
        return sum_of_parts(rows, params.ce_weight, {"cat_kd": (params.weight, cat)})

    def _activation(self, maps: Tensor, weight: Tensor) -> Tensor:
        """Return the averaged class activation maps (B, C, k²) of maps (B, D, H, W) and a classifier (C, D)."""
        averaged = pooled(maps, self._size).flatten(2)
        activation = torch.einsum("cd,bdp->bcp", weight.to(maps.dtype), averaged)
        if not self._params.normalise:
            return activation
        return activation * inverse_root(activation.square().sum(2, keepdim=True))
