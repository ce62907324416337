"""SRRL (Yang et al. 2021): CE + α·MSE(p, h) + β·MSE(W_t·p + b_t, v), p = pool(r(f_s)).

f_s are the student's last maps; r a 1×1 convolution without bias, batch norm and ReLU, which is not exported; h the
teacher's pooled features, (W_t, b_t) its frozen classifier, and v its logits. Both means are over all elements.

This is the authors' ImageNet code, whose weights are α = β = 1. SimKD's toolbox, which gave SRRL's numbers in later
tables, applies r to the pooled vector (``student_tap: features``) and adds KD with the weight 1.
"""

from __future__ import annotations

import torch.nn.functional as F

from core.catalog.methods.srrl import SRRLParams
from core.catalog.taps import FEATURES
from core.distill.features.adapters import conv_bn
from core.distill.features.classifiers import FrozenLinear, classifier_of, only_tap, shape_of
from core.distill.features.common import mean_over_rows, present_pairs, sum_of_parts
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms


class SRRL(Objective):
    """SRRL with its connector.

    Args:
        params: The parameters.
        setting: What it is built for.

    Raises:
        ObjectiveError: The student's tap gives neither maps nor vectors, or the teacher has no last linear layer.
    """

    scope = "batch"

    def __init__(self, params: SRRLParams, setting: Setting) -> None:
        super().__init__()
        self._params = params
        self._student_tap, student = only_tap(setting.student, "student_tap")
        if len(student) not in (1, 3):
            raise ObjectiveError(f"student_tap: {self._student_tap!r} gives {tuple(student)}, not maps or vectors")
        (width,) = shape_of(setting, "teacher").taps[FEATURES]
        self.connector = conv_bn(student[0], width)
        self.classifier = FrozenLinear(classifier_of(setting, "teacher"))

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        ((student, target),) = present_pairs(step, [(self._student_tap, FEATURES)])
        maps = student if student.ndim == 4 else student.view(*student.shape, 1, 1)
        pooled = F.relu(self.connector(maps, rows.share)).mean((2, 3))
        features = (pooled - target).square().mean(1)
        logits = (self.classifier(pooled) - rows.teacher32).square().mean(1)
        terms = {
            "srrl_features": (params.feature_weight, mean_over_rows(rows, features)),
            "srrl_logits": (params.logit_weight, mean_over_rows(rows, logits)),
        }
        return sum_of_parts(rows, params.ce_weight, terms)
