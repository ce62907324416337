"""The distillation losses, all pure functions of tensors.

``tckd``, ``nckd`` and ``alignment`` are single terms. ``ce``, ``kd``, ``dkd``, ``dkd_align`` and the others are
complete losses, whose keywords are the parameters of the catalog with its defaults. Their code is in ``core.distill``.

All take ``weight`` (B,), finite and not negative: the weights of the rows in every mean over the batch (docs/method.md,
"Weights of rows"). A row of weight 0 counts for nothing, whatever its logits and target are; if all weights are 0, the
loss and its gradient are 0. None gives every row the weight 1. Weights that are not finite or negative are refused on
the CPU; on a GPU they are not checked, because the host would have to wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from core.catalog import METHODS
from core.distill.logits.decoupled import Decoupled, Reduction
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.distill.terms import Term, autocast_disabled, with_gradient
from core.specs import MethodRef

__all__ = [
    "abkd",
    "alignment",
    "ce",
    "dist",
    "dkd",
    "dkd_align",
    "dkd_divergence",
    "gdkd",
    "gdkd3",
    "kd",
    "ldrld",
    "nckd",
    "nkd",
    "pcd",
    "rld",
    "skd",
    "tckd",
]


def tckd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    """Return target-class distillation (TCKD): T²·KL([q_t, 1−q_t] ‖ [p_t, 1−p_t]), averaged over the batch.

    Zhao et al. 2022, equation 7; p is the student's softmax at temperature T, q the teacher's.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C), a constant.
        target: (B,) class indices.
        temperature: T > 0.
        weight: (B,), the weights of the rows; None if all are 1.

    Returns:
        Scalar.

    Raises:
        ValueError: The shapes do not match, or a weight is negative or not finite.
    """
    return _single_term(_rows(student_logits, teacher_logits, target, weight), temperature, Decoupled.tckd, 2)


def nckd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    """Return non-target-class distillation (NCKD): T²·KL(q̂ ‖ p̂) over the other classes, averaged over the batch.

    Zhao et al. 2022, equation 7. Arguments, result and errors are those of ``tckd``; fewer than 3 classes are an error
    too, because one non-target class has nothing to be compared with.
    """
    return _single_term(_rows(student_logits, teacher_logits, target, weight), temperature, Decoupled.nckd)


def alignment(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
    reduction: Reduction,
    log_floor: float = 0.0,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    """Return A, the mean squared difference between the gradients of TCKD and NCKD at the student's logits.

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C), a constant.
        target: (B,) class indices.
        temperature: T > 0.
        reduction: ``batch`` takes the gradients of the batch means, which is the literal formula; ``sample`` takes the
            gradients of the loss of each sample (B² times larger); ``log`` is the logarithm of ``sample``.
        log_floor: added to the ``batch`` value inside the logarithm if the reduction is ``log``.
        weight: (B,), the weights of the rows; None if all are 1.

    Returns:
        Scalar.

    Raises:
        ValueError: The shapes do not match, there are fewer than 3 classes, the reduction is unknown, or a weight is
            negative or not finite.
    """
    batch = _rows(student_logits, teacher_logits, target, weight)
    return _single_term(batch, temperature, lambda parts: parts.alignment(reduction, log_floor))


def _single_term(batch: Rows, temperature: float, choose: Callable[[Decoupled], Term], min_classes: int = 3) -> Tensor:
    with autocast_disabled(batch):
        term = choose(Decoupled(batch, temperature, min_classes))
    return with_gradient(batch.student, term.value, term.gradient)


def _rows(student: Tensor, teacher: Tensor | None, target: Tensor, weight: Tensor | None) -> Rows:
    """Return the batch, with its weights checked if that needs no waiting for a device.

    Raises:
        ValueError: A weight is negative or not finite, or the weights do not have the shape of the targets.
    """
    if weight is not None and weight.device.type == "cpu" and not ((weight >= 0) & (weight < torch.inf)).all():
        raise ValueError("the weights of the rows must be finite and not negative")
    return Rows(student, teacher, target, weight)


def ce(
    student_logits: Tensor, teacher_logits: Tensor | None, target: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy with the labels. The teacher's logits are ignored."""
    return _complete_loss("ce", _rows(student_logits, teacher_logits, target, weight), None, {})


def kd(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, weight: Tensor | None = None, **params: Any
) -> Tensor:
    """Return KD (Hinton et al. 2015) with cross-entropy; keywords are those of ``core.catalog.methods.KDParams``."""
    return _complete_loss("kd", _rows(student_logits, teacher_logits, target, weight), None, params)


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    epoch: int | None = None,
    weight: Tensor | None = None,
    **params: Any,
) -> Tensor:
    """Return DKD (Zhao et al. 2022): w_CE·CE + r(e)·[α·TCKD + β·NCKD].

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C), a constant.
        target: (B,) class indices.
        epoch: counts from 0 and sets the ramp r(e); None means full strength.
        weight: (B,), the weights of the rows; None if all are 1.
        params: see ``core.catalog.methods.DKDParams``. ``ce_weight=0`` returns the distillation alone.
    """
    return _complete_loss("dkd", _rows(student_logits, teacher_logits, target, weight), epoch, params)


def dkd_align(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    epoch: int | None = None,
    weight: Tensor | None = None,
    **params: Any,
) -> Tensor:
    """Return DKD-Align: w_CE·CE + r(e)·[α·TCKD + β·NCKD − ε·d(e)·A].

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C), a constant.
        target: (B,) class indices.
        epoch: counts from 0 and sets the ramp r(e) and the decay d(e); None means full strength.
        weight: (B,), the weights of the rows; None if all are 1.
        params: see ``core.catalog.methods.DKDAlignParams``. ``reduction`` and one of ``epsilon`` and ``epsilon_share``
            are required.
    """
    return _complete_loss("dkd_align", _rows(student_logits, teacher_logits, target, weight), epoch, params)


def dkd_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    epoch: int | None = None,
    weight: Tensor | None = None,
    **params: Any,
) -> Tensor:
    """Return DKD plus μ·MSE(p_t, q_t) + ε·MSE(p − p_t, q − q_t); keywords are those of ``DKDDivergenceParams``."""
    return _complete_loss("dkd_divergence", _rows(student_logits, teacher_logits, target, weight), epoch, params)


def dist(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, weight: Tensor | None = None, **params: Any
) -> Tensor:
    """Return DIST with cross-entropy; keywords are those of ``core.catalog.methods.DISTParams``."""
    return _complete_loss("dist", _rows(student_logits, teacher_logits, target, weight), None, params)


def nkd(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, weight: Tensor | None = None, **params: Any
) -> Tensor:
    """Return NKD with cross-entropy; keywords are those of ``core.catalog.methods.NKDParams``."""
    return _complete_loss("nkd", _rows(student_logits, teacher_logits, target, weight), None, params)


def rld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    epoch: int | None = None,
    weight: Tensor | None = None,
    **params: Any,
) -> Tensor:
    """Return RLD with cross-entropy; keywords as in ``core.catalog.methods.RLDParams``, ``epoch`` as in ``dkd``."""
    return _complete_loss("rld", _rows(student_logits, teacher_logits, target, weight), epoch, params)


def _method(name: str) -> Callable[..., Tensor]:
    """Return a method of the catalog as a function, with the arguments of ``dkd``."""
    entry = METHODS[name]

    def loss(
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor,
        *,
        epoch: int | None = None,
        weight: Tensor | None = None,
        **params: Any,
    ) -> Tensor:
        return _complete_loss(name, _rows(student_logits, teacher_logits, target, weight), epoch, params)

    loss.__name__ = loss.__qualname__ = name
    loss.__doc__ = (
        f"Return {entry.title} ({entry.source}) with its cross-entropy.\n\n{entry.summary}\n\nKeywords are those of "
        f"``{entry.params.__module__}.{entry.params.__name__}``; ``epoch`` is as in ``dkd``."
    )
    return loss


abkd = _method("abkd")
gdkd = _method("gdkd")
gdkd3 = _method("gdkd3")
ldrld = _method("ldrld")
pcd = _method("pcd")
skd = _method("skd")


def _complete_loss(name: str, batch: Rows, epoch: int | None, params: dict[str, Any]) -> Tensor:
    return build_loss(MethodRef(name=name, params=params))(batch, epoch).total
