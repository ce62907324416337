"""TCKD, NCKD and the alignment term in closed form: values and gradients from one pass over the logits.

Notation (B the batch, C the classes, t the target): p = softmax(z/T) of the student, q of the teacher; p̂, q̂ the same
softmax over the C−1 other classes; Δ = p_t − q_t; u_k = (1+Δ)·p̂_k − q̂_k for k ≠ t.

The target part is a binary problem with logit d = z_t/T − logsumexp_{k≠t}(z_k/T): p_t = σ(d). Written so, nothing
overflows and log(1−p_t) keeps its digits where p_t rounds to 1.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core.methods.terms import LogitBatch, Term

Reduction = Literal["batch", "sample", "log"]

LOG_LEAST = 1e-30
"""Below this A_sample counts as zero distance: its logarithm stops here, its gradient is zero there anyway."""


class Decoupled:
    """A batch seen as its target part and its non-target part.

    Raises ValueError with fewer than three classes: a single non-target class has nothing to be compared with.
    """

    def __init__(self, batch: LogitBatch, temperature: float) -> None:
        student, teacher = batch.student32 / temperature, batch.teacher32 / temperature
        if student.ndim != 2 or student.shape != teacher.shape or batch.target.shape != student.shape[:1]:
            shapes = f"{tuple(student.shape)}, {tuple(teacher.shape)}, {tuple(batch.target.shape)}"
            raise ValueError(f"expected logits (B, C), (B, C) and targets (B,), got {shapes}")
        if student.shape[1] < 3:
            raise ValueError(f"NCKD compares non-target classes and needs at least 3 classes, not {student.shape[1]}")
        self.temperature = temperature
        self.batch_size, self.num_classes = student.shape
        self._index = batch.target.unsqueeze(1)
        self._d_student, self._log_p_hat = self._split(student)
        self._d_teacher, self._log_q_hat = self._split(teacher)

    def _split(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The binary logit d (B,), and the log-softmax over the non-target classes (B, C) with 0 at the target."""
        target = logits.gather(1, self._index)
        log_sum = logits.scatter(1, self._index, -torch.inf).logsumexp(1, keepdim=True)
        return (target - log_sum).squeeze(1), (logits - log_sum).scatter_(1, self._index, 0.0)

    @functools.cached_property
    def p_t(self) -> Tensor:
        return self._d_student.sigmoid()

    @functools.cached_property
    def delta(self) -> Tensor:
        """Δ = p_t − q_t (B,), taken of the complements where both are near 1, so that it keeps its digits."""
        near_one = self._d_student > 0
        sign = torch.where(near_one, -1.0, 1.0)
        return sign * ((sign * self._d_student).sigmoid() - (sign * self._d_teacher).sigmoid())

    @functools.cached_property
    def p_hat(self) -> Tensor:
        """p̂ (B, C), 0 at the target."""
        return self._log_p_hat.exp().scatter_(1, self._index, 0.0)

    @functools.cached_property
    def q_hat(self) -> Tensor:
        """q̂ (B, C), 0 at the target."""
        return self._log_q_hat.exp().scatter_(1, self._index, 0.0)

    def tckd(self) -> Term:
        """T²·KL([q_t, 1−q_t] ‖ [p_t, 1−p_t]), averaged over the batch (Zhao et al. 2022, equation 7)."""
        d_s, d_t = self._d_student, self._d_teacher
        q_t = d_t.sigmoid()
        kl = q_t * (F.softplus(-d_s) - F.softplus(-d_t)) + (-d_t).sigmoid() * (F.softplus(d_s) - F.softplus(d_t))
        pull = self.temperature / self.batch_size * self.delta.unsqueeze(1)
        gradient = (self.p_hat * -pull).scatter_(1, self._index, pull)
        return Term(self.temperature**2 * kl.mean(), gradient)

    def nckd(self) -> Term:
        """T²·KL(q̂ ‖ p̂), averaged over the batch (Zhao et al. 2022, equation 7)."""
        kl = torch.linalg.vecdot(self.q_hat, self._log_q_hat - self._log_p_hat)
        gradient = (self.p_hat - self.q_hat).mul_(self.temperature / self.batch_size)
        return Term(self.temperature**2 * kl.mean(), gradient)

    def teacher_entropy(self) -> Tensor:
        """Mean entropy of q̂, nats."""
        return -(self.q_hat * self._log_q_hat).sum(1).mean()

    def alignment(self, reduction: Reduction, log_floor: float = 0.0) -> Term:
        """A, the mean squared difference of the gradients of TCKD and NCKD, without a second backward pass.

        With s_i = Δ² + Σ u_k²: ``sample`` is T²/(B·C)·Σ s_i; ``batch``, the literal formula on the batch means, is that
        divided by B²; ``log`` is the logarithm of ``sample`` (plus ``log_floor``·B²).
        """
        batch, scale = self.batch_size, 1 / (self.batch_size * self.num_classes)
        delta = self.delta.unsqueeze(1)
        u = (self.p_hat * (1 + delta)).sub_(self.q_hat)
        value = self.temperature**2 * scale * (self.delta.square() + torch.linalg.vecdot(u, u)).sum()
        if reduction == "sample":
            reduced, factor = value, torch.ones_like(value)
        elif reduction == "batch":
            reduced, factor = value / batch**2, torch.full_like(value, 1 / batch**2)
        elif reduction == "log":
            floored = (value + log_floor * batch**2).clamp_min(LOG_LEAST)
            reduced, factor = floored.log(), 1 / floored
        else:
            raise ValueError(f"unknown reduction {reduction!r}: batch, sample or log")

        m = torch.linalg.vecdot(u, self.p_hat).unsqueeze(1)
        # w = p_t·(1−p_t), of the binary logit, so that 1−p_t is not a difference from 1.
        w = (self.p_t * (-self._d_student).sigmoid()).unsqueeze(1)
        factor = 2 * self.temperature * scale * factor
        pull = factor * w * (delta + m)
        # −p̂·[w(Δ+m) − (1+Δ)(u−m)] as p̂·[(1+Δ)·u − …], in u's own memory: at C = 1000 a new tensor costs as much as
        # the arithmetic.
        slope = factor * (1 + delta)
        gradient = u.mul_(slope).sub_(slope * m + pull).mul_(self.p_hat).scatter_(1, self._index, pull)
        return Term(reduced, gradient)

    def similarity(self) -> Tensor:
        """Mean over samples of the cosine between a sample's TCKD and NCKD gradients; samples with a zero norm skipped.

        −sign(Δ)·p̂·(p̂−q̂) / (‖p̂−q̂‖·√(1+‖p̂‖²)). NaN where every sample is skipped.
        """
        apart = self.p_hat - self.q_hat
        norm = apart.norm(dim=1)
        cosine = -self.delta.sign() * (self.p_hat * apart).sum(1) / (norm * (1 + self.p_hat.square().sum(1)).sqrt())
        mean: Tensor = cosine.where((norm > 0) & (self.delta != 0), torch.nan).nanmean()
        return mean
