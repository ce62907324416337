"""WKD-L (Lv et al. 2024): w_CE·CE − q_t·log p_t + λ(e)·W.

The second term has temperature 1. W is the Wasserstein distance between p̂ and q̂, the softened distributions of student
and teacher over the non-target classes. Its cost is c_ij = 1 − exp(−κ·(1 − s_ij)), where s_ij says how similar the
classes i and j are for the teacher. Sinkhorn's algorithm with K = exp(−c/η) gives the plan u_i·K_ij·v_j from

    u = 1/(C − 1) ;   v = q̂ / (Kᵀu + 1e-8) ,   u = p̂ / (K·v + 1e-8)   several times ;   W = Σ u_i·K_ij·c_ij·v_j .

The gradient passes through the iterations. λ(e) is λ up to an epoch, and then falls to 0 along a cosine.

s is computed once, before the first step. Let the rows of X_i, centred by column, be the teacher's features of n
training samples of class i, in the order of the data set. Linear CKA is s_ij = ‖X_iᵀX_j‖² / (‖X_iᵀX_i‖·‖X_jᵀX_j‖) with
Frobenius norms. It depends on which samples of two classes are paired: the n-th of each. The authors' code computes it
from each position of the last maps for CIFAR-100, and from the logits for ImageNet; it also offers 1 − cosine of the
classifier's weights.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from core.catalog.methods.wkd_l import WKDLParams
from core.catalog.taps import FEATURES
from core.distill.logits.nkd import soft_target
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, Term, autocast_disabled, autograd_term, compose, label_term, with_gradient

_GUARD = 1e-8
"""Added to the denominators of Sinkhorn's algorithm, as in the authors' code."""


class WKDL(Objective):
    """WKD-L, whose costs between classes are a buffer.

    Args:
        params: The parameters.
        setting: Gives the teacher's classifier, or its outputs for training samples.

    Raises:
        ObjectiveError: The teacher has no such classifier, or a class has too few samples.
    """

    scope = "batch"  # as every method of logits alone, so that shares are those of the whole batch

    cost: Tensor

    def __init__(self, params: WKDLParams, setting: Setting) -> None:
        super().__init__()
        self._params = params
        similarity = classifier_similarity(setting) if params.cost == "classifier" else class_cka(setting, params)
        cost = 1 - (-params.sharpness * (1 - similarity).clamp_min(0)).exp()
        self.register_buffer("cost", cost.float())

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        with autocast_disabled(step.rows):
            return self._loss(step.rows, step.epoch)

    def _loss(self, rows: Rows, epoch: int | None) -> LossTerms:
        params = self._params
        weighted = {
            "ce": (params.ce_weight, label_term(rows)),
            "soft_target": (1.0, soft_target(rows)),
            "transport": (params.transport_weight * decay(params, epoch), self._transport(rows)),
        }
        parts = {
            name: with_gradient(rows.student, weight * term.value, weight * term.gradient)
            for name, (weight, term) in weighted.items()
        }
        return replace(compose(rows, {}, weighted), parts=parts)

    def _transport(self, rows: Rows) -> Term:
        """Return W, averaged over the rows."""
        params, index = self._params, rows.label.unsqueeze(1)
        cost = self.cost.to(rows.student32.dtype)
        kernel = (-cost / params.entropy).exp()
        moved = kernel * cost

        def others(logits: Tensor) -> Tensor:
            return F.softmax((logits / params.temperature).scatter(1, index, -torch.inf), dim=1)

        q = others(rows.teacher32)

        def value(student: Tensor) -> Tensor:
            p = others(student)
            u = torch.full_like(p, 1 / (p.shape[1] - 1)).scatter(1, index, 0.0)
            v = u
            for _ in range(params.iterations):
                v = q / (u @ kernel + _GUARD)
                u = p / (v @ kernel.T + _GUARD)
            return rows.weigh((u * (v @ moved.T)).sum(1)).mean()

        return autograd_term(value, rows.student32)


def decay(params: WKDLParams, epoch: int | None) -> float:
    """Return λ(e)/λ in an epoch, counted from 0; 1 if no epoch is given."""
    if epoch is None or not params.decay_end:
        return 1.0
    passed = (epoch + 1 - params.decay_start) / (params.decay_end - params.decay_start)
    return 0.5 * (1 + math.cos(math.pi * min(max(passed, 0.0), 1.0)))


def classifier_similarity(setting: Setting) -> Tensor:
    """Return the cosines between the rows of the teacher's last linear layer (C, C).

    Raises:
        ObjectiveError: The teacher has no last linear layer.
    """
    assert setting.teacher is not None
    linear = setting.teacher.linear
    if linear is None:
        raise ObjectiveError("cost: the teacher has no last linear layer; take features or logits")
    rows = F.normalize(linear.weight.detach().double(), dim=1).cpu()
    return rows @ rows.T


def class_cka(setting: Setting, params: WKDLParams) -> Tensor:
    """Return the linear CKA between the teacher's features or logits of two classes (C, C).

    Raises:
        ObjectiveError: The teacher cannot be asked for them, or a class has fewer than two samples.
    """
    assert setting.teacher is not None
    if setting.labels is None or setting.teacher_outputs is None:
        raise ObjectiveError(f"cost: {params.cost} of the teacher are not to be had here; take classifier")
    classes = setting.teacher.num_classes
    labels = setting.labels.cpu()
    count = min(params.cost_samples, int(torch.bincount(labels, minlength=classes).min()))
    if count < 2:
        raise ObjectiveError("cost: a class has fewer than two training samples; take classifier")
    # The indices of the first samples of each class: a stable sort keeps their order.
    order = torch.split(labels.argsort(stable=True), torch.bincount(labels, minlength=classes).tolist())
    index = torch.stack([members[:count] for members in order]).view(-1)
    outputs = setting.teacher_outputs((FEATURES,) if params.cost == "features" else (), index)
    chosen = outputs.taps[FEATURES] if params.cost == "features" else outputs.logits
    return linear_cka(chosen.view(classes, count, -1))


def linear_cka(features: Tensor) -> Tensor:
    """Return the linear CKA of each pair of matrices (C, C) in float64 on the CPU; 0 where one has no variance.

    ‖X_iᵀX_j‖² is the product of the Gram matrices X_iX_iᵀ and X_jX_jᵀ, which are computed once for each class.

    Args:
        features: (C, n, D).
    """
    grams = []
    for rows in features:
        centred = rows.double() - rows.double().mean(0)
        gram = (centred @ centred.T).flatten()
        grams.append(gram / gram.norm().clamp_min(torch.finfo(gram.dtype).tiny))
    stacked = torch.stack(grams)
    return (stacked @ stacked.T).fill_diagonal_(1.0).cpu()
