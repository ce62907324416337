"""The losses, one private module a method (a public one would hide the function of its name). All are pure functions.

``tckd``, ``nckd`` and ``alignment`` are the parts; ``ce``, ``kd``, ``dkd`` and ``dkd_align`` the whole losses, with the
parameters of the catalog as keywords and its defaults. The engine calls what ``build`` gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from core.catalog import METHODS
from core.methods.decoupled import Decoupled, Reduction
from core.methods.terms import LogitBatch, LossTerms, Term, autocast_disabled, with_gradient
from core.specs import MethodChoice

__all__ = [
    "Decoupled",
    "LogitBatch",
    "Loss",
    "LossTerms",
    "Reduction",
    "Term",
    "alignment",
    "build",
    "ce",
    "dist",
    "dkd",
    "dkd_align",
    "dkd_divergence",
    "kd",
    "nckd",
    "nkd",
    "rld",
    "tckd",
]

Loss = Callable[[LogitBatch, int | None], LossTerms]
"""A method with its parameters: (batch, epoch counted from 0 or None for full strength) -> terms."""


def build(method: MethodChoice) -> Loss:
    """The loss that a spec names, its parameters bound."""
    code = METHODS[method.name].load()
    params = method.typed_params

    def loss(batch: LogitBatch, epoch: int | None) -> LossTerms:
        with autocast_disabled(batch):
            terms: LossTerms = code(batch, params, epoch)
        return terms

    return loss


def tckd(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T²·KL([q_t, 1−q_t] ‖ [p_t, 1−p_t]), averaged over the batch.

    Args:
        student_logits, teacher_logits: (B, C); the teacher is a constant.
        target: (B,) class indices.
        temperature: T > 0.

    Returns:
        Scalar. Raises ValueError for shapes that do not fit or fewer than 3 classes.
    """
    return _part(student_logits, teacher_logits, target, temperature, Decoupled.tckd)


def nckd(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T²·KL(q̂ ‖ p̂) over the non-target classes, averaged over the batch; arguments as for ``tckd``."""
    return _part(student_logits, teacher_logits, target, temperature, Decoupled.nckd)


def alignment(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
    reduction: Reduction,
    log_floor: float = 0.0,
) -> Tensor:
    """A, the mean squared difference between the gradients of TCKD and NCKD with respect to the student's logits.

    Args:
        reduction: ``batch``: gradients of the batch means, the literal formula; ``sample``: gradients of each sample's
            own loss (B² times larger); ``log``: the logarithm of ``sample``.
        log_floor: for ``log``, added to the ``batch`` value inside the logarithm.

    Returns:
        Scalar; other arguments and errors as for ``tckd``.
    """
    return _part(
        student_logits, teacher_logits, target, temperature, lambda parts: parts.alignment(reduction, log_floor)
    )


def _part(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, choose: Callable[[Decoupled], Term]
) -> Tensor:
    batch = LogitBatch(student, teacher, target)
    with autocast_disabled(batch):
        term = choose(Decoupled(batch, temperature))
    return with_gradient(student, term.value, term.gradient)


def ce(student_logits: Tensor, teacher_logits: Tensor | None, target: Tensor) -> Tensor:
    """Mean cross-entropy with the labels; the teacher's logits are not read."""
    return _whole("ce", student_logits, teacher_logits, target, None, {})


def kd(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    """Hinton's KD with its cross-entropy; parameters of ``core.catalog.methods.KDParams``."""
    return _whole("kd", student_logits, teacher_logits, target, None, params)


def dkd(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, epoch: int | None = None, **params: Any
) -> Tensor:
    """w_CE·CE + r(e)·[α·TCKD + β·NCKD]; parameters of ``core.catalog.methods.DKDParams``.

    ``epoch`` counts from 0 and moves the ramp; None means full strength. ``ce_weight=0`` leaves the distillation alone.
    """
    return _whole("dkd", student_logits, teacher_logits, target, epoch, params)


def dkd_align(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, epoch: int | None = None, **params: Any
) -> Tensor:
    """w_CE·CE + r(e)·[α·TCKD + β·NCKD − ε·d(e)·A]; parameters of ``core.catalog.methods.DKDAlignParams``.

    ``reduction`` and one of ``epsilon`` and ``epsilon_share`` must be given; ``epoch`` as for ``dkd``.
    """
    return _whole("dkd_align", student_logits, teacher_logits, target, epoch, params)


def dkd_divergence(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, epoch: int | None = None, **params: Any
) -> Tensor:
    """DKD plus μ·MSE(p_t, q_t) + ε·MSE(p − p_t, q − q_t); parameters of ``DKDDivergenceParams``."""
    return _whole("dkd_divergence", student_logits, teacher_logits, target, epoch, params)


def dist(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    """DIST with its cross-entropy; parameters of ``core.catalog.methods.DISTParams``."""
    return _whole("dist", student_logits, teacher_logits, target, None, params)


def nkd(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, **params: Any) -> Tensor:
    """NKD with its cross-entropy; parameters of ``core.catalog.methods.NKDParams``."""
    return _whole("nkd", student_logits, teacher_logits, target, None, params)


def rld(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, epoch: int | None = None, **params: Any
) -> Tensor:
    """RLD with its cross-entropy; parameters of ``core.catalog.methods.RLDParams``, ``epoch`` as for ``dkd``."""
    return _whole("rld", student_logits, teacher_logits, target, epoch, params)


def _whole(
    name: str, student: Tensor, teacher: Tensor | None, target: Tensor, epoch: int | None, params: dict[str, Any]
) -> Tensor:
    return build(MethodChoice(name=name, params=params))(LogitBatch(student, teacher, target), epoch).total
