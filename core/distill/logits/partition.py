"""The distributions of a row over groups of classes, and within each group: GDKD's partition.

Notation: x = z/T; P_g is the probability of group g, and p̂_k that of class k within its group, of the student; Q_g and
q̂_k are the teacher's. DKD is the partition into the target and the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.distill.logits.alignment import RowTerm
from core.distill.rows import Rows


class Partition:
    """The softened distributions of both networks, split by groups of classes.

    Args:
        batch: the rows.
        temperature: T > 0.
        chosen: (R, size) each, the classes of each group but the last in each row. No class is in two of them.

    The last group has all other classes, and is not empty.

    Attributes:
        log_q: (R, groups), the logarithm of Q.
    """

    def __init__(self, batch: Rows, temperature: float, chosen: Sequence[Tensor]) -> None:
        self._temperature, self._chosen = temperature, chosen
        # Student and teacher share one tensor: at a batch of 64 the number of operations costs, not their size.
        both = torch.cat((batch.student32, batch.teacher32)).div_(temperature)
        self._index = torch.cat(list(chosen), 1) if len(chosen) > 1 else chosen[0]
        index = torch.cat((self._index, self._index))
        inside = list(torch.split(both.gather(1, index), [group.shape[1] for group in chosen], 1))
        inside.append(both.scatter_(1, index, -torch.inf))
        logs = [values.log_softmax(1) for values in inside]
        # The largest logit minus its log-softmax is the logsumexp of all of them. Large logits are subtracted from each
        # other first, so that the digits of small differences are kept.
        largest = torch.stack([values.amax(1) for values in inside], 1)
        levels = largest - largest.amax(1, keepdim=True) - torch.stack([values.amax(1) for values in logs], 1)
        self._log_p, self.log_q = levels.log_softmax(1).chunk(2)
        hats = [values.exp() for values in logs]
        logs[-1].scatter_(1, index, 0.0)
        self._log_p_hat, self._log_q_hat = zip(*(values.chunk(2) for values in logs), strict=True)
        self._p_hat, self._q_hat = zip(*(values.chunk(2) for values in hats), strict=True)

    def between(self, log_q: Tensor | None = None) -> RowTerm:
        """Return T²·KL(Q ‖ P): gradient T·(P_g − Q_g)·p̂_k for k in group g.

        Args:
            log_q: (R, groups), the logarithm of another Q than the teacher's over these groups.
        """
        log_q = self.log_q if log_q is None else log_q
        p, q = self._log_p.exp(), log_q.exp()
        # P − Q in a form that keeps its digits where one group has nearly all the probability.
        product = p.unsqueeze(2) * q.unsqueeze(1)
        excess = (product - product.transpose(1, 2)).sum(2)

        def curvature(directions: Tensor) -> Tensor:
            """Return p̂_k·[P_g·(m_g − m̄) + (P_g − Q_g)·(v_k − m_g)], with m_g = Σ p̂·v in g and m̄ = Σ P_g·m_g."""
            inside = self._weighted(self._divided(directions))
            means = torch.stack([values.sum(1) for values in inside], 1)
            level = p * (means - (p * means).sum(1, keepdim=True)) - excess * means
            moved = zip(self._weighted(_columns(level)), inside, _columns(excess), strict=True)
            return self._joined([own + pull * values for own, values, pull in moved])

        values = self._temperature**2 * (q * (log_q - self._log_p)).sum(1)
        return RowTerm(values, self._joined(self._weighted(_columns(excess))), curvature, self._temperature)

    def within(self, group: int) -> RowTerm:
        """Return T²·KL(q̂ ‖ p̂) within a group: gradient T·(p̂_k − q̂_k) for k in it."""
        p, q = self._p_hat[group], self._q_hat[group]
        divergence = (q * (self._log_q_hat[group] - self._log_p_hat[group])).sum(1)

        def curvature(directions: Tensor) -> Tensor:
            inside = p * self._divided(directions)[group]
            return self._placed(inside - p * inside.sum(1, keepdim=True), group)

        return RowTerm(self._temperature**2 * divergence, self._placed(p - q, group), curvature, self._temperature)

    def _divided(self, values: Tensor) -> list[Tensor]:
        """Return values (R, C) by group; the last group has all classes."""
        return [*(values.gather(1, classes) for classes in self._chosen), values]

    def _weighted(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return values by group times p̂, which is 0 in the last group for classes that are not in it."""
        return [p * each for p, each in zip(self._p_hat, values, strict=True)]

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        """Return values (R, C) from those by group; the last is changed in place."""
        *chosen, rest = values
        return rest.scatter_(1, self._index, torch.cat(chosen, 1) if len(chosen) > 1 else chosen[0])

    def _placed(self, values: Tensor, group: int) -> Tensor:
        """Return values of a group as (R, C), with 0 outside of it."""
        if group in (len(self._chosen), -1):
            return values
        return torch.zeros_like(self._p_hat[-1]).scatter_(1, self._chosen[group], values)


def _columns(values: Tensor) -> list[Tensor]:
    """Return values (R, groups) as (R, 1) each."""
    return list(torch.split(values, 1, 1))


def within_members(batch: Rows, temperature: float, members: Tensor) -> RowTerm:
    """Return T²·KL(q̂ ‖ p̂) over some classes of each row; 0 where a row has none.

    Args:
        batch: the rows.
        temperature: T > 0.
        members: (R, C), bool, the classes.
    """
    some = members.any(1, keepdim=True)
    outside = ~members & some  # a softmax over no class has no numbers, so it is computed over all and then left out
    log_p, log_q = (
        F.log_softmax((side / temperature).masked_fill(outside, -torch.inf), dim=1).masked_fill(~members, 0.0)
        for side in (batch.student32, batch.teacher32)
    )
    p, q = (torch.where(members, side.exp(), 0.0) for side in (log_p, log_q))

    def curvature(directions: Tensor) -> Tensor:
        inside = p * directions
        return inside - p * inside.sum(1, keepdim=True)

    return RowTerm(temperature**2 * (q * (log_q - log_p)).sum(1), p - q, curvature, temperature)


def top_groups(logits: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Return groups of classes by the rank of their logits: the first ``sizes[0]``, the next ``sizes[1]`` …

    Args:
        logits: (R, C).
        sizes: the sizes of the groups, whose sum is less than C.
    """
    return tuple(torch.split(logits.topk(sum(sizes), dim=1).indices, list(sizes), 1))
