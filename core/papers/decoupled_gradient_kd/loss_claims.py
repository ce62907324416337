"""Claims 1 and 2 of Decoupled Gradient Knowledge Distillation: about the loss itself, computed from its formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from core.papers.paper import LossFinding, LossSetting

if TYPE_CHECKING:
    from core.explain import Array

SWAPPED = "The loss is nearly the same with (student, teacher) target probability (0.6, 0.8) as with (0.8, 0.6)."
STUDENT_RIGHT = "The alignment term is higher when the student is right and the teacher wrong."
TOLERANCE = 0.05
"""Two values are nearly the same if they differ by at most 5 % of the larger one."""
_SAMPLES = 200
_LOGIT_MARGIN = 4.0


def judge_loss_claims(setting: LossSetting) -> list[LossFinding]:
    """Judge claims 1 and 2, each in the cases between which the answer changes."""
    return [*_swapped(setting), *_student_right(setting)]


def notes(setting: LossSetting) -> list[str]:
    """Return notes for the reader of the claims."""
    return [
        f"Claims 1 and 2 are about the loss itself, computed for {setting.classes} classes and T = "
        f"{setting.temperature:g}; nearly the same means within 5 %.",
        "Claims 3 to 5 are judged by pairs: a verdict needs p < 0.05 after Holm, and for 3 and 5 an interval without "
        "zero. Claim 4 is tested by signs, because a run that never reached the target is later than any that did.",
    ]


def _swapped(setting: LossSetting) -> list[LossFinding]:
    """Return the findings about claim 1, in which the target probabilities of student and teacher are exchanged."""
    import numpy as np

    from core.explain import explain

    others = setting.classes - 1
    flat = np.full(others, 1 / others)
    peaked = np.full(others, 0.08 / (others - 1))
    peaked[0] = 0.92

    def terms(p_t: float, q_t: float, p_hat: Array, q_hat: Array) -> tuple[float, float]:
        """Return TCKD, and s = C·A_sample/T², the squared distance of the gradients of TCKD and NCKD divided by T²."""
        student, teacher = (
            setting.temperature * np.log(np.concatenate(([target], (1 - target) * non_target)))[None]
            for target, non_target in ((p_t, p_hat), (q_t, q_hat))
        )
        result = explain(student, teacher, [0], setting.temperature)
        return result.tckd, result.align_sample * setting.classes / setting.temperature**2

    def finding(case: str, first: float, second: float, why: str) -> LossFinding:
        difference = abs(first - second) / max(first, second)
        return LossFinding(
            number=1,
            text=SWAPPED,
            case=case,
            holds=difference <= TOLERANCE,
            reason=f"{first:.4g} against {second:.4g}, {100 * difference:.1f} % apart; {why}",
            numbers={"student_0.6": first, "student_0.8": second, "apart_percent": 100 * difference},
        )

    tckd = terms(0.6, 0.8, flat, flat)[0], terms(0.8, 0.6, flat, flat)[0]
    equal = terms(0.6, 0.8, peaked, peaked)[1], terms(0.8, 0.6, peaked, peaked)[1]
    sharp = terms(0.6, 0.8, peaked, flat)[1], terms(0.8, 0.6, peaked, flat)[1]
    formula = "they differ by exactly −4|Δ|·p̂·(p̂ − q̂)"
    return [
        finding("alignment term, equal non-target distributions (p̂ = q̂)", *equal, f"{formula}, which is 0 here"),
        finding(
            "alignment term, the student peaked among the non-targets", *sharp, f"{formula}; here p̂ is peaked, q̂ flat"
        ),
        finding("TCKD", *tckd, "a KL divergence is not symmetric, whatever the distributions of the other classes"),
    ]


def _student_right(setting: LossSetting) -> list[LossFinding]:
    """Return the findings about claim 2, in which the student, the teacher or both are right."""
    import numpy as np

    from core.explain import explain

    def mean(student_right: bool, teacher_right: bool, student_scale: float, teacher_scale: float) -> float:
        """Return the mean of s, the squared distance of the gradients of TCKD and NCKD divided by T².

        It is the mean over random logits. A network that is right has a margin added to its logit of the target, class
        0, and one that is wrong to its logit of class 1.
        """
        distances = []
        for seed in range(_SAMPLES):
            z, v = np.random.default_rng(seed).standard_normal((2, 1, setting.classes))
            z[0, 0 if student_right else 1] += _LOGIT_MARGIN
            v[0, 0 if teacher_right else 1] += _LOGIT_MARGIN
            result = explain(student_scale * z, teacher_scale * v, [0], setting.temperature)
            distances.append(result.align_sample * setting.classes / setting.temperature**2)
        return float(np.mean(distances))

    return [
        _right_finding("logits of equal scale", lambda student, teacher: mean(student, teacher, 1.0, 1.0)),
        _right_finding(
            "a student far flatter than a sure teacher (0.1 and 5 times)",
            lambda student, teacher: mean(student, teacher, 0.1, 5.0),
        ),
    ]


def _right_finding(case: str, mean: Callable[[bool, bool], float]) -> LossFinding:
    only_student, both, only_teacher = mean(True, False), mean(True, True), mean(False, True)
    return LossFinding(
        number=2,
        text=STUDENT_RIGHT,
        case=case,
        holds=only_student > both,
        reason=f"{only_student:.4g} if only the student is right, {both:.4g} if both are, {only_teacher:.4g} if only "
        "the teacher is: disagreement counts, not who is right. The term is subtracted, so a higher value lowers the "
        "loss: this does not favour the teacher",
        numbers={"only_student_right": only_student, "both_right": both, "only_teacher_right": only_teacher},
    )
