"""The code of the method in ``tests.core.hint_plugin``."""

from __future__ import annotations

from torch import nn

from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.terms import LossTerms, label_term, with_gradient
from tests.core.hint_plugin import HintParams


class Hint(Objective):
    """CE plus the weighted mean squared distance of two maps or two vectors, after a linear map of the student's."""

    def __init__(self, params: HintParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        student, teacher = setting.student.taps[params.student_tap], setting.teacher.taps[params.teacher_tap]
        if student[1:] != teacher[1:]:
            raise ObjectiveError(
                f"student_tap gives maps of {tuple(student[1:])} and teacher_tap maps of {tuple(teacher[1:])}"
            )
        self.adapter = nn.Conv2d(student[0], teacher[0], 1) if student[1:] else nn.Linear(student[0], teacher[0])
        self.register_buffer("steps", self.adapter.weight.new_zeros(()))
        self._params = params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        assert step.teacher is not None
        rows, params = step.rows, self._params
        ce = label_term(rows)
        distance = self.adapter(step.student.taps[params.student_tap]) - step.teacher.taps[params.teacher_tap]
        hint = rows.weigh(distance.square().flatten(1).mean(1)).mean()
        parts = {"ce": with_gradient(rows.student, ce.value, ce.gradient), "hint": params.weight * hint}
        return LossTerms(parts["ce"] + parts["hint"], {"ce": ce.value, "hint": hint.detach()}, parts=parts)
