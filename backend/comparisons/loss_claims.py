"""What the author says of the loss itself, computed from its formulas. No run is needed for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.protocol.comparisons import Claim

if TYPE_CHECKING:
    from core.explain import Array

SWAPPED = "The loss is nearly the same with (student, teacher) target probability (0.6, 0.8) as with (0.8, 0.6)."
STUDENT_RIGHT = "The alignment term is higher when the student is right and the teacher wrong."
NEARLY = 0.05
"""What counts as nearly the same: within 5 % of the larger of the two."""
_BACKGROUNDS = 200
_STANDS_OUT = 4.0


@dataclass(frozen=True)
class Setting:
    """What the terms depend on besides the logits."""

    classes: int
    temperature: float


def loss_claims(setting: Setting) -> list[Claim]:
    """Claims 1 and 2, each in the cases between which the answer changes."""
    return [*_swapped(setting), *_student_right(setting)]


def _swapped(setting: Setting) -> list[Claim]:
    import numpy as np

    from core.explain import explain

    rest = setting.classes - 1
    flat = np.full(rest, 1 / rest)
    peaked = np.full(rest, 0.08 / (rest - 1))
    peaked[0] = 0.92

    def terms(p_t: float, q_t: float, p_hat: Array, q_hat: Array) -> tuple[float, float]:
        """TCKD, and s = Δ² + Σu² of which A_sample is T²/C times."""
        logits = [
            setting.temperature * np.log(np.concatenate(([target], (1 - target) * others)))[None]
            for target, others in ((p_t, p_hat), (q_t, q_hat))
        ]
        found = explain(logits[0], logits[1], [0], setting.temperature)
        return found.tckd, found.align_sample * setting.classes / setting.temperature**2

    def claim(case: str, one: float, other: float, why: str) -> Claim:
        apart = abs(one - other) / max(one, other)
        return Claim(
            number=1,
            claim=SWAPPED,
            case=case,
            verdict="holds" if apart <= NEARLY else "does not hold",
            reason=f"{one:.4g} against {other:.4g}, {100 * apart:.1f} % apart; {why}",
            numbers={"student_0.6": one, "student_0.8": other, "apart_percent": 100 * apart},
        )

    tckd = terms(0.6, 0.8, flat, flat)[0], terms(0.8, 0.6, flat, flat)[0]
    equal = terms(0.6, 0.8, peaked, peaked)[1], terms(0.8, 0.6, peaked, peaked)[1]
    sharp = terms(0.6, 0.8, peaked, flat)[1], terms(0.8, 0.6, peaked, flat)[1]
    exact = "they differ by exactly −4|Δ|·p̂·(p̂ − q̂)"
    return [
        claim("alignment term, the non-target classes alike (p̂ = q̂)", *equal, f"{exact}, which is 0 here"),
        claim("alignment term, the student peaked among the non-targets", *sharp, f"{exact}, p̂ peaked and q̂ flat here"),
        claim("TCKD", *tckd, "a KL divergence is not symmetric, whatever the other classes do"),
    ]


def _student_right(setting: Setting) -> list[Claim]:
    import numpy as np

    from core.explain import explain

    def mean(student_right: bool, teacher_right: bool, student_scale: float, teacher_scale: float) -> float:
        """Of s over random backgrounds in which one class stands out."""
        found = []
        for seed in range(_BACKGROUNDS):
            z, v = np.random.default_rng(seed).standard_normal((2, 1, setting.classes))
            z[0, 0 if student_right else 1] += _STANDS_OUT
            v[0, 0 if teacher_right else 1] += _STANDS_OUT
            both = explain(student_scale * z, teacher_scale * v, [0], setting.temperature)
            found.append(both.align_sample * setting.classes / setting.temperature**2)
        return float(np.mean(found))

    return [
        _right_claim("logits of equal scale", lambda s, t: mean(s, t, 1.0, 1.0)),
        _right_claim("a student far flatter than a sure teacher (0.1 and 5 times)", lambda s, t: mean(s, t, 0.1, 5.0)),
    ]


def _right_claim(case: str, mean: Callable[[bool, bool], float]) -> Claim:
    alone, agree, reverse = mean(True, False), mean(True, True), mean(False, True)
    return Claim(
        number=2,
        claim=STUDENT_RIGHT,
        case=case,
        verdict="holds" if alone > agree else "does not hold",
        reason=f"{alone:.4g} where only the student is right, {agree:.4g} where both are, {reverse:.4g} where only the "
        "teacher is: disagreement counts, not who is right. The term is subtracted, so a higher value lowers the loss: "
        "this does not favour the teacher",
        numbers={"only_student_right": alone, "both_right": agree, "only_teacher_right": reverse},
    )
