"""SimKD (Chen et al. 2022): MSE(g(f_s), f_t), and nothing else.

f_s are the student's maps of its last stage, f_t the maps that the teacher's classifier reads the mean of, and g is the
projector. If two maps differ in size, the larger is averaged to the size of the smaller. The network that is evaluated,
saved and counted is the student's stages, g, global average pooling and the teacher's frozen classifier; the student's
own head and classifier get no gradient and are left out of it.

The accuracy ``train/top1`` is that of this network, with the batch statistics of g. The student's own classifier stays
at its initial weights, so that its accuracy would say nothing.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from core.catalog.methods.simkd import SimKDParams
from core.distill.features.classifiers import FrozenLinear, classifier_of, map_of
from core.distill.features.common import mean_over_rows, pooled, present_pairs
from core.distill.features.projector import ProjectedHead, Projector
from core.distill.objective import Objective, ObjectiveError, Setting, Step, Trained
from core.distill.terms import LossTerms
from core.weights.metadata import HeadForm


@runtime_checkable
class _WithHead(Protocol):
    """A network whose head can be replaced."""

    def with_head(self, head: nn.Module, linear: nn.Linear) -> nn.Module: ...


class SimKD(Objective):
    """SimKD with its projector, which is exported.

    Args:
        params: The parameters.
        setting: What it is built for.

    Raises:
        ObjectiveError: A tap gives no maps, or the teacher's classifier does not read the mean of its maps.
    """

    scope = "batch"
    changes_logits = True

    def __init__(self, params: SimKDParams, setting: Setting) -> None:
        super().__init__()
        self._student_tap, student = map_of(setting, "student")
        self._teacher_tap, teacher = map_of(setting, "teacher", averaged=True)
        self._weight = params.weight
        self._size = min(student[1], teacher[1]), min(student[2], teacher[2])
        hidden = max(teacher[0] // params.factor, 1)
        smaller = self._size if (student[1], student[2]) != self._size else None
        self.projector = Projector(HeadForm(student[0], hidden, teacher[0], smaller))
        self.classifier = FrozenLinear(classifier_of(setting, "teacher"))

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows = step.rows
        ((student, teacher),) = present_pairs(step, [(self._student_tap, self._teacher_tap)])
        projected: Tensor = self.projector(student, rows)
        distance = projected - pooled(teacher, self._size)
        simkd = mean_over_rows(rows, distance.square().mean((1, 2, 3)))
        total = self._weight * simkd
        logits = self.classifier(projected.mean((2, 3)))
        return LossTerms(total, {"simkd": simkd.detach()}, parts={"simkd": total}, logits=logits)

    def trains(self, epoch: int) -> Trained:
        """Return that the student's own head and classifier are not trained."""
        return "some"

    def exported(self, student: nn.Module) -> nn.Module:
        """Return the student's stages with the projector and the teacher's classifier.

        Raises:
            ObjectiveError: The student's head cannot be replaced.
        """
        if not isinstance(student, _WithHead):
            raise ObjectiveError("the projector replaces the student's head, and this student is no network of stages")
        try:
            return student.with_head(ProjectedHead(self.projector), self.classifier.as_linear())
        except ValueError as error:
            raise ObjectiveError(f"the projector replaces the student's head, and {error}") from None
