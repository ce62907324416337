"""TCKD, NCKD and the alignment term in closed form: values and gradients from one pass over the logits.

Notation, with R the number of rows, C the number of classes and t the target class: p = softmax(z/T) of the student
and q of the teacher; p̂ and q̂ are the same softmax over the C−1 other classes; Δ = p_t − q_t; u_k = (1+Δ)·p̂_k − q̂_k for
k ≠ t. ω_i is the share of row i in a mean over the rows: its weight divided by the sum of all, 1/R without weights.

The target part is a binary problem with logit d = z_t/T − logsumexp_{k≠t}(z_k/T), so p_t = σ(d). In this form nothing
overflows, and log(1−p_t) keeps its digits when p_t rounds to 1.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from core.distill.logits.alignment import Reduction as Reduction
from core.distill.logits.alignment import reduced, row_power
from core.distill.rows import Rows
from core.distill.terms import Term


class Decoupled:
    """The target part and the non-target part of a batch.

    Args:
        batch: logits (R, C) of student and teacher, targets (R,), and weights if there are any.
        temperature: T > 0.
        min_classes: 3, or 2 for TCKD alone: with one non-target class, NCKD has nothing to compare and is 0.

    Raises:
        ValueError: The shapes do not match, or there are too few classes.
    """

    def __init__(self, batch: Rows, temperature: float, min_classes: int = 3) -> None:
        student, teacher = batch.student32, batch.teacher32
        if student.ndim != 2 or student.shape != teacher.shape or batch.target.shape != student.shape[:1]:
            shapes = f"{tuple(student.shape)}, {tuple(teacher.shape)}, {tuple(batch.target.shape)}"
            raise ValueError(f"expected logits (R, C), (R, C) and targets (R,), got {shapes}")
        if student.shape[1] < min_classes:
            raise ValueError(
                f"NCKD compares non-target classes, so it needs at least 3 classes, not {student.shape[1]}"
            )
        self.temperature = temperature
        self.num_rows, self.num_classes = student.shape
        self._rows, self._index = batch, batch.label.unsqueeze(1)
        # Student and teacher share one tensor: at a batch of 64 the number of operations costs, not their size.
        both, index = torch.cat((student, teacher)).div_(temperature), torch.cat((self._index, self._index))
        at_target = both.gather(1, index)
        log_hat = both.scatter_(1, index, -torch.inf).log_softmax(1)
        # The largest of the other logits minus its log-softmax is the logsumexp of all of them.
        d = at_target.sub_(both.amax(1, keepdim=True)).add_(log_hat.amax(1, keepdim=True)).view(2, 1, -1)
        # p̂ − onehot and q̂ − onehot: with −1 at the target, the gradients below need no correction at the target.
        self._p, self._q = log_hat.exp().scatter_(1, index, -1.0).chunk(2)
        self._log_p_hat, self._log_q_hat = log_hat.scatter_(1, index, 0.0).chunk(2)
        # (network, target or rest, R). σ(−d) is stored too, because 1 − σ(d) has no digits left if d is large.
        self._log_binary = F.logsigmoid(torch.cat((d, -d), 1))
        self._binary = self._log_binary.exp()
        self._p_t, self._p_rest, q_t, q_rest = self._binary.view(4, -1, 1).unbind()
        # Δ = p_t − q_t (R, 1), in a form that keeps its digits when both are near 1. Both products are rounded: a fused
        # one would leave a difference between equal networks, and the gradient of the logarithm divides by it.
        self._delta = (self._p_t * q_rest).sub_(self._p_rest * q_t)

    @functools.cached_property
    def _tckd_direction(self) -> Tensor:
        """Δ·(p̂ − onehot) (R, C); the gradient of TCKD is −T·ω times it."""
        return self._p * self._delta

    @functools.cached_property
    def _nckd_direction(self) -> Tensor:
        """p̂ − q̂ (R, C); the gradient of NCKD is T·ω times it."""
        return self._p - self._q

    def tckd(self) -> Term:
        """Return T²·KL([q_t, 1−q_t] ‖ [p_t, 1−p_t]), averaged over the rows (Zhao et al. 2022, equation 7)."""
        log_p, log_q = self._log_binary.view(2, -1).unbind()
        q, relative = self._binary[1], None if self._rows.weight is None else self._rows.relative_weight
        kl = torch.dot((q if relative is None else q * relative).view(-1), log_q - log_p)
        scale = self.temperature / self.num_rows
        return Term(kl.mul_(self.temperature * scale), self._rows.weigh(self._tckd_direction), -scale)

    def nckd(self) -> Term:
        """Return T²·KL(q̂ ‖ p̂), averaged over the rows (Zhao et al. 2022, equation 7)."""
        kl = torch.dot(self._rows.weigh(self._q).view(-1), (self._log_q_hat - self._log_p_hat).view(-1))
        scale = self.temperature / self.num_rows
        return Term(kl.mul_(self.temperature * scale), self._rows.weigh(self._nckd_direction), scale)

    def teacher_entropy(self) -> Tensor:
        """Return the mean entropy of q̂, in nats."""
        return -self._rows.weigh((self._q * self._log_q_hat).sum(1)).mean()

    def alignment(self, reduction: Reduction, log_floor: float = 0.0) -> Term:
        """Return A, the mean squared difference of the gradients of TCKD and NCKD, without a second backward pass.

        With s_i = Δ² + Σ u_k²: ``sample`` is T²/C·Σ ω_i·s_i; ``batch``, the literal formula on the means over the rows,
        is T²/C·Σ ω_i³·s_i, which without weights is ``sample`` divided by R²; ``log`` is the logarithm of ``sample`` +
        ``log_floor``/Σ ω_i³, and 0 where all weights are.

        Raises:
            ValueError: The reduction is unknown.
        """
        scale = 1 / (self.num_rows * self.num_classes)
        power = row_power(reduction)
        delta, one_plus_delta = self._delta, self._delta + 1
        u = self._nckd_direction + self._tckd_direction  # −Δ at the target, so that the squared norm is s
        value = torch.dot(self._rows.weigh(u, power).view(-1), u.view(-1)).mul_(self.temperature**2 * scale)
        # With m = Σ u_k·p̂_k and w = p_t·(1−p_t), the gradient of s/2 with respect to z/T is p̂·[(1+Δ)·(u−m) − w(Δ+m)]
        # for k ≠ t and w(Δ+m) at the target. ``direction`` is minus that gradient; ``factor`` brings the sign back.
        product = u.mul_(self._p)
        delta_plus_m = product.sum(1, keepdim=True)
        pull = (self._p_t * self._p_rest).mul_(delta_plus_m)
        level = torch.addcmul(pull, one_plus_delta, delta_plus_m - delta)
        direction = (self._p * level).addcmul_(one_plus_delta, product, value=-1).scatter_(1, self._index, -pull)
        direction = self._rows.weigh(direction, power)
        factor = -2 * self.temperature * scale
        return reduced(self._rows, value, direction, factor, reduction, log_floor)

    def similarity(self) -> Tensor:
        """Return the mean over rows of the cosine between a row's TCKD and NCKD gradients.

        The cosine is −sign(Δ)·p̂·(p̂−q̂) / (‖p̂−q̂‖·√(1+‖p̂‖²)). Rows with a zero gradient are skipped; the result is NaN if
        all are, or if all rows that are not have the weight 0.
        """
        norm = self._nckd_direction.norm(dim=1)
        delta = self._delta.squeeze(1)
        # ‖p̂ − onehot‖ is √(1+‖p̂‖²).
        cosine = -delta.sign() * (self._p * self._nckd_direction).sum(1) / (norm * self._p.norm(dim=1))
        defined = (norm > 0) & (delta != 0)
        share = self._rows.share
        mean: Tensor
        if share is None:
            mean = cosine.where(defined, torch.nan).nanmean()
        else:
            mean = (share * cosine.where(defined, 0.0)).sum() / (share * defined).sum()
        return mean
